"""What may change a model before its widths are chosen: masks made physical, linear collapse.

Each change is measured on the device against the dense model, and kept only as far as it holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import prune

from edgeprune.budget import keeps_to
from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.errors import BudgetError
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.export.stored import stored_size
from edgeprune.job import Job
from edgeprune.profiler.timing import compare
from edgeprune.pruning.channels import kept_by
from edgeprune.records import (
    Chain,
    Collapse,
    Comparison,
    CostTable,
    GroupList,
    Masks,
    ModelProfile,
    Prepared,
    Verdict,
    WidthPlan,
)
from edgeprune.recovery.finetuning import metric_on, recover
from edgeprune.report import figures
from edgeprune.sections import ScheduleSection
from edgeprune.transforms import collapse as linear
from edgeprune.transforms import masks, zeros

PROOF_SAMPLES = 64
CHECK_SAMPLES = 5000
SECONDS = 10.0  # of one comparison
Note = Callable[[str], None]
Progress = Callable[[int, int, str], None]
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Workplace:
    """Everything that preparing a model needs; `dense` is the dense model as it goes to the device.

    `folder` receives the files of the models that are compared.
    """

    job: Job
    data: Data
    device: Device
    precision: Precision
    folder: Path
    dense: Path
    note: Note = lambda _: None
    progress: Progress = lambda done, total, what: None
    warn: Note = lambda _: None

    def write(self, model: nn.Module, name: str) -> Path:
        """Export `model` under `name`, and return the file that goes to the device."""
        path = self.folder / name
        export(model, self.data.example, path, opset=self.job.export.opset)
        self.precision.write(path)
        return self.precision.file(path)

    def measure(self, model: nn.Module, against: Path) -> Comparison:
        """Export `model` and compare it: the cost of `against` over its own."""
        comparison, _ = compare(
            self.device,
            against,
            self.write(model, "after.onnx"),
            half_width=0.006,
            seconds=SECONDS,
            seed=self.job.seed,
            note=self.note,
        )
        return comparison


def is_wanted(job: Job, model: nn.Module) -> bool:
    """Whether there is anything to prepare: masks, or a collapse that the job asks for."""
    return job.mask is not None or job.collapse.enabled or bool(masks.carried(model))


def prepare(place: Workplace, model: nn.Module, given: nn.Module) -> tuple[nn.Module, Prepared]:
    """Return `model` after everything that the job asks for, and what was done.

    Args:
        place: job, data and device.
        model: the dense model, without masks of torch's.
        given: the same model as it was given, with its masks if it had any.

    Raises:
        UnsupportedModelError: masks are asked for and there is nothing to mask.
        UnstableError: a comparison does not settle.
    """
    base, masked = _masked(place, model, given)
    tried: list[Collapse] = []
    if place.job.collapse.enabled:
        base, tried = _collapsed(place, base, model)
    done = Prepared(masks=masked, collapses=tuple(tried))
    if not done.changed:
        return model, done
    accepted = [one for one in tried if one.accepted]
    if masked is None and len(accepted) == 1:
        return base, done.model_copy(update={"gain": accepted[0].cost})
    place.note("the prepared model against the dense one")
    return base, done.model_copy(update={"gain": place.measure(base, place.dense)})


def restore(model: nn.Module, example: Inputs, prepared: Prepared, path: Path) -> nn.Module:
    """Return the prepared model whose weights are in `path`, from the dense one."""
    base = copy.deepcopy(model)
    if prepared.masks is not None:
        base = zeros.replay(base, example, prepared.masks.removed)
    for tried in prepared.collapses:
        if tried.accepted:
            layer = nn.Linear(tried.inputs, tried.outputs)
            base = linear.collapse(base, tried.chain, layer)
    base.load_state_dict(load_file(path))
    return base.eval()


def without_steps(job: Job) -> Job:
    """Return the job of a model that is not cut: recovered once, with no schedule."""
    return job.model_copy(update={"schedule": ScheduleSection(), "regularise": None})


def reported(verdict: Verdict, prepared: Prepared, dense: Path, slim: Path) -> Verdict:
    """Return the verdict with what was done, and for masked models what both files take stored."""
    stored = None if prepared.masks is None else (stored_size(dense), stored_size(slim))
    return verdict.model_copy(update={"prepared": prepared, "stored": stored})


def is_enough(
    prepared: Prepared, groups: GroupList, base: ModelProfile, limit: Callable[[float], float]
) -> bool:
    """Whether preparing the model met the budget, so that no channel has to go.

    Args:
        prepared: what was done.
        groups: that could be cut.
        base: profile of the prepared model.
        limit: its cost -> what the slim model may cost.

    Raises:
        BudgetError: the budget is not met, and there is no group to cut.
    """
    gain = prepared.gain
    if gain is None:
        return False
    allowed = limit(base.total)
    if keeps_to(base.total * gain.median / gain.high, allowed):
        return True
    if not groups.groups:
        raise BudgetError(
            f"the prepared model costs {figures.cost(base.total, base.unit)}, the budget is "
            f"{figures.cost(allowed, base.unit)}, and no group of channels is left to cut",
            "allow a larger budget",
        )
    return False


def no_prices(base: ModelProfile) -> CostTable:
    """Return the table of a model that is not cut: no layer has to be priced."""
    return CostTable(
        device=base.device,
        kind=base.kind,
        unit=base.unit,
        dense_cost=base.total,
        scale=1.0,
        layers=(),
        widths={},
        prices=(),
        probes=0,
        environment=base.environment,
    )


def leave_whole(table: CostTable, limit: float) -> WidthPlan:
    """Return the plan that cuts nothing."""
    return WidthPlan(
        groups={},
        budget=limit,
        unit=table.unit,
        predicted=table.dense_cost,
        predicted_error=0.0,
        corrected=table.dense_cost,
        gap=0.0,
        loss=0.0,
    )


def _masked(place: Workplace, model: nn.Module, given: nn.Module) -> tuple[nn.Module, Masks | None]:
    """Put on what the job asks for, and remove what is zero in all its producers."""
    job, example = place.job, place.data.example
    carried = masks.carried(given)
    if job.mask is None and not carried:
        return model, None
    base, names, kind, amounts = model, carried, "given", tuple[float, ...]()
    sparse = place.device.spec.sparse_accelerator
    if job.mask is not None:
        kind, amounts = job.mask.kind, job.mask.amounts
        if kind == "auto":
            kind = "global" if sparse else "ln_structured"
        if kind != "ln_structured" and not sparse:
            place.warn(
                f"mask {kind}: {place.device.spec.name} skips no zero weights, so they save room "
                'where files are compressed and no time; kind = "ln_structured" removes channels'
            )
        base, put = _put_on(place, base, kind, amounts)
        names = tuple(dict.fromkeys((*carried, *put)))
    counted = masks.counts(base, names)
    place.note("removing zero channels")
    taken = first_batches(place.data.calibration, PROOF_SAMPLES, "calibration")
    smaller = zeros.remove_zero_channels(base, example, [x for x, _ in taken], job.untouched)
    held = tuple(one.name for one in masks.counts(smaller.model, names) if one.zeros)
    return smaller.model, Masks(
        kind=kind,
        amounts=amounts,
        sparse_accelerator=sparse,
        layers=counted,
        removed=smaller.removed,
        left=smaller.left,
        held=held,
    )


def _put_on(
    place: Workplace, model: nn.Module, kind: str, amounts: tuple[float, ...]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of `model` with masks made permanent, and the names of what was masked."""
    job = place.job
    if kind == "ln_structured":
        return masks.mask_channels(model, place.data.example, amounts[0], keep=job.untouched)
    names: tuple[str, ...] = ()
    dense = model
    steps = job.recover.steps // len(amounts)
    for index, amount in enumerate(amounts):
        base = copy.deepcopy(model)
        if index:  # torch masks what the earlier rounds left
            for name in names:
                owner, key = base.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
                kept = (getattr(owner, key) != 0).to(torch.float32)
                prune.custom_from_mask(owner, key, kept)
        names = masks.put_on(
            base,
            "l1" if kind == "iterative" else kind,
            amount,
            seed=job.seed,
            keep=job.untouched,
        )
        model = masks.permanent(base)
        if index < len(amounts) - 1 and steps:
            model = _between(place, model, dense, names, steps)
    return model, names


