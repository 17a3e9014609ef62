"""The comparison: every method to the same measured cost, the same recovery, several seeds."""

from __future__ import annotations

import gc
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from edgeprune.allocation.candidates import Candidates
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.task import Task
from edgeprune.allocation.trials import trial_steps
from edgeprune.bench import narrower
from edgeprune.bench.contenders import Contender, Contenders
from edgeprune.bench.kept import Losses, Rows, base_of, remembered, same_target
from edgeprune.bench.scope import left_out
from edgeprune.bench.training import final_metric
from edgeprune.bench.variants import BASELINES, OURS, Variant
from edgeprune.budget import parse_budget
from edgeprune.data import Data, batches
from edgeprune.devices.protocol import Device
from edgeprune.errors import UsageError
from edgeprune.identity import identity_of, versions
from edgeprune.importance.scores import complete
from edgeprune.job import Job
from edgeprune.loading import load_data, seed_everything
from edgeprune.pipeline import Prices, prices_of
from edgeprune.pruning.channels import require_layers
from edgeprune.records import (
    BenchDense,
    BenchResult,
    BenchRow,
    Narrow,
    WidthPlan,
)
from edgeprune.recovery.teaching import require_teachable
from edgeprune.report.console import Console
from edgeprune.stages import allocating, base, preparation
from edgeprune.stages.steps import without_other_limits
from edgeprune.store import RunFolder


@dataclass(frozen=True)
class Comparison:
    """What is compared, where, and how long recovery may take.

    Args:
        job: the job; its [recover] section is every method's, but for the steps.
        folder: where the job's relative paths start.
        model: the dense model.
        data: the job's data.
        device: where costs come from.
        out: receives the results; its `.run` keeps what is finished.
        budgets: as in [budget] latency.
        variants: what to compare.
        seeds: of recovery. Widths are allocated once, with the first.
        steps: of recovery; 0 compares before recovery, with the first seed alone.
        console: shows progress.
    """

    job: Job
    folder: Path
    model: nn.Module
    data: Data
    device: Device
    out: Path
    budgets: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    steps: int
    console: Console

    def run(self, *, resume: bool = False) -> BenchResult:
        """Compare, row by row; rows that are finished are not done again.

        Raises:
            BudgetError: a budget is below the smallest reachable cost.
            UsageError: a budget in another unit than the device's, or equal to another one; a job
                with masks or collapse, or with an unknown layer to keep or with a floor; or no
                method that can be compared.
        """
        if preparation.is_wanted(self.job, self.model):
            raise UsageError(
                "bench compares how widths are chosen for one and the same dense model: masks and "
                "linear collapse have no place in it",
                "leave out [collapse] and [mask], and give a model without masks",
            )
        if names := left_out(self.job, self.device.spec):
            self.console.warning(
                f"{names}: not heeded, as bench compares one cut to an equal cost on the device "
                "and its recovery by the metric; edgeprune run heeds all of the job"
            )
        job = without_other_limits(self.job)
        first = job.with_overrides(budget=self.budgets[0], seed=self.seeds[0])
        require_layers(self.model, first.prune.keep, first.prune.floors)
        settings = first.recover.model_copy(update={"steps": self.steps})
        require_teachable(self.model, self.data, settings)
        for budget in self.budgets:
            parse_budget(budget).limit(1.0, self.device.spec.unit)
        seed_everything(first.seed)
        identity = identity_of(first, self.model, self.data, self.device) | {"budget": "several"}
        warn = self.console.warning
        with RunFolder(self.out, identity, resume=resume, warn=warn) as folder:
            this = base.Run(
                first, self.model, self.data, self.device, folder, self.console, board=False
            )
            skipped = self._impossible()
            prices = prices_of(this)
            spec = self.device.spec
            targets = {
                b: parse_budget(b).limit(prices.table.dense_cost, spec.unit)
                / prices.table.dense_cost
                for b in self.budgets
            }
            _require_different(targets)
            for budget in (b for b, target in targets.items() if target >= 1):
                self.console.warning(
                    f"budget {budget} is {100 * targets[budget]:.1f} % of the dense cost: nothing "
                    "has to be cut for it, and its rows compare nothing"
                )
            for budget in self.budgets:
                asked = replace(this, job=first.with_overrides(budget=budget))
                allocating.check_budgets(asked, prices.groups, prices.dense, prices.table)
            dense = folder.stage("dense-accuracy", BenchDense, self._dense, aside=True)
            rows = Rows(folder.file("rows.jsonl"))
            work = _Work(self, this, prices, targets, rows)
            scored = complete(work.task.scores, work.task.table.widths)
            skipped |= self._unscored(scored, skipped)
            variants = [v for v in self.variants if v.label not in skipped]
            work.plan(variants)
            order = list(self._order(variants))
            work.tell_of_others(order)
            found = tuple(
                work.row(budget, variant, seed, f"row {number} of {len(order)}")
                for number, (budget, variant, seed) in enumerate(order, start=1)
            )
            return BenchResult(
                job=self.job.name,
                device=spec.name,
                kind=spec.figure,
                unit=spec.unit,
                target=targets[self.budgets[0]],
                targets=tuple(targets.values()),
                seeds=self.used,
                steps=self.steps,
                rows=found,
                dense=dense,
                metric=self.data.metric_name,
                accuracy_on=self.data.evaluation[1],
                samples=self.samples,
                skipped=tuple(f"{name}: {why}" for name, why in skipped.items()),
                versions=versions(),
                facts=prices.table.environment.facts,
            )

    def _order(self, variants: Sequence[Variant]) -> Iterator[tuple[str, Variant, int]]:
        """Yield one seed after the other, so that an interrupted comparison compares something."""
        for seed in self.used:
            for budget in self.budgets:
                for variant in variants:
                    yield budget, variant, seed

    def _impossible(self) -> dict[str, str]:
        """Return what cannot be compared, and why; each is told aloud."""
        found: dict[str, str] = {}
        for name in BASELINES:
            if all(variant.name != name for variant in self.variants):
                continue
            if self.data.train is None:
                found[name] = "the job has no training data"
            elif self.steps == 0:
                found[name] = "there is nothing to compare before training"
            elif name == "narrower" and self.job.bench.narrower is None:
                found[name] = "the job has no factory with a width: [bench] narrower"
            elif name == "narrower":
                narrower.code(self.job, self.folder)  # fails now, and not behind all pricing
        return self._told(found, found)

    def _unscored(self, scores: Container[str], before: Mapping[str, str]) -> dict[str, str]:
        """Return what ranks by a criterion of "auto" that cannot score the model."""
        found = {
            variant.label: f"importance {variant.criterion} cannot score the model"
            for variant in self.variants
            if variant.criterion and variant.criterion not in scores
        }
        return self._told(found, {**before, **found})

    def _told(self, found: dict[str, str], skipped: Container[str]) -> dict[str, str]:
        for name, why in found.items():
            self.console.warning(f"{name} is left out: {why}")
        if all(variant.label in skipped for variant in self.variants):
            raise UsageError(
                f"nothing is left to compare: {', '.join(v.label for v in self.variants)}",
                "name other methods with --methods, or see to what is missing",
            )
        return found

    @property
    def used(self) -> tuple[int, ...]:
        """The seeds that rows are made with: nothing is drawn where nothing is trained."""
        return self.seeds[:1] if self.steps == 0 else self.seeds

    @cached_property
    def samples(self) -> int:
        """Number of samples that accuracies are taken on."""
        return sum(len(inputs[0]) for inputs, _ in batches(*self.data.evaluation))

    def _dense(self) -> BenchDense:
        with self.console.stage("Evaluating the dense model"):
            return BenchDense(accuracy=final_metric(self.model, self.data))


