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
    """Finished models cost 4 % more than the same widths did while they were allocated."""

    def ask(self, request: Request) -> Answer:
        answer = super().ask(request)
        models = tuple(
            answered.model_copy(update={"values": tuple(1.04 * v for v in answered.values)})
            if Path(asked.file).name.endswith("slim.onnx")
            else answered
            for asked, answered in zip(request.models, answer.models, strict=True)
        )
        return answer.model_copy(update={"models": models})


def test_a_missed_budget_is_tried_once_more(job: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    settings = load_job(job)
    model, data = pipeline.load(settings, job.parent)
    device = Drifting(load_spec(str(job.with_name("exact.toml"))))
    out = tmp_path / "out"
    result = pipeline.run(settings, model, data, device, out, console=Console(quiet=True))
    assert result.verdict.budget.met
    assert result.verdict.budget.reached >= 0.93 * result.verdict.budget.limit
    assert "trying once more" in capsys.readouterr().err
    assert (out / ".run" / "again-9-verify.json").exists()
    assert result.plan.corrected * 1.04 == pytest.approx(result.verdict.budget.reached, rel=1e-6)
    again = pipeline.run(
        settings, model, data, device, out, resume=True, console=Console(quiet=True)
    )
    assert again.plan == result.plan
    assert again.verdict == result.verdict
