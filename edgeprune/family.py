"""Several budgets in one run: profile, prices and losses are shared.

As in ZipLM (arXiv 2302.04089) each model starts from the one before: the widest member is cut from
the dense model and recovered, the next is cut from that one, and so on; each has its own verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import nn

from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.errors import BudgetError, OutputError, UsageError
from edgeprune.job import Job
from edgeprune.pipeline import Prices, Result, allocate, attempts, deliver, prices_of
from edgeprune.pruning.remainder import Remainder
from edgeprune.records import GroupList, Sensitivity, Verdict, WidthPlan
from edgeprune.report import figures
from edgeprune.report.console import Console
from edgeprune.report.markdown import cell, code
from edgeprune.ship import CARD, INDEX, indexed, require_ours, ship_index
from edgeprune.stages import allocating, base
from edgeprune.stages.beginning import begun


@dataclass(frozen=True)
class Family:
    """What a run for several budgets leaves: a result each, from the largest budget down."""

    members: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate of every member is met."""
        return all(member.verdict.passed for member in self.members)

    def document(self) -> dict[str, Any]:
        """Return the answer of `run --json`: the members' verdicts."""
        return document([member.verdict for member in self.members])


def document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return one JSON document of several verdicts."""
    first = verdicts[0]
    return {
        "schema": 1,
        "job": first.job,
        "device": first.device,
        "kind": first.kind,
        "unit": first.unit,
        "passed": all(verdict.passed for verdict in verdicts),
        "members": [verdict.model_dump(mode="json", by_alias=True) for verdict in verdicts],
    }


def run(
    job: Job,
    budgets: Sequence[str],
    model: nn.Module,
    data: Data,
    device: Device,
    out: Path,
    *,
    resume: bool = False,
    console: Console,
    given: base.Given | None = None,
) -> Family:
    """Make a model for each budget and ship each into `out`/<budget>, with an index in `out`.

    What an earlier run for a single budget shipped into `out` itself goes.

    Raises:
        UsageError: a budget is named twice.
        EdgepruneError: any of its kinds; finished stages stay in `out`/.run.
    """
    asked, job = job, _checked(job, budgets)
    for budget in budgets:
        require_ours(out / budget)
    _require_ours(out)
    with (
        begun(
            job, model, data, device, out, console, budgets=budgets, resume=resume, given=given
        ) as this,
        _branches_told(this, asked),
    ):
        prices = prices_of(this, _tightest(this, budgets))
        left: Remainder | None = None
        members: list[Result] = []
        for budget, member in _members(this, budgets, prices):
            console.info(f"budget {member.job.budget.asked}")
            made = attempts(replace(member, left=left), _left_of(prices, left))
            members.append(deliver(member, prices, made, out / budget))
            left = Remainder.of(made.model, made.plan)
        family = Family(tuple(members))
        with console.stage("Writing the index"):
            index = json.dumps(_index(family), indent=2) + "\n"
            ship_index(out, {CARD: page(family), INDEX: index})
        return family


def plan_only(
    job: Job,
    budgets: Sequence[str],
    model: nn.Module,
    data: Data,
    device: Device,
    scratch: Path,
    console: Console,
) -> tuple[Prices, list[tuple[Job, WidthPlan]]]:
    """Profile, price and allocate for each budget; only `scratch` is written to."""
    asked, job = job, _checked(job, budgets)
    found: list[tuple[Job, WidthPlan]] = []
    with (
        begun(job, model, data, device, scratch, console, budgets=budgets, scratch=True) as this,
        _branches_told(this, asked),
    ):
        prices = prices_of(this, _tightest(this, budgets))
        left: Remainder | None = None
        for _, member in _members(this, budgets, prices):
            plan = allocate(replace(member, left=left), _left_of(prices, left))
            found.append((member.job, plan))
            left = Remainder.of(this.model, plan)
    return prices, found


def _checked(job: Job, budgets: Sequence[str]) -> Job:
    """Return the job without removal of branches: each model is cut from the one before.

    Raises:
        UsageError: two budgets are the same, or the allocation cannot go on from another model.
    """
    asked = [job.with_overrides(budget=budget).request for budget in budgets]
    if len({(request.share, request.absolute) for request in asked}) < len(budgets):
        raise _same(budgets)
    if job.prune.allocation != "exact":
        raise UsageError(
            f"several budgets: allocation {job.prune.allocation} decides on the dense model, and "
            "cannot go on from the model for the budget before",
            'take allocation "exact", or one budget a run',
        )
    return job.model_copy(update={"prune": job.prune.model_copy(update={"blocks": False})})


@contextmanager
def _branches_told(this: base.Run, asked: Job) -> Iterator[None]:
    """Let budgets that cannot be reached tell of branches that one budget a run would remove.

    `asked` is the job as it was asked for, which may remove them.
    """
    try:
        yield
    except BudgetError as error:
        # the groups were found before any budget could fail; with this they are read
        groups = this.folder.stage("1-groups", GroupList, lambda: base.group(this))
        blocks = base.branches(replace(this, job=asked), groups)
        if not blocks:
            raise
        names = ", ".join(block.last for block in blocks)
        raise BudgetError(
            error.what,
            f"{error.hint}; branches are removed only for one budget a run, which may save more "
            f"here ({names})",
        ) from None


def _require_ours(out: Path) -> None:
    """Make sure that index and page of `out` are those of a family, or of a run.

    Raises:
        OutputError: they are not.
    """
    if (out / INDEX).exists():
        if not indexed(out):
            raise OutputError(
                f"{out} holds {INDEX}, which edgeprune did not put there",
                "name another folder: --out DIR",
            )
    elif (out / CARD).exists():
        require_ours(out)


def _same(budgets: Sequence[str]) -> UsageError:
    return UsageError(f"budgets {', '.join(budgets)}: two of them are the same")


def _tightest(this: base.Run, budgets: Sequence[str]) -> Callable[[float], float]:
    """Return what the smallest member may cost, from the cost of the model that is cut."""
    runs = [replace(this, job=this.job.with_overrides(budget=budget)) for budget in budgets]
    return lambda cost: min(run.limit(cost) for run in runs)


def _left_of(prices: Prices, left: Remainder | None) -> Prices:
    """Return `prices` with the losses of the widths that are left, against those now held."""
    if left is None:
        return prices
    offered = left.table(prices.table).widths
    curves = []
    for curve in prices.curves.curves:
        kept = [width for width in curve.widths if width <= offered[curve.group][-1]]
        if kept and kept[-1] == offered[curve.group][-1]:
            update: dict[str, tuple[float, ...]] = {"widths": tuple(kept)}
            for name in ("increases", "drops", "even", "odd"):
                values = getattr(curve, name)[: len(kept)]
                update[name] = tuple(value - values[-1] for value in values)
            curves.append(curve.model_copy(update=update))
    return replace(prices, curves=Sensitivity(curves=tuple(curves)))


def _members(this: base.Run, budgets: Sequence[str], prices: Prices) -> list[tuple[str, base.Run]]:
    """Return (budget, its run), from the largest budget down; all can be reached.

    Raises:
        BudgetError: one cannot.
        UsageError: two budgets are the same.
    """
    unit, dense = this.device.spec.unit, prices.table.dense_cost
    runs = [
        replace(this, job=this.job.with_overrides(budget=budget), attempt=f"{budget}-", nested=True)
        for budget in budgets
    ]
    for run in runs if prices.table.widths else ():
        allocating.check_budgets(run, prices.groups, prices.dense, prices.table)
    limits = [run.job.request.limit(dense, unit) for run in runs]
    if len({round(limit, 9) for limit in limits}) < len(limits):
        raise _same(budgets)
    found = sorted(zip(limits, budgets, runs, strict=True), key=lambda member: -member[0])
    return [(budget, run) for _, budget, run in found]


def _index(family: Family) -> dict[str, Any]:
    """Return the index: what each member costs and reaches, and where it is."""
    whole = document([member.verdict for member in family.members])
    whole["members"] = [
        {
            "budget": m.verdict.budget.asked,
            "folder": m.folder.name,
            "passed": m.verdict.passed,
            "cost": m.verdict.slim.cost,
            "limit": m.verdict.budget.limit,
            "accuracy": m.verdict.slim.accuracy,
            "parameters": m.verdict.slim.parameters,
            "model_sha256": m.artifact.sha256,
        }
        for m in family.members
    ]
    return whole


def page(family: Family) -> str:
    """Return the index as Markdown."""
    first = family.members[0].verdict
    metric = cell(first.metric)
    lines = [
        f"# {cell(first.job)} on {code(first.device)}",
        "",
        f"One dense model, {len(family.members)} budgets; costs are {first.kind}. "
        f"Dense: {figures.cost(first.dense.cost, first.unit)}, "
        f"{metric} {first.dense.accuracy:.4f}, {first.dense.parameters:,} parameters.",
        "",
        f"| budget | cost | ratio | {metric} | parameters | gates |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for member in family.members:
        v = member.verdict
        unmet = ", ".join(gate.name for gate in v.gates if gate.met is False)
        lines.append(
            f"| [{cell(member.folder.name)}]({quote(member.folder.name)}/README.md) "
            f"| {figures.cost(v.slim.cost, v.unit)} | {figures.ratio(v.speedup.median)} "
            f"| {v.slim.accuracy:.4f} | {v.slim.parameters:,} "
            f"| {f'not met: {cell(unmet)}' if unmet else 'met'} |"
        )
    return "\n".join(lines) + "\n"
