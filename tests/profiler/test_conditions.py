from __future__ import annotations

import pytest

from edgeprune.profiler.conditions import warnings_about, worst
from edgeprune.records import Environment


def environment(**facts: str) -> Environment:
    calm = {"others_busy": "0.01", "stolen": "0.00", "governor": "performance", "threads": "1"}
    return Environment(facts={**calm, **facts}, comparable=("threads",))


STEADY = [[10.0] * 20, [10.3] * 20]


def test_a_calm_machine_needs_no_warning() -> None:
    assert warnings_about(STEADY, [environment(), environment()], measured=True) == ()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"others_busy": "0.80"}, "kept 0.80 processors busy"),
        ({"stolen": "0.20"}, "took away 0.20 processors"),
        ({"governor": "powersave"}, "governor powersave"),
    ],
)
def test_what_disturbs_is_named(facts: dict[str, str], words: str) -> None:
    found = warnings_about(STEADY, [environment(), environment(**facts)], measured=True)
    assert [words in warning for warning in found] == [True]
    assert warnings_about(STEADY, [environment(**facts)], measured=False) == ()


def test_what_the_device_does_not_tell_is_not_guessed() -> None:
    silent = environment(others_busy="unknown", stolen="unknown", governor="unknown")
    assert warnings_about(STEADY, [silent], measured=True) == ()
    assert worst([silent]) == silent


def test_changes_of_speed_between_and_within_processes() -> None:
    (between,) = warnings_about([[10.0] * 9, [16.0] * 9], [environment()], measured=False)
    assert "60 % longer than the fastest" in between
    rising = [[10.0] * 10 + [11.0] * 10] * 2
    (within,) = warnings_about(rising, [environment()], measured=False)
    assert "rose by 10 %" in within
    (falling,) = warnings_about(
        [process[::-1] for process in rising], [environment()], measured=False
    )
    assert "fell by 9 %" in falling


def test_the_environment_kept_is_that_of_the_worst_disturbance() -> None:
    found = worst([environment(others_busy="0.90"), environment(stolen="0.10")])
    assert found.facts["others_busy"] == "0.90"
    assert found.facts["stolen"] == "0.10"
    assert found.comparable == ("threads",)
