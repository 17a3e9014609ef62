"""What a plan says, in rows and sentences shared by screen and page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.records import SkippedGroup
from edgeprune.report import figures
from edgeprune.report.summary import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeprune.records import (
        CostTable,
        Kind,
        Losses,
        MeasuredPlan,
        PlanTrial,
        Unit,
        Verdict,
        WidthPlan,
    )

CUT_ALONE = "of each group cut alone, BatchNorm recalibrated, not re-fitted"
ALONE = "loss of each group cut alone, by its best curve, BatchNorm recalibrated, not re-fitted"
SAVES = (
    "cost of the plan if this group alone were dense, less the plan's; layers between two groups "
    "count for both, so they do not add up to what the plan saves"
)
LOSES: dict[Losses, str] = {
    "of dense": ALONE,
    "of what is left": f"{ALONE}; over the model that this one was cut from",
    "scores": "summed scores of the channels that go, as [prune] loss asks for; nothing measured",
}
RANKED = (
    "which channels of a group stay: where recovery reconstructs, refit_error if the job scores by "
    "it, which knows that what is left is re-fitted; otherwise the criterion of the group's best "
    "curve, as edgeprune sensitivity names it; or what polishing measured to be better"
)
RANKED_BY_PEERS = (
    "which channels of a group stay: the criterion of its best curve, as edgeprune sensitivity "
    "names it; where one ranking spans all groups, the first criterion of the job"
)
RANKED_BY_SCORES = "which channels of a group stay: the first criterion of the job"
LINE = 150  # characters of what an exception says
TRIALS = "loss of whole plans on validation data: cut and re-fitted, then after steps of recovery"


@dataclass(frozen=True)
class RoundRow:
    """One round of the closed loop as shown."""

    number: int
    predicted: str
    found: str
    error: str


def rounds(plan: WidthPlan, kind: Kind) -> tuple[RoundRow, ...]:
    """Return the rounds of the closed loop: prediction, what the device said, relative error."""
    return tuple(
        _round(index, found, plan.unit, kind)
        for index, entry in enumerate(plan.rounds, start=1)
        for found in (entry, *entry.beside)
    )


def held_to(plan: WidthPlan, verdict: Verdict, dense_cost: float) -> str:
    """Return what the plan's costs are to be compared with; '' where it is the verdict's limit.

    The device may run at another speed in the verdict than when the dense model was profiled, where
    it took `dense_cost`.
    """
    limit = figures.cost(plan.budget, plan.unit)
    if limit == figures.cost(verdict.budget.limit, verdict.unit):
        return ""
    now, before = (figures.cost(cost, plan.unit) for cost in (verdict.dense.cost, dense_cost))
    return (
        f"That is the limit in the verdict, where the dense model costs {now}. Widths were chosen "
        f"for at most {limit}, at the speed of its profile, where it cost {before}: the costs "
        "below are to be compared with this."
    )


def first_plan(plan: WidthPlan) -> str:
    """Return what the first plan was predicted to cost, and which share of the budget that is."""
    share = 100 * plan.predicted / plan.budget
    return f"{figures.cost(plan.predicted, plan.unit)}, {share:.1f} % of the budget"


def of_what(plan: WidthPlan) -> str:
    """Return what the optimality gap says, and what else a plan was chosen by."""
    told = ": no widths within the budget have summed losses lower by more than that"
    chosen = "; of several plans of this cost, that of least loss after a short recovery was taken"
    return told + (chosen if plan.trials else "")


def trials(plan: WidthPlan) -> tuple[tuple[str, str, str, str, str], ...]:
    """Return the plans tried: widths by group, predicted cost, loss before and after, their fate.

    A plan of less loss than the one taken says why it was passed over.
    """
    widths = {name: group.after for name, group in plan.groups.items()}
    measured = [one for entry in plan.rounds for one in (entry, *entry.beside)]
    least = min((trial.loss for trial in plan.trials if trial.widths == widths), default=0.0)

    def fate(trial: PlanTrial) -> str:
        if trial.widths == widths:
            return "taken"
        if trial.loss >= least:
            return ""
        found = [one.measured for one in measured if one.widths == trial.widths]
        if not found:
            return "not run whole"
        return f"passed over: run whole, {100 * found[-1] / plan.budget:.1f} % of the budget"

    return tuple(
        (
            " ".join(str(trial.widths[name]) for name in plan.groups),
            figures.cost(trial.predicted, plan.unit),
            f"{trial.start:.4f}",
            f"{trial.loss:.4f}",
            fate(trial),
        )
        for trial in plan.trials
    )


def _round(index: int, entry: MeasuredPlan, unit: Unit, kind: Kind) -> RoundRow:
    return RoundRow(
        number=index,
        predicted=figures.cost(entry.predicted, unit),
        found=figures.cost_interval(entry.measured, entry.low, entry.high, unit, kind),
        error=figures.signed_percent(entry.predicted / entry.measured - 1)
        if entry.measured
        else "-",
    )


def prices(table: CostTable) -> str:
    """Return how many prices a table has: '209 emulated, 64 interpolated, 1,176 estimated prices'.

    Those taken on the device go by its kind of figure; see `Price`.
    """
    count = Counter(price.basis for price in table.prices)
    counts: dict[str, int] = {table.kind: count["measured"]}
    for basis in ("interpolated", "estimated"):
        counts[basis] = counts.get(basis, 0) + count[basis]
    return ", ".join(f"{n:,} {basis}" for basis, n in counts.items() if n) + " prices"


def left_alone(groups: Iterable[SkippedGroup]) -> tuple[tuple[str, str], ...]:
    """Return (what, which groups are never cut and why), a line a reason; nothing without any.

    The model's output is what nobody wonders about: it comes last.
    """
    found = SkippedGroup.by_reason(groups)
    output = found.pop(SkippedGroup.OUTPUT, "")
    lines = [f"{names}: {_shortened(reason)}" for reason, names in found.items()]
    lines += [f"{output}: the model's output"] if output else []
    return (("left alone", "\n".join(lines)),) if lines else ()


def _shortened(reason: str) -> str:
    """Return a reason for a line; what an exception says may be any length."""
    text = " ".join(reason.split())
    if not reason.startswith(SkippedGroup.CUTTING) or len(text) <= LINE:
        return reason
    return f"{text[: LINE - 3].rstrip()}..."


def ranked_by(plan: WidthPlan) -> str:
    """Return what the criterion of a group in a plan says, which need not be its best curve's."""
    if plan.losses == "scores":
        return RANKED_BY_SCORES
    return RANKED if plan.allocation == "exact" else RANKED_BY_PEERS


