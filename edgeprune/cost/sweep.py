"""The stairs of every kind of layer and the curve of every layer, found with few probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from edgeprune.cost.curves import Curves, Design
from edgeprune.cost.kernels import find_kernels
from edgeprune.cost.layers import Layers
from edgeprune.cost.probes import Probes, kind_of, parts_of
from edgeprune.cost.staircase import STRAIGHT, WORTH, find_stair, grid, worth_offering
from edgeprune.records import ChannelGroup, Kernels, ModelProfile, PricedLayer, Side, Stair

COARSE = 4  # gaps between the first widths of a group that are measured
BISECTIONS = 2  # of gaps that turn out not to be straight
NARROWEST = 32  # of the dense width: what is not looked at below
CANDIDATES = 32  # widths of a group that may be offered
IMMATERIAL = 1e-4  # of the whole model's cost: errors of a layer that do not matter
MATERIAL = 0.01  # of it: a layer that can stand for its kind
NARROW = 2  # channels: a single one may be no layer of the same kind (depthwise)
ROUNDED = 0.3  # of a tick: standard deviation of what rounding takes away
SEEN = 10  # ticks: a layer that costs as much shows its tile
FEW = 2000  # plans of offered widths: where there are fewer, none may be near a budget
FINE = 0.005  # of a group's dense cost: what a width must save to be offered where plans are few
CARE = 4  # processes that take a sweep again which no tile explains
Windows = dict[tuple[str, Side], tuple[PricedLayer, Sequence[int]]]


def sweep(
    probes: Probes,
    found: Layers,
    design: Design,
    profile: ModelProfile,
    floors: Mapping[str, int],
    progress: Callable[[int, int], None],
) -> tuple[Curves, dict[str, tuple[int, ...]]]:
    """Return the curves of all layers and the widths worth offering of each group.

    1. Of each kind of layer (same operators, attributes and kernel) and each of its sides, the
       narrowest layer that is wide enough and costs enough is measured at consecutive widths: its
       tile is that of the kind.
    2. Each group is measured at five full tiles, then in the middle of each gap, and where the
       middle is off the straight line, of its halves (bisection). Where no tile explains one of
       its layers, 32 widths are measured instead.
    3. Where few plans can be made of the offered widths, a half and a quarter of a full tile are
       offered as well, and full tiles that save less or too little to be seen: else no plan may
       come near a budget.

    Args:
        probes: measure layers.
        found: layers, groups and templates.
        design: how much to measure.
        profile: costs of the dense model and its layers.
        floors: group -> width below which nothing is offered.
        progress: receives probes done and wanted of the step at hand.
    """
    curves = Curves(found)
    _find_tiles(probes, curves, design, profile, progress)
    steps = {group.name: _step(curves, group) for group in found.groups}
    least = {
        g.name: max(g.narrowest, floors.get(g.name, 0), -(-g.width // NARROWEST))
        for g in found.groups
    }
    measured = {
        g.name: [w for w in grid(g.width, CANDIDATES, g.divisor) if w >= least[g.name]]
        if any((la.name, side) in curves.unexplained for la, side in curves.lines(g.name))
        else _coarse(g.width, steps[g.name], least[g.name])
        for g in found.groups
    }
    _take_groups(probes, curves, measured, progress)
    gaps = {name: list(pairwise(sorted(widths))) for name, widths in measured.items()}
    for _ in range(BISECTIONS):
        middles = {
            name: {(a, b): _middle(a, b, steps[name]) for a, b in open_}
            for name, open_ in gaps.items()
        }
        chords = {
            name: {
                gap: _between(gap, middle, *(curves.cost(name, end) for end in gap))
                for gap, middle in found_.items()
                if middle is not None
            }
            for name, found_ in middles.items()
        }
        wanted = {n: sorted({m for m in f.values() if m is not None}) for n, f in middles.items()}
        _take_groups(probes, curves, wanted, progress)
        gaps = {name: [] for name in gaps}
        for group in found.groups:
            name, most = group.name, design.bend * curves.cost(group.name, group.width)
            for (low, high), straight in chords[name].items():
                middle = middles[name][low, high]
                assert middle is not None
                if abs(curves.cost(name, middle) - straight) > most:
                    gaps[name] += [(low, middle), (middle, high)]
    offered = {group.name: _offered(curves, group, steps, least) for group in found.groups}
    if not design.window or math.prod(map(len, offered.values())) >= FEW:
        return curves, offered
    narrow = {g.name: _below(g, steps[g.name], least[g.name]) for g in found.groups}
    _take_groups(probes, curves, narrow, progress)
    return curves, {
        g.name: _offered(
            curves,
            g,
            steps,
            least,
            also=narrow[g.name],
            saves=FINE - design.tick / (curves.cost(g.name, g.width) or math.inf),
        )
        for g in found.groups
    }


def _find_tiles(
    probes: Probes,
    curves: Curves,
    design: Design,
    profile: ModelProfile,
    progress: Callable[[int, int], None],
) -> None:
    kinds: dict[tuple[str, Side], list[PricedLayer]] = {}
    for layer in curves.found.resizable:
        for side in layer.sides:
            kind = kind_of(curves.found.templates[layer.name])
            kinds.setdefault((kind, side), []).append(layer)
    if not design.window:
        curves.stairs |= {(la.name, side): STRAIGHT for (_, side), ls in kinds.items() for la in ls}
        return
    material = MATERIAL * profile.total
    dear_first = {
        key: _dear(ls, profile, max(material, SEEN * design.tick))
        or _dear(ls, profile, material)
        or ls
        for key, ls in kinds.items()
    }
    apart = {key: _apart(curves, ls, key[1]) for key, ls in dear_first.items()}
    windows = {
        key: _window(ls, key[1], design.window, apart=apart[key]) for key, ls in dear_first.items()
    }
    rules = _find_kernels(probes, curves, windows, progress)
    for key, rule in rules.items():  # of kernel 0, as many widths
        if rule.start > 1:
            windows[key] = _window(
                dear_first[key], key[1], design.window, rule.start, apart=apart[key]
            )
    _take_windows(probes, curves, windows, progress)
    found = {
        key: _stair(curves, key[1], *windows[key], rules[key], design, profile) for key in kinds
    }
    unsure = {key: windows[key] for key, stair in found.items() if stair is None}
    if unsure and not probes.device.spec.exact:  # noise, or really no tile: measured with more care
        _take_windows(probes, curves, unsure, progress, again=True, processes=CARE)
        for key, window in unsure.items():
            found[key] = _stair(curves, key[1], *window, rules[key], design, profile, last=True)
    for (kind, side), stair in found.items():
        lines = {(other.name, side) for other in kinds[kind, side]}
        if stair is None:
            curves.unexplained |= lines
        curves.stairs |= dict.fromkeys(lines, stair or STRAIGHT)
        curves.kernels |= dict.fromkeys(lines, rules[kind, side])


def _dear(layers: Sequence[PricedLayer], profile: ModelProfile, least: float) -> list[PricedLayer]:
    return [layer for layer in layers if profile.costs.get(layer.name, 0.0) >= least]


def _stair(
    curves: Curves,
    side: Side,
    layer: PricedLayer,
    window: Sequence[int],
    rule: Kernels,
    design: Design,
    profile: ModelProfile,
    *,
    last: bool = False,
) -> Stair | None:
    """Return the stair of kernel 0 in a layer's short sweep, None where no tile explains it.

    In a `last` attempt, what rounding to whole ticks takes away needs no explanation.
    """
    widths = [width for width in window if rule.at(width) == 0] or list(window)
    costs = [curves.points[layer.name, side][width] for width in widths]
    if not any(costs):
        return STRAIGHT  # free, as far as the device can tell
    tolerance = max(design.tile, IMMATERIAL * profile.total / max(costs))
    stair = find_stair(widths, costs, tolerance, rule.multiple)
    if stair is None and last:
        rounded = ROUNDED * design.tick / max(costs)
        return find_stair(widths, costs, max(tolerance, rounded), rule.multiple)
    return stair


def _take_windows(
    probes: Probes,
    curves: Curves,
    windows: Windows,
    progress: Callable[[int, int], None],
    **options: object,
) -> None:
    wanted = [(la, key[1], w) for key, (la, widths) in windows.items() for w in widths]
    curves.take(probes, wanted, progress=progress, **options)


def _find_kernels(
    probes: Probes, curves: Curves, windows: Windows, progress: Callable[[int, int], None]
) -> dict[tuple[str, Side], Kernels]:
    """Return which widths of each kind of layer run alike.

    The rule is found by the short sweep. Whether it holds down to `NARROW` channels is looked at,
    and if not, the width from which it does is found by bisection.
    """

    def form(key: tuple[str, Side], width: int) -> tuple[str, ...]:
        layer = windows[key][0]
        return probes.of(curves.found.templates[layer.name], layer.at(key[1], width)).operators

    def alike(key: tuple[str, Side], width: int) -> bool:
        on = rules[key].multiple
        same = [w for w in windows[key][1] if (w % on == 0) == (width % on == 0)]
        return form(key, width) == form(key, same[-1])

    _take_windows(probes, curves, windows, progress)
    rules = {
        key: find_kernels({width: form(key, width) for width in window})
        for key, (_, window) in windows.items()
    }
    apart = {key: window[1] - window[0] for key, (_, window) in windows.items() if len(window) > 1}
    gaps = {  # the rule holds at the upper end
        key: (NARROW, window[0])
        for key, (_, window) in windows.items()
        if rules[key].start == 1 and window[0] > NARROW and apart.get(key, 1) == 1
    }
    ask = {key: NARROW for key in gaps}
    while ask:
        wanted = [(windows[key][0], key[1], width) for key, width in ask.items()]
        curves.take(probes, wanted, progress=progress)
        for key, width in ask.items():
            low, high = gaps[key]
            if alike(key, width):
                high = width
            elif width > low:
                low = width
            gaps[key] = low, high
        ask = {key: (low + high) // 2 for key, (low, high) in gaps.items() if high - low > 1}
    for key, (_, start) in gaps.items():
        if start > NARROW:
            rules[key] = rules[key].model_copy(update={"start": start})
    return rules


def _window(
    layers: Sequence[PricedLayer], side: Side, count: int, start: int = 1, *, apart: int = 1
) -> tuple[PricedLayer, Sequence[int]]:
    """Return the layer that stands for its kind, and the widths of its short sweep.

    Where it can, the sweep has `count` widths from `start` on, `apart` from each other.
    """

    def dense(layer: PricedLayer) -> int:
        return layer.width_out if side == "out" else layer.width_in

    enough = [layer for layer in layers if dense(layer) >= start + count - 2]
    size = {layer.name: layer.width_in * layer.width_out for layer in layers}
    if enough:
        layer = min(enough, key=lambda layer: (dense(layer), -size[layer.name]))
    else:
        layer = max(layers, key=lambda layer: (dense(layer), size[layer.name]))
    widths = range(dense(layer), max(0, dense(layer) - count * apart), -apart)
    return layer, widths[::-1]


def _apart(curves: Curves, layers: Sequence[PricedLayer], side: Side) -> int:
    """Return what the widths of layers of one kind have to be multiples of, to run at all.

    Grouped convolutions take multiples of the number of their parts; other layers any width.
    """
    groups = {group.name: group for group in curves.found.groups}
    found = [1]
    for layer in layers:
        name = layer.group_at(side)
        if name in groups and not layer.depthwise and parts_of(curves.found.templates[layer.name]):
            found.append(groups[name].divisor)
    return math.lcm(*found)


def _step(curves: Curves, group: ChannelGroup) -> int:
    """Return the spacing of widths that are full tiles for all layers of a group."""
    periods = [
        math.lcm(curves.stairs[la.name, side].period, curves.rule(la.name, side).multiple)
        for la, side in curves.lines(group.name)
    ]
    step = math.lcm(group.divisor, *periods)
    if step <= max(2 * max(periods), group.divisor) and step <= group.width:
        return step
    fitting = [p for p in periods if math.lcm(p, group.divisor) <= group.width]
    return math.lcm(group.divisor, max(fitting, default=1))


def _coarse(width: int, step: int, least: int) -> list[int]:
    first = -(-least // step) * step
    evenly = [round(k * width / COARSE / step) * step for k in range(COARSE)]
    return sorted({width, *(max(first, w) for w in evenly if max(first, w) < width)})


def _middle(low: int, high: int, step: int) -> int | None:
    middle = (low + high) // 2 // step * step
    return middle if low < middle < high else None


def _between(gap: tuple[int, int], width: int, low: float, high: float) -> float:
    return low + (width - gap[0]) / (gap[1] - gap[0]) * (high - low)


def _take_groups(
    probes: Probes,
    curves: Curves,
    widths: Mapping[str, Sequence[int]],
    progress: Callable[[int, int], None],
) -> None:
    wanted = [
        (layer, side, width)
        for name, ws in widths.items()
        for layer, side in curves.lines(name)
        for width in ws
    ]
    curves.take(probes, wanted, progress=progress)


def _below(group: ChannelGroup, step: int, least: int) -> tuple[int, ...]:
    """Return a quarter and a half of a full tile, where a group may be that narrow."""
    parts, least = {step // 4, step // 2}, max(least, NARROW)
    return tuple(sorted(w for w in parts if least <= w < group.width and w % group.divisor == 0))


def _offered(
    curves: Curves,
    group: ChannelGroup,
    steps: Mapping[str, int],
    least: Mapping[str, int],
    *,
    also: Sequence[int] = (),
    saves: float = WORTH,
) -> tuple[int, ...]:
    """Return which full tiles, and which of `also`, are cheaper than every wider one."""
    width, step = group.width, steps[group.name]
    known = {
        w
        for layer, side in curves.lines(group.name)
        for w in curves.points[layer.name, side]
        if w % step == 0
    }
    even = grid(width, CANDIDATES, step)
    widths = [w for w in sorted({*known, *even, *also, width}) if w >= least[group.name]]
    costs = [curves.cost(group.name, w) for w in widths]
    return worth_offering(widths, costs, tolerance=saves)
