"""Candidate plans: which channels stay at given widths, and what the device says of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from edgeprune.allocation.closed_loop import Measured
from edgeprune.data import Data
from edgeprune.devices.protocol import Device
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.importance.scores import keep_best
from edgeprune.profiler.timing import compare, compare_in_quiet, cost_of_second
from edgeprune.pruning.shrink import shrink
from edgeprune.records import (
    CostTable,
    PlannedGroup,
    ResidualBlock,
    WidthPlan,
)
from edgeprune.verify.firmware import footprints

CANDIDATE = "candidate.onnx"
HALF_WIDTH, SECONDS, SETTLE = 0.006, 10.0, 0.05  # of a comparison with the dense model


@dataclass(frozen=True)
class Candidates:
    """Builds candidate plans of one model and measures them against it.

    Args:
        model: the dense model.
        data: gives the example inputs.
        device: where to measure.
        precision: the form in which models go to the device.
        folder: receives candidate.onnx.
        dense: the exported model; its form for the device lies beside it.
        table: widths and dense cost.
        rankings: group -> criterion that ranks its channels.
        scores: "criterion/group" -> score of each channel [width].
        opset: of exported candidates.
        seed: order of the runs.
        relative: whether the budget is a share of the dense cost.
        blocks: branches that are removed where all of their groups have width 0.
    """

    model: nn.Module
    data: Data
    device: Device
    precision: Precision
    folder: Path
    dense: Path
    table: CostTable
    rankings: Mapping[str, str]
    scores: Mapping[str, Tensor]
    opset: int
    seed: int = 0
    relative: bool = True
    blocks: tuple[ResidualBlock, ...] = ()

    def planned(self, widths: Mapping[str, int]) -> dict[str, PlannedGroup]:
        """Return what each group keeps at these `widths`."""
        found: dict[str, PlannedGroup] = {}
        for name, width in widths.items():
            criterion = self.rankings[name]
            scores = self.scores[f"{criterion}/{name}"]
            found[name] = PlannedGroup(
                before=len(scores),
                after=width,
                kept=keep_best(scores, width) if width else (),
                criterion=criterion,
            )
        return found

    def removed(self, groups: Mapping[str, PlannedGroup]) -> tuple[ResidualBlock, ...]:
        """Return the branches that go in a plan."""
        widths = {name: group.after for name, group in groups.items()}
        return tuple(block for block in self.blocks if block.gone(widths))

    def measure(self, groups: dict[str, PlannedGroup]) -> Measured:
        """Cut, export and measure a plan against the dense model.

        A relative budget is judged by the ratio alone, in quiet moments; an absolute one by times
        as a verdict takes them, by pairs of the same minutes: the machine may have drifted since
        the profile was taken.
        """
        plan = WidthPlan(
            groups=groups, budget=0.0, unit=self.device.spec.unit, predicted=0.0,
            predicted_error=0.0, corrected=0.0, gap=0.0, loss=0.0,
            removed=self.removed(groups),
        )  # fmt: skip
        return self.measure_model(shrink(self.model, self.data.example, plan))

    def measure_model(self, slim: nn.Module) -> Measured:
        """Export any other model for the same inputs, and measure it against the dense model."""
        candidate = self.folder / CANDIDATE
        export(slim, self.data.example, candidate, opset=self.opset)
        self.precision.write(candidate)
        cost, low, high = self._cost(self.precision.file(candidate))
        seen: dict[str, float] = {}
        if self.device.spec.runtime == "firmware":
            (memory,) = footprints(self.device, (self.precision.file(candidate),), self.seed)
            seen = {"ram": memory.ram_bytes, "flash": memory.flash_bytes}
        return Measured(cost, low, high, seen)

    def _cost(self, candidate: Path) -> tuple[float, float, float]:
        """Return the cost of an exported plan with its interval, in the device's unit."""
        dense = self.precision.file(self.dense)
        if self.relative:
            (quiet,) = compare_in_quiet(
                self.device, dense, [candidate],
                half_width=HALF_WIDTH, seconds=SECONDS, settle=SETTLE, seed=self.seed,
            )  # fmt: skip
            return cost_of_second(quiet, self.table.dense_cost)
        found, _ = compare(
            self.device, dense, candidate,
            half_width=HALF_WIDTH, seconds=SECONDS, settle=SETTLE, seed=self.seed,
        )  # fmt: skip
        return cost_of_second(found, found.first_cost)
