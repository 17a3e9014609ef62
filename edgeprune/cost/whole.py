"""A cost table fitted to a few whole plans.

What a run costs beside the sum of its prices has four parts, and the dense model alone cannot tell
them apart: a constant, what all layers cost more or less in a model than alone, what weights cost
that have left the caches, and the way from one layer to the next. So a few plans are built and
measured against the dense model, and

    cost(plan) = dense cost * (a + (1 - a - b - c) P(plan) + b N(plan) + c W(plan)),  a, b, c >= 0

is fitted to them: P is the plan's sum of prices, N its number of layers that run, and W its number
of weights, as shares of the dense model's, whose own cost is met. Plans of even shares differ in P
and W almost alike, so a and c are held near what is likely (ridge regression, the mode of normal
errors and normal priors): a near the call of an empty model, c near 0. What tells b are plans
without some of their branches, and where there are none it is 0; a layer is likely to cost no more
beside its price than a node without work. What tells c is the profile of the dense model: layers
with many weights cost more there, against the others, than alone. With m, p and n a layer's share
of the profile, of the prices and of the weights,

    m = (1 - c) p + c n

goes into the same fit, for every layer that was priced.

Layers that another kernel runs than in the dense model gain or lose by the caches as that kernel
does. So where there are any, plans of widths beside the offered ones are measured too, and the
prices of such layers are multiplied by one more factor, held near 1.

Interleaved pairs cancel what slows both models alike. What other programs, or a neighbour on the
same processor, take of its caches slows one kernel more than another. So plans are compared with
the dense model in quiet moments (`compare_in_quiet`), as prices are taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.cost.prediction import Predictor
from edgeprune.cost.table import Report
from edgeprune.devices.protocol import Device
from edgeprune.profiler.timing import compare_in_quiet
from edgeprune.records import CostTable, ModelProfile, ResidualBlock, WholePlan

SHARES = (0.85, 0.65, 0.5, 0.3)  # of each group's channels
HALF_WIDTH, SECONDS = 0.01, 5.0  # of a comparison: relative, and for each plan
SCATTER = 0.015  # relative, of plans about their fit: standard deviation
LEFT = 0.01  # of the dense cost, of what is left without branches about its fit
CONSTANT, OF_CONSTANT = 0.01, 0.3  # that of a, as a share of the dense cost and of the call
COLD = 0.05  # that of c
BESIDE = (0.8, 0.45)  # of each group's channels, in plans that other kernels run
MOST = 0.9  # of the dense cost beside what prices tell
OTHER = 0.1  # standard deviation of their factor
LAYER, OF_ALL = 0.05, 0.003  # that of a layer's cost in the profile: relative, and of all layers
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Without:
    """A model without some of its branches, in the form for the device; `layers` do not run."""

    layers: Sequence[str]
    file: Path


def fit_to_whole_plans(
    device: Device,
    table: CostTable,
    dense: Path,
    build: Callable[[Widths, int], Path],
    divisors: Mapping[str, int],
    profile: ModelProfile,
    *,
    without: Sequence[Without] = (),
    seed: int = 0,
    report: Report = lambda what, done, total: None,
) -> CostTable:
    """Return `table` fitted to plans that `build` makes and `device` measures.

    Args:
        device: where to measure.
        table: prices, as `build_table` gives them.
        dense: the dense model in the form for the device.
        build: makes plan number n, whose groups have these widths, in the form for the device.
        divisors: group -> what its widths are multiples of.
        profile: of the dense model.
        without: the dense model without some of its branches.
        seed: order of the runs.
        report: receives (what is being done, done, total).

    Raises:
        DeviceError: the device fails or changes while it is measured.
    """
    plans = [*whole_plans(table.widths), *plans_beside(table, divisors)]
    paths: list[Path] = []
    for number, widths in enumerate(plans):
        report("whole plans cut", number, len(plans))
        paths.append(build(widths, number))
    gone = [()] * len(plans) + [tuple(one.layers) for one in without]
    plans += [{group: widths[-1] for group, widths in table.widths.items()}] * len(without)
    paths += [one.file for one in without]
    ratios = compare_in_quiet(
        device, dense, paths, half_width=HALF_WIDTH, seconds=SECONDS, seed=seed,
        report=lambda settled: report("whole plans settled", settled, len(plans)),
    )  # fmt: skip
    measured = [
        WholePlan(
            widths=widths, gone=layers,
            share=1 / found.ratio, low=1 / found.high, high=1 / found.low,
        )
        for widths, layers, found in zip(plans, gone, ratios, strict=True)
    ]  # fmt: skip
    return fitted(table, measured, profile.costs, profile.empty_node)


def whole_plans(offered: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Return plans of about the same share of channels in all groups, without the dense one."""
    found: list[dict[str, int]] = [{group: widths[-1] for group, widths in offered.items()}]
    for share in SHARES:
        plan = {group: _nearest(widths, share) for group, widths in offered.items()}
        if plan not in found:
            found.append(plan)
    return found[1:]