def saves(plan: WidthPlan) -> str:
    """Return what the savings of groups are."""
    of_left = plan.losses == "of what is left"
    dense = "as wide as in the model that this one was cut from" if of_left else "dense"
    removed = "; those of a removed branch stand at its first group" if plan.removed else ""
    return SAVES.replace("dense", dense) + removed


def limits(plan: WidthPlan) -> tuple[tuple[str, str], ...]:
    """Return (limit, what the plan uses of it), and what keeps it from using the budget."""
    rows = []
    for use in plan.resources:
        show = figures.size if use.unit == "bytes" else figures.count
        rows.append(
            (
                use.name,
                f"{show(round(use.used))} of {show(round(use.limit))}; "
                f"dense {show(round(use.dense))}",
            )
        )
    if plan.unheeded:
        rows.append(
            (
                "limits not heeded",
                f"{listed(plan.unheeded)}: allocation {plan.allocation} knows the budget alone; "
                "gates judge the others",
            )
        )
    if plan.removed:
        rows.append(("branches removed", ", ".join(block.last for block in plan.removed)))
    if plan.whole_loss is not None:
        rows.append(
            (
                "loss increase",
                f"{plan.whole_loss:.4f} measured on the whole plan, {plan.loss:.4f} summed over "
                "groups; BatchNorm recalibrated, not re-fitted",
            )
        )
    won = "score" if plan.losses == "scores" else "loss"
    for step in plan.explanation.steps if plan.explanation else ():
        changed = ", ".join(f"{n} {a} -> {b}" for n, (a, b) in step.widths.items())
        rows.append(
            (
                f"more {step.limit}",
                f"{figures.number(step.added)} {figures.symbol(step.unit)} beyond the limit would "
                f"win {step.wins:.4f} of {won} ({step.price:.3g} a unit): {changed}",
            )
        )
    if plan.held_by:
        rows.append(("budget not used in full", f"held by {listed(plan.held_by)}"))
    return tuple(rows)
