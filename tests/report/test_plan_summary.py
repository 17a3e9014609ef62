from edgeprune.records import Basis, CostTable, Environment, PlanTrial, Price
from edgeprune.report import plan_summary
from tests import factories


def test_rounds_compare_prediction_with_what_was_found():
    first, second = plan_summary.rounds(factories.a_plan(), "measured")
    assert (first.number, first.predicted, first.error) == (1, "489 µs", "+8.3 %")
    assert second.found == "486.0 µs [484.1, 488.3]"


def tried(*losses):
    """Trials of the plan's own widths, then of others."""
    plan = factories.a_plan()
    own = {name: group.after for name, group in plan.groups.items()}
    other = dict.fromkeys(own, 7)
    pairs = zip((own, *[other] * len(losses)), losses, strict=False)
    trials = tuple(
        PlanTrial(widths=w, predicted=486.0, start=0.5, loss=x, steps=100) for w, x in pairs
    )
    return plan.model_copy(update={"trials": trials})


def test_the_taken_one_of_the_plans_tried_is_marked():
    first, second = plan_summary.trials(tried(0.25, 0.26))
    assert first[1:] == ("486 µs", "0.5000", "0.2500", "taken")
    assert second[1:] == ("486 µs", "0.5000", "0.2600", "")
    assert set(second[0].split()) == {"7"}
    assert plan_summary.trials(factories.a_plan()) == ()


def test_a_plan_of_less_loss_than_the_one_taken_says_why_it_was_passed_over():
    plan = tried(0.25, 0.24)
    other = plan.trials[1].widths
    assert plan_summary.trials(plan)[1][-1] == "not run whole"
    missed = plan.rounds[-1].model_copy(update={"widths": other, "measured": 1.021 * plan.budget})
    beside = plan.rounds[0].model_copy(update={"beside": (missed,)})
    for rounds in ((*plan.rounds, missed), (beside,)):
        found = plan_summary.trials(plan.model_copy(update={"rounds": rounds}))
        assert found[1][-1] == "passed over: run whole, 102.1 % of the budget"
        assert found[0][-1] == "taken"


def test_rounds_of_an_estimate_have_no_interval():
    plan = factories.a_plan()
    exact = plan.rounds[0].model_copy(update={"low": 450.0, "high": 450.0, "measured": 450.0})
    (row,) = plan_summary.rounds(plan.model_copy(update={"rounds": (exact,)}), "estimated")
    assert row.found == "450 µs, by formula"


def test_prices_are_counted_by_what_they_rest_on() -> None:
    def price(basis: Basis) -> Price:
        return Price(layer="a", width_in=1, width_out=1, cost=1.0, origin="emulated", basis=basis)

    found = [price("measured")] * 1209 + [price("estimated")] * 3
    environment = Environment(facts={}, comparable=())
    table = CostTable(
        device="d", kind="emulated", unit="instructions", dense_cost=1.0, scale=1.0, layers=(),
        widths={}, prices=tuple(found), probes=1209, environment=environment,
    )  # fmt: skip
    assert plan_summary.prices(table) == "1,209 emulated, 3 estimated prices"
    one = table.model_copy(update={"kind": "estimated"})  # simulated: one sum under one name
    assert plan_summary.prices(one) == "1,212 estimated prices"


def test_a_gap_says_what_it_is_of_and_what_else_chose() -> None:
    plain = plan_summary.of_what(factories.a_plan())
    assert "summed losses" in plain
    assert "short recovery" not in plain
    assert plan_summary.of_what(tried(0.25, 0.26)) == (
        f"{plain}; of several plans of this cost, that of least loss after a short recovery was taken"
    )
