"""Several budgets in one run: profile, prices and losses are shared.

As in ZipLM (arXiv 2302.04089) each model starts from the one before: the widest member is cut from
the dense model and recovered, the next is cut from that one, and so on; each has its own verdict.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune import stages, widths
from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.errors import UsageError
from edgeprune.identity import identity_of
from edgeprune.job import Job
from edgeprune.loading import seed_everything
from edgeprune.pipeline import Prices, Result, allocate, attempts, deliver, prices_of
from edgeprune.records import Verdict, WidthPlan
from edgeprune.report import figures
from edgeprune.report.console import Console
from edgeprune.ship import require_ours
from edgeprune.store import RunFolder, write_text

INDEX, PAGE = "index.json", "README.md"


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
) -> Family:
    """Make a model for each budget and ship each into `out`/<budget>, with an index in `out`.

    Raises:
        UsageError: a budget is named twice.
        EdgepruneError: any of its kinds; finished stages stay in `out`/.run.
    """
    seed_everything(job.seed)
    for budget in budgets:
        job.with_overrides(budget=budget).request.limit(1.0, device.spec.unit)
        require_ours(out / budget)
    if (out / PAGE).exists() and not (out / INDEX).exists():
        require_ours(out)
    with RunFolder(out, _identity(job, budgets, model, data, device), resume=resume) as folder:
        first = job.with_overrides(budget=budgets[0])
        this = stages.Run(first, model, data, device, folder, console)
        prices = prices_of(this)
        parent: stages.Parent | None = None
        members: list[Result] = []
        for member in _members(this, budgets, prices):
            console.info(f"budget {member.job.budget.asked}")
            made = attempts(replace(member, parent=parent), prices)
            members.append(deliver(member, prices, made, out / member.job.budget.asked))
            parent = stages.Parent(made.plan, made.model)
        family = Family(tuple(members))
        with console.stage("Writing the index"):
            write_text(out / PAGE, page(family))
            write_text(out / INDEX, json.dumps(_index(family), indent=2) + "\n")
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
    seed_everything(job.seed)
    found: list[tuple[Job, WidthPlan]] = []
    with RunFolder(scratch, _identity(job, budgets, model, data, device), resume=False) as folder:
        this = stages.Run(
            job.with_overrides(budget=budgets[0]), model, data, device, folder, console
        )
        prices = prices_of(this)
        parent: stages.Parent | None = None
        for member in _members(this, budgets, prices):
            plan = allocate(replace(member, parent=parent), prices)
            found.append((member.job, plan))
            parent = stages.Parent(plan, model)
    return prices, found


def _members(this: stages.Run, budgets: Sequence[str], prices: Prices) -> list[stages.Run]:
    """Return a run for each budget, from the largest down; all budgets can be reached.

    Raises:
        BudgetError: one cannot.
        UsageError: two budgets are the same.
    """
    unit, dense = this.device.spec.unit, prices.table.dense_cost
    runs = [
        replace(this, job=this.job.with_overrides(budget=budget), attempt=f"{budget}-", nested=True)
        for budget in budgets
    ]
    for run in runs:
        widths.check_budgets(run, prices.groups, prices.dense, prices.table)
    limits = [run.job.request.limit(dense, unit) for run in runs]
    if len({round(limit, 9) for limit in limits}) < len(limits):
        raise UsageError(f"budgets {', '.join(budgets)}: two of them are the same")
    return [run for _, run in sorted(zip(limits, runs, strict=True), key=lambda p: -p[0])]


def _identity(
    job: Job, budgets: Sequence[str], model: nn.Module, data: Data, device: Device
) -> dict[str, str]:
    identity = identity_of(job.with_overrides(budget=budgets[0]), model, data, device)
    return identity | {"budget": ", ".join(sorted(budgets))}


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
    lines = [
        f"# {first.job} on {first.device}",
        "",
        f"One dense model, {len(family.members)} budgets; costs are {first.kind}. "
        f"Dense: {figures.cost(first.dense.cost, first.unit)}, "
        f"{first.metric} {first.dense.accuracy:.4f}, {first.dense.parameters:,} parameters.",
        "",
        f"| budget | cost | ratio | {first.metric} | parameters | gates |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for member in family.members:
        v = member.verdict
        unmet = ", ".join(gate.name for gate in v.gates if gate.met is False)
        lines.append(
            f"| [{v.budget.asked}]({member.folder.name.replace('%', '%25')}/README.md) "
            f"| {figures.cost(v.slim.cost, v.unit)} | {figures.ratio(v.speedup.median)} "
            f"| {v.slim.accuracy:.4f} | {v.slim.parameters:,} "
            f"| {f'not met: {unmet}' if unmet else 'met'} |"
        )
    return "\n".join(lines) + "\n"
