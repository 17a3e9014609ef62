from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgeprune.devices.spec import load_spec
from edgeprune.report.console import Console
from edgeprune.stages.base import _tell_of_another_speed


@pytest.mark.parametrize(
    ("device", "before", "now", "told"),
    [
        ("mobile_cpu", 820.0, 667.0, True),
        ("mobile_cpu", 667.0, 820.0, True),
        ("mobile_cpu", 650.0, 667.0, False),
        ("simulated", 820.0, 667.0, False),
    ],
)
def test_a_dense_model_that_costs_another_time_than_profiled_is_told(
    device: str, before: float, now: float, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile taken beside other programs: its microseconds are not those of the verdict."""
    run = SimpleNamespace(
        device=SimpleNamespace(spec=load_spec(device)), console=Console(quiet=True)
    )
    _tell_of_another_speed(run, before, now)
    words = capsys.readouterr().err
    assert ("warning: the dense model took" in words) is told
    if told:
        assert f"took {before:.0f} µs" in words
        assert f"{now:.0f} µs in the verdict" in " ".join(words.split())
