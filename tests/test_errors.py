from __future__ import annotations

import inspect
import re

import pytest

from edgeprune import errors
from edgeprune.errors import EdgepruneError, JobError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, EdgepruneError)
}
LINE = re.compile(r"^ {4}(?P<lead>[| ]*(?:[|`]- )?)(?P<name>\w+Error)(?: +(?P<code>\d+)\b)?")
ROWS = [match for line in (errors.__doc__ or "").splitlines() if (match := LINE.match(line))]


def test_the_tree_names_every_class_once() -> None:
    assert sorted(row["name"] for row in ROWS) == sorted(CLASSES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_the_tree_tells_base_class_and_exit_code(row: re.Match[str]) -> None:
    here = ROWS.index(row)
    above = [other for other in ROWS[:here] if len(other["lead"]) < len(row["lead"])]
    own = CLASSES[row["name"]]
    assert own.__base__ is (CLASSES[above[-1]["name"]] if above else Exception)
    stated = next((other["code"] for other in (row, *reversed(above)) if other["code"]), None)
    if stated is not None:
        assert own.exit_code == int(stated)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("GateError", 1), ("BudgetError", 1), ("UsageError", 2), ("JobError", 2), ("UnknownDeviceError", 2),
        ("FactoryError", 2), ("WeightsError", 2), ("DataError", 2), ("OutputError", 2), ("ResumeError", 2),
        ("DeviceError", 3), ("LostDeviceError", 3), ("UnstableError", 4), ("UnsupportedModelError", 5), ("DeadlineError", 124),
    ],
)  # fmt: skip
def test_exit_codes_are_those_of_the_contract(name: str, code: int) -> None:
    assert CLASSES[name].exit_code == code


def test_done_and_interrupted() -> None:
    assert (errors.DONE, errors.INTERRUPTED) == (0, 130)


def test_message_says_what_and_then_what_to_do() -> None:
    assert str(EdgepruneError("no data", "fetch it")) == "no data\n  fetch it"
    assert str(EdgepruneError("no data")) == "no data"


def test_job_error_lists_every_fault_and_counts_them() -> None:
    error = JobError("job.toml", ["a: missing", "b (line 3): unknown key"], "docs")
    assert error.faults == ("a: missing", "b (line 3): unknown key")
    assert str(error) == "job.toml: 2 faults\n  - a: missing\n  - b (line 3): unknown key\n  docs"
    assert str(JobError("j", ["x"])).startswith("j: 1 fault\n")
