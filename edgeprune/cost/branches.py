"""Layers where the runtime takes another of its kernels: a few pairs of widths for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeprune.cost.curves import Curves, Design
from edgeprune.cost.kernels import spread
from edgeprune.cost.probes import Probes, kind_of
from edgeprune.cost.staircase import STRAIGHT, Curve, find_stair
from edgeprune.cost.surface import Surface
from edgeprune.cost.sweep import CARE, IMMATERIAL
from edgeprune.records import Basis, Branch, Kernels, ModelProfile, PricedLayer, Side, Stair

POINTS = 3  # widths a side whose pairs are measured
NARROWEST = 16  # of the dense width: the narrowest of them
SIDES: tuple[Side, Side] = ("in", "out")
Pair = tuple[int, int]
Windows = dict[tuple[str, Pair], tuple[PricedLayer, Side, list[Pair]]]


@dataclass(frozen=True)
class Layout:
    """Where a branch of a layer is to be measured."""

    layer: PricedLayer
    kernels: Pair
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    stairs: tuple[Stair, Stair]

    @property
    def pairs(self) -> list[tuple[PricedLayer, Pair]]:
        """What is to be measured."""
        return [(self.layer, pair) for pair in itertools.product(self.ins, self.outs)]

    def branch(self, cost: Callable[[PricedLayer, Pair], float]) -> Branch:
        """Return the branch, given what was measured."""
        return Branch(
            layer=self.layer.name,
            kernels=self.kernels,
            ins=self.ins,
            outs=self.outs,
            costs=tuple(tuple(cost(self.layer, (a, b)) for b in self.outs) for a in self.ins),
            stairs=self.stairs,
        )


def lay_out(
    probes: Probes,
    curves: Curves,
    design: Design,
    profile: ModelProfile,
    progress: Callable[[int, int], None],
) -> list[Layout]:
    """Return where to measure layers with two groups when another kernel runs one of their widths.

    On the side of the other kernel costs rise straight. On the opposite side it may have stairs of
    its own: these are found for each kind of layer by a short sweep, the side of the kernel at its
    widest. Layers with one group get points on their curve (`Curves`), which are measured here.
    """
    found = curves.found
    singles = [
        (layer, layer.sides[0], width)
        for layer in found.resizable
        if len(layer.sides) == 1
        for kernel in (1, 2)
        for width in _points(curves, layer, layer.sides[0], kernel)
    ]
    curves.take(probes, singles, progress=progress)
    branches: dict[tuple[str, Pair], list[PricedLayer]] = {}
    for layer in found.resizable:
        if len(layer.sides) == 2:
            kind = kind_of(found.templates[layer.name])
            for kernels in itertools.product(range(3), range(3)):
                sides = list(zip(SIDES, kernels, strict=True))
                if any(kernels) and all(_points(curves, layer, s, k) for s, k in sides):
                    branches.setdefault((kind, kernels), []).append(layer)
    windows: Windows = {}
    for key, layers in branches.items():
        kernels = key[1]
        side, other = SIDES if kernels[1] else SIDES[::-1]
        if all(kernels) or not design.window:
            continue
        widest = max(layers, key=lambda la: _width(la, side))
        enough = [la for la in layers if _width(la, side) >= design.window - 1] or [widest]
        layer = min(enough, key=lambda la: la.width_in * la.width_out)
        rule, dense = curves.rule(layer.name, side), _width(layer, side)
        along = rule.widths(0, max(1, dense - design.window + 1), dense)
        if along:
            at = _points(curves, layer, other, max(kernels))[-1]
            pairs = [(at, w) if side == "out" else (w, at) for w in along]
            windows[key] = layer, side, pairs
    stairs = _find_stairs(probes, curves, windows, design, profile, progress)
    layouts = []
    for key, layers in branches.items():
        stair = stairs.get(key) or STRAIGHT
        both = (STRAIGHT, stair) if key[1][0] else (stair, STRAIGHT)
        for layer in layers:
            ins, outs = (
                _points(curves, layer, side, kernel, one.period)
                for side, kernel, one in zip(SIDES, key[1], both, strict=True)
            )
            layouts.append(Layout(layer, key[1], ins, outs, both))
    return layouts


def _find_stairs(
    probes: Probes,
    curves: Curves,
    windows: Windows,
    design: Design,
    profile: ModelProfile,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, Pair], Stair | None]:
    """Return the stair of each kind of layer and branch, None where no tile explains its sweep."""
    costs: dict[tuple[str, Pair], list[float]] = {}
    stairs: dict[tuple[str, Pair], Stair | None] = {}

    def sweep(keys: Iterable[tuple[str, Pair]], **options: object) -> None:
        taken = [(key, curves.found.templates[windows[key][0].name]) for key in keys]
        wanted = [(template, pair) for key, template in taken for pair in windows[key][2]]
        probes.take(wanted, progress=progress, **options)  # type: ignore[arg-type]
        for key, template in taken:
            layer, side, pairs = windows[key]
            new = [probes.price(template, pair) for pair in pairs]
            costs[key] = [min(pair) for pair in zip(new, costs.get(key, new), strict=True)]
            if not any(costs[key]):
                stairs[key] = STRAIGHT  # free, as far as the device can tell
                continue
            tolerance = max(design.tile, IMMATERIAL * profile.total / max(costs[key]))
            along = [pair[side == "out"] for pair in pairs]
            multiple = curves.rule(layer.name, side).multiple
            stairs[key] = find_stair(along, costs[key], tolerance, multiple)

    sweep(windows)
    unsure = [key for key in windows if stairs[key] is None]
    if unsure and not probes.device.spec.exact:
        sweep(unsure, again=True, processes=CARE)
    return stairs


def _width(layer: PricedLayer, side: Side) -> int:
    return layer.width_out if side == "out" else layer.width_in


def _points(
    curves: Curves, layer: PricedLayer, side: Side, kernel: int, tile: int = 1
) -> tuple[int, ...]:
    """Return the widths of `kernel` to be measured: full tiles, and the dense one; maybe none."""
    dense, rule = _width(layer, side), curves.rule(layer.name, side)
    every = rule.widths(kernel, 1, dense)
    widths = [w for w in every if w * NARROWEST >= dense] or every[-1:]
    full = [w for w in widths if w % tile == 0 or w == dense]
    return spread(full or widths, POINTS)


@dataclass(frozen=True)
class BranchPrices:
    """Prices on the branches of a cost table."""

    branches: Sequence[Branch]
    rules: Mapping[tuple[str, Side], Kernels]

    def price(self, layer: PricedLayer, a: int, b: int) -> tuple[float, Basis] | None:
        """Return a price and what it rests on, None where kernel 0 runs both widths."""
        kernels = self._kernel(layer, "in", a), self._kernel(layer, "out", b)
        found = self._surfaces.get((layer.name, kernels))
        if found is None:
            return None
        branch, surface, (curve_in, curve_out) = found
        known = (a in branch.ins) + (b in branch.outs)
        basis: Basis = ("estimated", "interpolated", "measured")[known]
        return surface.at(curve_in.at(a), curve_out.at(b)), basis

    def _kernel(self, layer: PricedLayer, side: Side, width: int) -> int:
        return self.rules.get((layer.name, side), Kernels()).at(width)

    @cached_property
    def _surfaces(self) -> dict[tuple[str, Pair], tuple[Branch, Surface, tuple[Curve, Curve]]]:
        found = {}
        for branch in self.branches:
            costs = np.array(branch.costs)
            curves = (
                Curve(dict(zip(branch.ins, costs[:, -1].tolist(), strict=True)), branch.stairs[0]),
                Curve(dict(zip(branch.outs, costs[-1].tolist(), strict=True)), branch.stairs[1]),
            )
            surface = Surface(costs[:, -1].tolist(), costs[-1].tolist(), costs)
            found[branch.layer, branch.kernels] = branch, surface, curves
        return found
