"""A device that changes its speed after widths were allocated."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import pipeline
from edgeprune.devices.protocol import Answer, Request
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.job import load_job
from edgeprune.report.console import Console

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Drifting(SimulatedDevice):
    """Finished models cost 4 % more than the same widths did while they were allocated.

    Whatever is measured beside them costs `speed` of what it did.
    """

    speed = 1.0

    def ask(self, request: Request) -> Answer:
        answer = super().ask(request)
        finished = [Path(asked.file).name.endswith("slim.onnx") for asked in request.models]
        if not any(finished):
            return answer
        factors = [self.speed * (1.04 if slim else 1.0) for slim in finished]
        models = tuple(
            answered.model_copy(update={"values": tuple(f * v for v in answered.values)})
            for f, answered in zip(factors, answer.models, strict=True)
        )
        return answer.model_copy(update={"models": models})


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
    reached = result.verdict.budget.reached
    assert result.plan.corrected * 1.04 * speed == pytest.approx(reached, rel=1e-6)
    again = pipeline.run(
        settings, model, data, device, out, resume=True, console=Console(quiet=True)
    )
    assert again.plan == result.plan
    assert again.verdict == result.verdict
