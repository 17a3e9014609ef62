"""Several budgets remove no branches; where they cannot be reached, the message says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeprune import family
from edgeprune.data import Data
from edgeprune.errors import BudgetError
from edgeprune.job import Job
from edgeprune.report.console import Console

JOB = {"name": "n", "model": {"factory": "a:b"}, "data": {"factory": "a:c"}}
PLAIN = "ask for more"
TOLD = "; branches are removed only for one budget a run, which may save more here (a2_bn, b2_bn)"


@pytest.mark.parametrize(
    ("name", "prune", "hint"),
    [
        ("residual", {}, PLAIN + TOLD),
        ("residual", {"blocks": False}, PLAIN),
        ("residual", {"keep": ["a2", "b2"]}, PLAIN),
        ("plain", {}, PLAIN),
    ],
    ids=["offered", "never removed", "kept", "without branches"],
)
def test_branches_that_one_budget_would_remove_are_told(
    build, simulated, tmp_path: Path, monkeypatch, name: str, prune: dict[str, object], hint: str
) -> None:
    def prices(*_: object, **__: object) -> None:
        raise BudgetError("the budget cannot be reached", PLAIN)

    monkeypatch.setattr(family, "prices_of", prices)
    model, inputs = build(name)
    batch = [(inputs, torch.zeros(len(inputs[0]), dtype=torch.int64))]
    data = Data(inputs, batch, batch, batch)
    job = Job.model_validate({**JOB, "budget": {"latency": "50%"}, "prune": prune})
    with pytest.raises(BudgetError) as caught:
        family.plan_only(
            job, ("50%", "30%"), model, data, simulated(), tmp_path, Console(quiet=True)
        )
    assert (caught.value.what, caught.value.hint) == ("the budget cannot be reached", hint)