@dataclass
class _Work:
    """The comparison under way."""

    bench: Comparison
    this: base.Run
    prices: Prices
    targets: dict[str, float]
    rows: Rows
    plans: dict[tuple[str, Variant], WidthPlan] = field(default_factory=dict)

    @cached_property
    def contenders(self) -> Contenders:
        bench = self.bench
        return Contenders(
            bench.job, bench.folder, bench.model, bench.data, bench.steps,
            self.this.file("dense.onnx"),
        )  # fmt: skip

    @cached_property
    def _candidates(self) -> Candidates:
        return allocating.candidates_of(self.this, self.prices.table, self.prices.curves)

    def candidates(self, budget: str) -> Candidates:
        """Return what measures plans for a budget: a share is judged otherwise than a figure."""
        relative = parse_budget(budget).share is not None
        return replace(self._candidates, relative=relative)

    @cached_property
    def task(self) -> Task:
        prices = self.prices
        task = allocating.task_of(self.this, prices.groups, prices.table, prices.curves)
        return replace(task, measured=Losses(self.this.file("losses.jsonl")))

    def plan(self, variants: Sequence[Variant]) -> None:
        """Bring every method to every budget."""
        for budget in self.bench.budgets:
            for variant in variants:
                if variant.name == "narrower":
                    self.narrow(budget)
                elif variant.name != "scratch":
                    self.planned(budget, variant)
        if any(v.name == "scratch" for v in variants):
            for budget in self.bench.budgets:
                self.planned(budget, Variant(OURS))

    def planned(self, budget: str, variant: Variant) -> WidthPlan:
        """Return the plan of a method at a budget."""
        key = budget, variant
        if key not in self.plans:
            self.plans[key] = self._plan(budget, variant)
        return self.plans[key]

    def _plan(self, budget: str, variant: Variant) -> WidthPlan:
        name, steps = f"plan-{budget}-{variant.slug}", self.bench.steps
        if variant.name == OURS:  # its plan depends on the recovery to come
            name += f"-{trial_steps(steps)}"

        def work() -> WidthPlan:
            limit = self.targets[budget] * self.prices.table.dense_cost
            job = self.this.job.with_overrides(budget=budget)
            if variant.name == OURS:
                prune = job.prune.model_copy(update={"allocation": OURS, "round_to": None})
                change = {"steps": steps} if steps else {"steps": 0, "reconstruct": False}
                recover = job.recover.model_copy(update=change)
                job = job.model_copy(update={"prune": prune, "recover": recover})
                run = replace(self.this, job=job)
                p = self.prices
                return allocating.allocate(run, p.groups, p.dense, p.table, p.curves)
            task = replace(
                self.task,
                criterion=variant.criterion or self.task.criterion,
                round_to=variant.round_to,
            )
            candidates = self.candidates(budget)
            base = base_of(self.prices.table, relative=candidates.relative)
            path = self.this.file("measured.jsonl")
            measure = remembered(path, candidates.measure, base)
            with self.bench.console.stage(f"{variant.label} at {budget}") as stage:
                return reach(variant.name, task, limit, measure=measure, note=stage.note)

        return self.this.folder.stage(name, WidthPlan, work, aside=True)

    def narrow(self, budget: str) -> Narrow:
        """Return the smaller uniform width at a budget."""

        def work() -> Narrow:
            with self.bench.console.stage(f"narrower at {budget}") as stage:
                return narrower.reach(
                    self.bench.job, self.bench.folder, self.candidates(budget),
                    self.targets[budget], stage.note,
                )  # fmt: skip

        code = narrower.code(self.bench.job, self.bench.folder)[:8]
        return self.this.folder.stage(f"plan-{budget}-narrower-{code}", Narrow, work, aside=True)

    def row(self, budget: str, variant: Variant, seed: int, place: str) -> BenchRow:
        """Return one row: the finished one of what is trained, if there is one."""
        bench, target = self.bench, self.targets[budget]
        contender = self.contender(budget, variant)
        found = self.rows.get(variant.label, target, seed, contender.digest)
        of_dense = bench.job.bench.dense_steps if variant.name in BASELINES else 0
        same_now = (contender.cost_ratio, bench.steps, of_dense)  # the digest holds their sum
        if found and (found.cost_ratio, found.steps, found.dense_steps) == same_now:
            return found
        if same := self.rows.trained(contender.digest, seed):  # under another name, at another cost
            before, after, seconds = same.accuracy_before_recovery, same.accuracy, same.seconds
        else:
            started = time.monotonic()
            with bench.console.stage(f"{place}: {variant.label} at {budget}, seed {seed}") as stage:
                data = load_data(bench.job.with_overrides(seed=seed), bench.folder)
                trained = contender.train(data, seed, stage.update)
            before, after = trained.before, trained.after
            seconds = time.monotonic() - started
            gc.collect()  # graphs of cut models hold themselves, and memory about them
        row = BenchRow(
            method=variant.label,
            target=target,
            seed=seed,
            steps=bench.steps,
            dense_steps=of_dense,
            cost_ratio=contender.cost_ratio,
            macs_ratio=contender.macs_ratio(),
            accuracy_before_recovery=before,
            accuracy=after,
            seconds=seconds,
            trained=contender.digest,
        )
        self.rows.add(row)
        return row

    def tell_of_others(self, order: Sequence[tuple[str, Variant, int]]) -> None:
        """Warn of finished rows that are of other models than those planned now."""
        left = [
            (variant.label, budget, seed)
            for budget, variant, seed in order
            if self.rows.of_another(
                variant.label, self.targets[budget], seed, self.bench.steps,
                self.contender(budget, variant).digest,
            )
        ]  # fmt: skip
        if left:
            label, budget, seed = left[0]
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            self.bench.console.warning(
                f"{self.rows.path}: finished rows are not used, since they are of other plans or "
                f"an earlier version: {label} at {budget} with seed {seed}{more}"
            )

    def contender(self, budget: str, variant: Variant) -> Contender:
        """Return what a row measures and trains."""
        if variant.name == "narrower":
            return self.contenders.narrow(self.narrow(budget))
        fresh = variant.name == "scratch"
        plan = self.planned(budget, Variant(OURS) if fresh else variant)
        cost = plan.corrected / self.prices.table.dense_cost
        return self.contenders.scratch(plan, cost) if fresh else self.contenders.cut(plan, cost)


def _require_different(targets: Mapping[str, float]) -> None:
    """Refuse budgets that come to the same target: their rows could not be told apart.

    Raises:
        UsageError: two do.
    """
    found: dict[float, str] = {}
    for budget, target in targets.items():
        if (other := found.setdefault(same_target(target), budget)) != budget:
            raise UsageError(
                f"budgets {other} and {budget} are the same on this device: "
                f"{100 * target:.2f} % of the dense cost",
                "name one of them",
            )
