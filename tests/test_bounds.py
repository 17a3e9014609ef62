"""A budget that cannot be reached names the bounds of the job that stand in the way, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune import pipeline
from edgeprune.data import Data
from edgeprune.errors import BudgetError
from edgeprune.job import Job
from edgeprune.report.console import Console

JOB = {"name": "n", "model": {"factory": "a:b"}, "data": {"factory": "a:c"}}
WITHOUT = "; less may be possible without "


def hint_of(build, simulated, name: str, job: dict[str, Any]) -> str:
    model, inputs = build(name)
    labels = torch.zeros(len(inputs[0]), dtype=torch.int64)
    batches = [(inputs, labels)]
    data = Data(inputs, batches, batches, batches)
    asked = Job.model_validate({**JOB, "budget": {"latency": "1%"}, **job})
    with pytest.raises(BudgetError, match="cannot be reached") as caught:
        pipeline.plan_only(asked, model, data, simulated(step=4), Console(quiet=True))
    assert caught.value.exit_code == 1
    return caught.value.hint


CASES = {
    "none": ("plain", {}, ""),
    "kept": ("plain", {"prune": {"keep": ["conv1"]}}, "[prune] keep (conv1)"),
    "kept by its BatchNorm": ("plain", {"prune": {"keep": ["bn2"]}}, "[prune] keep (bn2)"),
    "the output is never cut": ("plain", {"prune": {"keep": ["head"]}}, ""),
    "only what binds": ("plain", {"prune": {"keep": ["head", "conv2"]}}, "[prune] keep (conv2)"),
    "guarded": ("plain", {"guards": {"layers": ["conv2"], "agreement": 0.5}}, "[guards] layers"),
    "a floor": ("plain", {"prune": {"floors": {"conv1": 8}}}, "[prune] floors (conv1)"),
    "a share": ("plain", {"prune": {"floors": {"conv2": 0.5}}}, "[prune] floors (conv2)"),
    "dense": ("plain", {"prune": {"floors": {"conv2": 24}}}, "[prune] floors (conv2)"),
    "within the first tile": ("plain", {"prune": {"floors": {"conv1": 2}}}, ""),
    "both": (
        "plain",
        {"prune": {"keep": ["conv1"], "floors": {"conv2": 12}}},
        "[prune] keep (conv1), [prune] floors (conv2)",
    ),
    "a branch": ("residual", {"prune": {"floors": {"a1": 1}}}, "[prune] floors (a1)"),
    "no branch": ("residual", {"prune": {"blocks": False, "floors": {"a1": 1}}}, ""),
    "a kept branch": ("residual", {"prune": {"keep": ["a2_bn"]}}, "[prune] keep (a2_bn)"),
}


QUICK = ("none", "both", "a share", "a kept branch")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_the_bounds_that_bind_are_named_and_no_others(build, simulated, case: str) -> None:
    name, job, bounds = CASES[case]
    hint = hint_of(build, simulated, name, job)
    assert hint.startswith("ask for at least ")
    _, _, told = hint.partition("%")
    assert told.startswith(WITHOUT + bounds) if bounds else told == ""
    assert told.count("(") == bounds.count("[")


def test_where_all_is_kept_wide_the_bounds_are_what_is_advised(build, simulated) -> None:
    job = {"prune": {"keep": ["conv1"], "floors": {"conv2": 24}}}
    hint = hint_of(build, simulated, "plain", job)
    assert hint == (
        f"next to nothing of the model can be cut{WITHOUT}"
        "[prune] keep (conv1), [prune] floors (conv2)"
    )
