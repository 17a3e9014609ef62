"""What a run finds when it goes on: another environment, a cache that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import pipeline
from edgeprune.devices.protocol import Answer, Request
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import ResumeError
from edgeprune.job import load_job
from edgeprune.report.console import Console

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Versioned(SimulatedDevice):
    """A device whose runtime has a version."""

    version = "1.0"

    def ask(self, request: Request) -> Answer:
        answer = super().ask(request)
        said = answer.environment
        said = said.model_copy(
            update={
                "facts": {**said.facts, "runtime": self.version},
                "comparable": (*said.comparable, "runtime"),
            }
        )
        return answer.model_copy(update={"environment": said})


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_runtime(job: Path, tmp_path: Path) -> None:
    settings = load_job(job)
    model, data = pipeline.load(settings, job.parent)
    device, out = Versioned(load_spec(str(job.with_name("exact.toml")))), tmp_path / "out"

    def run() -> pipeline.Result:
        return pipeline.run(
            settings, model, data, device, out, resume=True, console=Console(quiet=True)
        )

    first = run()
    verdict = out / ".run" / "9-verify.json"
    verdict.unlink()
    device.version = "1.1"
    with pytest.raises(ResumeError, match=r"not what it was when the run began(.|\n)*1\.0.*1\.1"):
        run()
    assert not verdict.exists()
    device.version = "1.0"
    assert run().plan == first.plan
    assert verdict.exists()


def test_a_cache_that_cannot_be_written_costs_no_work(
    job: Path, inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = inside("sensitivity", job, "--device", job.with_name("exact.toml"))
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert told.count("nothing is kept for later jobs: cannot write") == 1
    assert "is a file, not a folder; XDG_CACHE_HOME may name another folder" in told


@pytest.mark.slow
def test_sums_of_scores_are_not_called_losses(job: Path, inside) -> None:  # type: ignore[no-untyped-def]
    text = job.read_text().replace("[prune]", '[prune]\nimportance = "l2"\nloss = "importance"')
    job.write_text(text)
    done = inside("plan", job, "--device", job.with_name("exact.toml"))
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "summed scores of the channels that go" in told
    assert "of score" in told
    assert "BatchNorm recalibrated" not in told


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_frozen_layers(
    job: Path, edgeprune, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """What they were recovered to is another model, though weights and code are the same."""
    model, out = job.with_name("model.py"), tmp_path / "out"
    free = model.read_text()
    words = ("run", job, "--device", job.with_name("exact.toml"), "--out", out, "--resume")
    assert edgeprune(*words).returncode == 0
    (out / ".run" / "9-verify.json").unlink()
    stages = sorted(path.name for path in (out / ".run").glob("*.json"))
    model.write_text(
        f"{free}\nfree = build\ndef build():\n    m = free()\n    m[0].requires_grad_(False)\n    return m\n"
    )
    refused = edgeprune(*words)
    assert refused.returncode == 2
    told = " ".join(refused.stderr.split())
    assert "frozen parameters: was none, is 1 of 11 (" in told
    assert told.count(": was ") == 1, "nothing else changed"
    assert stages == sorted(path.name for path in (out / ".run").glob("*.json"))
    model.write_text(free)
    again = edgeprune(*words)
    assert again.returncode == 0
    assert "recover: finished earlier, skipped" in again.stderr
