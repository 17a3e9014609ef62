"""A device that changes its speed after widths were allocated."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from edgeprune import pipeline
from edgeprune.devices.protocol import Answer, Request
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import BudgetError
from edgeprune.job import load_job
from edgeprune.records import OtherAttempt
from edgeprune.report.console import Console

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Drifting(SimulatedDevice):
    """Finished models cost `factor` of what the same widths did while they were allocated.

    Whatever is measured beside them costs `speed` of what it did.
    """

    factor = 1.04
    speed = 1.0

    def ask(self, request: Request) -> Answer:
        answer = super().ask(request)
        finished = [Path(asked.file).name.endswith("slim.onnx") for asked in request.models]
        if not any(finished):
            return answer
        factors = [self.speed * (self.factor if slim else 1.0) for slim in finished]
        models = tuple(
            answered.model_copy(update={"values": tuple(f * v for v in answered.values)})
            for f, answered in zip(factors, answer.models, strict=True)
        )
        return answer.model_copy(update={"models": models})


@pytest.mark.slow
@pytest.mark.parametrize("speed", [1.0, 0.8])
def test_a_missed_budget_is_tried_once_more(
    speed: float, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget is half of the dense cost: a share, whatever the speed was meanwhile."""
    settings = load_job(job)
    model, data = pipeline.load(settings, job.parent)
    device = Drifting(load_spec(str(job.with_name("exact.toml"))))
    device.speed = speed
    out = tmp_path / "out"
    result = pipeline.run(settings, model, data, device, out, console=Console(quiet=True))
    assert result.verdict.budget.met
    assert result.verdict.budget.reached >= 0.93 * result.verdict.budget.limit
    assert "trying once more" in capsys.readouterr().err
    assert (out / ".run" / "again-9-verify.json").exists()
    first = json.loads((out / ".run" / "9-verify.json").read_text())["result"]["verdict"]["budget"]
    share = first["reached"] / first["limit"]
    assert result.verdict.other_attempt == OtherAttempt(number=1, share=share)
    for name in ("README.md", "report.html"):
        text = html.unescape((out / name).read_text()).replace("\N{NO-BREAK SPACE}", " ")
        assert f"second attempt: the first one's cost {100 * share:.1f} % of the budget" in text
    reached = result.verdict.budget.reached
    assert result.plan.corrected * 1.04 * speed == pytest.approx(reached, rel=1e-6)
    again = pipeline.run(
        settings, model, data, device, out, resume=True, console=Console(quiet=True)
    )
    assert again.plan == result.plan
    assert again.verdict == result.verdict


@pytest.mark.slow
def test_a_finished_model_is_kept_where_a_tighter_budget_cannot_be_reached(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_job(job)
    model, data = pipeline.load(settings, job.parent)
    device, quiet = Drifting(load_spec(str(job.with_name("exact.toml")))), Console(quiet=True)
    with pytest.raises(BudgetError) as caught:
        pipeline.plan_only(settings.with_overrides(budget="1%"), model, data, device, quiet)
    told = re.search(r"ask for at least (\d+%)", caught.value.hint)
    assert told is not None
    device.factor = 1.5
    least, out = settings.with_overrides(budget=told[1]), tmp_path / "out"
    result = pipeline.run(least, model, data, device, out, console=quiet)
    assert not result.verdict.budget.met
    assert result.plan.corrected <= result.verdict.budget.limit, "as planned it was within"
    assert "no second attempt" in capsys.readouterr().err
    assert (out / "model.onnx").exists()


@pytest.mark.slow
def test_an_allocator_that_reaches_no_less_is_not_asked_twice(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = job.read_text().replace("[prune]", '[prune]\nallocation = "layer_adaptive"')
    assert "layer_adaptive" in text
    job.write_text(text)
    settings = load_job(job).with_overrides(budget="9%")
    model, data = pipeline.load(settings, job.parent)
    device, out = SimulatedDevice(load_spec(str(job.with_name("exact.toml")))), tmp_path / "out"
    result = pipeline.run(settings, model, data, device, out, console=Console(quiet=True))
    assert not result.verdict.budget.met
    told = " ".join(capsys.readouterr().err.split())
    assert "allocation layer_adaptive finds no plan within the budget" in told
    assert "changed its speed" not in told
    assert not list((out / ".run").glob("again-*"))