def removals(
    blocks: Sequence[ResidualBlock], offered: Collection[str]
) -> list[Sequence[ResidualBlock]]:
    """Return the branches without which the dense model is measured: all of them, every second.

    Those of which a group has no prices stay.
    """
    priced = [block for block in blocks if all(group in offered for group in block.groups)]
    return [some for some in (priced, priced[::2] if len(priced) > 1 else []) if some]


def plans_beside(table: CostTable, divisors: Mapping[str, int]) -> list[dict[str, int]]:
    """Return plans whose layers other kernels run than in the dense model, as far as they can."""
    found: list[dict[str, int]] = []
    for share in BESIDE:
        plan = {}
        for group, offered in table.widths.items():
            ends = [(la, s) for la in table.layers for s in la.sides if la.group_at(s) == group]
            step, most = divisors.get(group, 1), max(offered[0], share * offered[-1])
            widths = [w for w in range(step, offered[-1], step) if offered[0] <= w <= most]
            plan[group] = max(
                widths or offered[-1:],
                key=lambda w: (sum(table.runs_otherwise(la, la.at(s, w)) for la, s in ends), w),
            )
        otherwise = any(table.runs_otherwise(la, la.widths_of(plan)) for la in table.layers)
        if otherwise and plan not in found:
            found.append(plan)
    return found


def _nearest(widths: Sequence[int], share: float) -> int:
    """Return which of the widths is nearest to a share of the last one; of two the narrower."""
    return min(widths, key=lambda width: (abs(width - share * widths[-1]), width))


def fitted(
    table: CostTable,
    measured: Sequence[WholePlan],
    layers: Mapping[str, float],
    empty: float = 0.0,
) -> CostTable:
    """Return `table` with the constant, scale, beside, cold and other that fit `measured` best.

    `layers` holds the costs of layers within the dense model; `empty` is that of a node without
    work.
    """
    if not measured:
        return table
    offered = [p for p in measured if all(w in table.widths[g] for g, w in p.widths.items())]
    found = _fitted_to_offered(table, offered, layers, empty)
    return found.model_copy(update={"other": _other(found, measured), "whole": tuple(measured)})


def _other(table: CostTable, measured: Sequence[WholePlan]) -> float:
    """Return the factor of prices where other kernels run: the mode of normal errors and prior."""
    without, plain = (Predictor(table.model_copy(update={"other": x})) for x in (0.0, 1.0))
    above = below = 1 / OTHER**2
    for plan in measured:
        rest = without(plan.widths, plan.gone).cost
        part = plain(plan.widths, plan.gone).cost - rest
        weight = part / (table.dense_cost * _error(plan)) ** 2
        above += weight * (plan.share * table.dense_cost - rest)
        below += weight * part
    return max(0.0, above / below)


def _error(plan: WholePlan) -> float:
    """Return the standard deviation of a plan about its fit, as a share of the dense cost.

    Without branches little may be left, of which prices know a part only: an activation behind a
    sum that is gone has none.
    """
    least = LEFT if plan.gone else 0.0
    return math.hypot(SCATTER * plan.share, (plan.high - plan.low) / 4, least)


