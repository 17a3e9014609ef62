"""The document of `plan --json`."""

from __future__ import annotations

from types import SimpleNamespace

from edgeprune.commands.jobs import _document
from edgeprune.records import PlanTrial
from tests import factories


def test_trials_and_what_the_losses_are_of_are_told_as_on_the_screen() -> None:
    plan, table = factories.a_plan(), factories.a_table()
    widths = {name: group.after for name, group in plan.groups.items()}
    trial = PlanTrial(widths=widths, predicted=plan.predicted, steps=20, start=0.5, loss=0.4)
    plan = plan.model_copy(update={"trials": (trial,), "losses": "of what is left"})
    document = _document(
        SimpleNamespace(name="net", budget=SimpleNamespace(asked="50%")),
        SimpleNamespace(spec=SimpleNamespace(name="mobile_cpu", figure="measured", unit="us")),
        SimpleNamespace(plan=plan, table=table, skipped=()),
    )
    assert document["trials"] == [trial.model_dump(mode="json")]
    assert document["losses"] == "of what is left"