def _between(
    place: Workplace, model: nn.Module, dense: nn.Module, names: tuple[str, ...], steps: int
) -> nn.Module:
    """Recover between two rounds of masks; zeros stay."""
    masks.hold_zeros(model, names)
    settings = place.job.recover.model_copy(update={"steps": steps, "reconstruct": False})
    found = recover(
        model, dense, place.data, settings, seed=place.job.seed, progress=place.progress
    )
    return masks.release(found.model)


def _collapsed(
    place: Workplace, base: nn.Module, dense: nn.Module
) -> tuple[nn.Module, list[Collapse]]:
    """Collapse chains one after the other; each is judged on the model that the others left."""
    job, data = place.job, place.data
    wanted = job.prune.calibration_samples
    calibration = [x for x, _ in first_batches(data.calibration, wanted, "calibration")]
    checked = first_batches(data.validation, CHECK_SAMPLES, "validation")
    start = before = metric_on(base, data, checked)
    tried: list[Collapse] = []
    refused: set[tuple[str, str]] = set()
    while True:
        chains = [c for c in linear.find_chains(base) if (c.first, c.last) not in refused]
        if not chains:
            break
        chain = chains[0]
        refused.add((chain.first, chain.last))
        place.note(f"collapse of {chain.first} to {chain.last}")
        layer = linear.fit(base, chain, calibration, job.collapse.ridge)
        error = linear.error_of(base, chain, layer, [x for x, _ in checked])
        smaller = linear.collapse(base, chain, layer)
        metric = metric_on(smaller, data, checked)
        one = Collapse(
            chain=chain,
            inputs=layer.in_features,
            outputs=layer.out_features,
            error=error,
            max_error=job.collapse.max_error,
            metric_before=before,
            metric_after=metric,
            accepted=False,
            reason=_refusal(job, chain, error, start - metric),
        )
        if not one.reason:
            reference = place.dense if base is dense else place.write(base, "before.onnx")
            cost = place.measure(smaller, reference)
            faster = cost.low > 1.0
            one = one.model_copy(
                update={
                    "cost": cost,
                    "accepted": faster,
                    "reason": "cheaper on the device" if faster else "no cheaper on the device",
                }
            )
        tried.append(one)
        if one.accepted:
            base, before, refused = smaller, metric, set()
    return base, tried


def _refusal(job: Job, chain: Chain, error: float, drop: float) -> str:
    """Return why a chain must not be collapsed whatever it saves, or ""."""
    if kept := kept_by(job.untouched, (chain.first, chain.last)):
        return kept
    if error > job.collapse.max_error:
        return f"a linear map misses {100 * error:.1f} % of its output's variance"
    if drop > job.budget.max_accuracy_drop:
        return f"the metric on validation data falls by {drop:.4f}"
    return ""