def _fitted_to_offered(
    table: CostTable, measured: Sequence[WholePlan], layers: Mapping[str, float], empty: float
) -> CostTable:
    if not measured:
        return table
    dense = {group: widths[-1] for group, widths in table.widths.items()}
    prices, count, weights = _sums(table, dense)
    call = table.constant / table.dense_cost
    fewer = max(1 - _sums(table, plan.widths, plan.gone)[1] / count for plan in measured)
    between = fewer * empty * count / table.dense_cost  # the more layers go, the better it is told
    # Unknown are a, b and c; each equation is divided by the standard deviation of its error.
    rows = [
        [1 / max(CONSTANT, OF_CONSTANT * call), 0.0, 0.0],
        [0.0, 1 / between if between else 0.0, 0.0],
        [0.0, 0.0, 1 / COLD],
    ]
    wanted = [call * rows[0][0], 0.0, 0.0]
    for plan in measured:
        own = _sums(table, plan.widths, plan.gone)
        p, n, w = own[0] / prices, own[1] / count, own[2] / weights if weights else 0.0
        error = _error(plan)
        rows.append([(1 - p) / error, (n - p) / error if between else 0.0, (w - p) / error])
        wanted.append((plan.share - p) / error)
    for equation in _of_layers(table, layers):
        rows.append([0.0, 0.0, equation[0]])
        wanted.append(equation[1])
    a, b, c = _non_negative(np.array(rows), np.array(wanted))
    if a + b + c > MOST:  # wider must cost more
        rows = [[row[0], 0.0, row[2]] for row in rows]
        a, b, c = _non_negative(np.array(rows), np.array(wanted))
    if not weights:
        c = 0.0
    return table.model_copy(
        update={
            "constant": a * table.dense_cost,
            "scale": (1 - a - b - c) * table.dense_cost / prices,
            "beside": b * table.dense_cost / count,
            "cold": c * table.dense_cost / weights if weights else 0.0,
        }
    )


def _of_layers(table: CostTable, within: Mapping[str, float]) -> list[tuple[float, float]]:
    """Return (factor, value) of what each layer says of c: factor * c = value, with error 1."""
    priced = [layer for layer in table.layers if layer.sides and within.get(layer.name, 0.0) > 0]
    price = Predictor(table).price
    costs = np.array([within[layer.name] for layer in priced])
    alone = np.array([price(layer, *layer.widths)[0] for layer in priced])
    weights = np.array([layer.weights_at(*layer.widths) for layer in priced])
    if len(priced) < 2 or not weights.any():
        return []
    m, p, n = (x / x.sum() for x in (costs, alone, weights))
    error = np.hypot(LAYER * m, OF_ALL)
    return list(zip(((n - p) / error).tolist(), ((m - p) / error).tolist(), strict=True))


def _sums(table: CostTable, widths: Widths, gone: Collection[str] = ()) -> tuple[float, int, float]:
    """Return the sum of the prices and the numbers of layers and weights, without those `gone`."""
    bare = {"constant": 0.0, "scale": 1.0, "beside": 0.0, "cold": 0.0, "other": 1.0}
    predictor = Predictor(table.model_copy(update=bare))
    left = [(layer, layer.widths_of(widths)) for layer in table.layers if layer.name not in gone]
    count = sum(predictor.price(layer, *pair)[0] > 0 for layer, pair in left)
    weights = sum(layer.weights_at(*pair) for layer, pair in left)
    return predictor(widths, gone).cost, count, weights


def _non_negative(rows: np.ndarray, wanted: np.ndarray) -> tuple[float, ...]:
    """Return non-negative unknowns of least squared error: the best face of the cone."""
    unknowns = rows.shape[1]
    best, least = np.zeros(unknowns), float((wanted**2).sum())
    for faces in range(1, unknowns + 1):
        for parts in itertools.combinations(range(unknowns), faces):
            x = np.zeros(unknowns)
            x[list(parts)] = np.linalg.lstsq(rows[:, parts], wanted, rcond=None)[0]
            error = float(((rows @ x - wanted) ** 2).sum())
            if (x >= 0).all() and error < least:
                best, least = x, error
    return tuple(best.tolist())
