"""Every allocator against cases worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.allocation.annealing import anneal
from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.evolutionary import dominates, sort
from edgeprune.allocation.narrowed import narrowed, with_frozen_inputs
from edgeprune.allocation.penalty import PRIORS, saving
from edgeprune.allocation.reaching import reach
from edgeprune.allocation.registry import ALLOCATORS, allocator
from edgeprune.allocation.rules import within
from edgeprune.allocation.search import Archive, front
from edgeprune.allocation.task import Kept, Task
from edgeprune.data import Data
from edgeprune.errors import InternalCheckError, UsageError
from edgeprune.methods import names
from edgeprune.pruning.groups import find_groups
from edgeprune.records import (
    ChannelGroup,
    CostTable,
    Environment,
    LayerStair,
    Price,
    PricedLayer,
    SensitivityCurve,
    Stair,
)

WIDTHS = {"a": (2, 4), "b": (2, 4)}
LAYERS = (("first", None, "a", 2, 0), ("middle", "a", "b", 1, 1), ("head", "b", None, 0, 1))
SCORES = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([10.0, 10.0, 10.0, 70.0])}


@dataclass(frozen=True)
class Known(Task):
    """A task whose losses are known, by the widths of a and b."""

    losses: dict[tuple[int, int], float] = field(default_factory=dict)

    def loss(self, kept: Kept) -> float:
        widths = len(kept["a"]), len(kept["b"])
        return self.losses.get(widths, float(sum(4 - w for w in widths)))


def table(widths: Mapping[str, tuple[int, ...]] = WIDTHS, kind: str = "measured") -> CostTable:
    """first costs 2 a, middle a * b, head b: 28 when dense, 16 at a = 2, 18 at b = 2, 10 at both."""
    prices = []
    for name, group_in, group_out, _, _ in LAYERS:
        for i in widths[group_in] if group_in else (1,):
            for j in widths[group_out] if group_out else (1,):
                cost = {"first": 2 * j, "middle": i * j, "head": i}[name]
                prices.append(
                    Price(layer=name, width_in=i, width_out=j, cost=cost, origin="measured")
                )
    return with_lines(
        {
            "device": "hand",
            "kind": kind,
            "unit": "us",
            "dense_cost": 28.0,
            "scale": 1.0,
            "layers": [
                PricedLayer(
                    name=name,
                    operator="Conv",
                    group_in=a,
                    group_out=b,
                    width_in=4 if a else 1,
                    width_out=4 if b else 1,
                )
                for name, a, b, _, _ in LAYERS
            ],
            "widths": dict(widths),
            "prices": prices,
            "probes": 0,
            "environment": Environment(facts={}, comparable=()),
        }
    )


def with_lines(fields: Mapping[str, object]) -> CostTable:
    """The table with each layer's prices over one width, all else dense, and no stairs in them."""
    found = CostTable.model_validate(fields)
    sides = [(layer, side) for layer in found.layers for side in layer.sides]
    swept = [
        price
        for layer, side in sides
        for price in found.prices
        if price.layer == layer.name
        and (price.width_in, price.width_out)
        == layer.at(side, price.width_out if side == "out" else price.width_in)
    ]
    stairs = [LayerStair(layer=x.name, side=side, stair=Stair(period=1)) for x, side in sides]
    return found.model_copy(update={"swept": tuple(swept), "stairs": tuple(stairs)})


def curves(**increases: tuple[float, ...]) -> dict[str, SensitivityCurve]:
    return {
        name: SensitivityCurve(
            group=name, criterion="l2", widths=tuple(range(4 - 2 * len(v) + 2, 5, 2)), increases=v
        )
        for name, v in increases.items()
    }


CURVES = curves(a=(0.5, 0.0), b=(0.1, 0.0))


def known(losses: dict[tuple[int, int], float] | None = None, **fields: object) -> Known:
    values: dict[str, object] = {
        "model": nn.Identity(),
        "data": None,
        "groups": (),
        "table": table(),
        "curves": CURVES,
        "scores": {"l2": SCORES},
        "losses": losses or {},
    }
    return Known(**{**values, **fields})  # type: ignore[arg-type]


def test_predicted_costs_between_and_below_offered_widths() -> None:
    task = known()
    assert task.cost({"a": 4, "b": 4}) == 28
    assert task.cost({"a": 2, "b": 4}) == 16
    assert task.cost({"a": 3, "b": 2}) == 6 + 6 + 2
    assert task.cost({"a": 1, "b": 4}) == 2 + 4 + 4  # the lines go on below


def test_costs_between_offered_widths_follow_the_stairs() -> None:
    """A network built for widths in tiles of 2: one channel more costs what the next tile does."""
    plain = table()
    tiles = [
        entry.model_copy(update={"stair": Stair(period=2, shares=(0.0, 1.0))})
        for entry in plain.stairs
    ]
    task = known(table=plain.model_copy(update={"stairs": tuple(tiles)}))
    assert task.cost({"a": 3, "b": 4}) == task.cost({"a": 4, "b": 4}) == 28
    assert task.cost({"a": 1, "b": 2}) == task.cost({"a": 2, "b": 2}) == 10


def test_a_narrowed_problem_and_one_with_frozen_inputs() -> None:
    problem = known().problem
    small = narrowed(problem, {"a": 3})
    assert small.widths == ((2,), (2, 4))
    assert small.cost((0, 1)) == 16
    frozen = with_frozen_inputs(problem, (1, 1))
    # first 2 a, middle 4 b, head constant at 4
    assert [frozen.cost(c) for c in ((1, 1), (0, 1), (1, 0), (0, 0))] == [28, 24, 20, 16]
    with pytest.raises(InternalCheckError, match="group b has no width of at most 1"):
        narrowed(problem, {"b": 1})


@pytest.mark.parametrize(
    ("target", "widths"), [(28, (4, 4)), (27, (4, 2)), (18, (4, 2)), (17, (2, 2)), (1, (2, 2))]
)
def test_hardware_penalty_by_hand(target: float, widths: tuple[int, int]) -> None:
    # a: 0.3 of its score for 12 us, b: 0.2 for 10 us, so b goes first
    found = ALLOCATORS["hardware_penalty"].propose(known(), target)
    assert (found.widths["a"], found.widths["b"]) == widths
    assert found.kept["b"] == ((0, 3) if widths[1] == 2 else (0, 1, 2, 3))
    assert found.gap is None


@pytest.mark.parametrize(
    ("kind", "conv", "linear"),
    # conv 3 -> 4, 3 x 3: 27 weights a channel, consumer Linear(4, 5): 5 weights and 5 / 4 of a bias
    [("cpu", 1 + 0.1 * 33.25, 0.5), ("gpu", 0.8 + 0.15 * 33.25, 0.3), ("microcontroller", 2 + 0.5 * 33.25, 1.0)],
)  # fmt: skip
def test_priors_of_hardware(kind: str, conv: float, linear: float) -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3, bias=False), "head": nn.Linear(4, 5)})
    group = ChannelGroup(name="conv", width=4, outputs=("conv",), inputs=("head",))
    task = known(groups=(group,))
    assert saving(model, task, "conv", PRIORS[kind]) == pytest.approx(conv)
    assert PRIORS[kind].linear == linear


def test_the_prior_stands_for_costs_where_nothing_was_measured() -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    groups = (
        ChannelGroup(name="a", width=4, outputs=("a",), inputs=("b",)),
        ChannelGroup(name="b", width=4, outputs=("b",), inputs=()),
    )
    # a: 0.5 + 0.1 (1 + 4) = 1 a channel, b: 0.5 + 0.1 * 4 = 0.9; 0.3 / 2 against 0.2 / 1.8: b first
    task = known(model=model, groups=groups, table=table(kind="estimated"))
    assert ALLOCATORS["hardware_penalty"].propose(task, 20).widths == {"a": 4, "b": 2}
    # with a heavy bias on b's rival the order turns: 0.3 / 20 against 0.2 / 1.8
    heavy = nn.ModuleDict({"a": nn.Linear(95, 4, bias=False), "b": model["b"]})
    task = known(model=heavy, groups=groups, table=table(kind="estimated"))
    assert ALLOCATORS["hardware_penalty"].propose(task, 20).widths == {"a": 2, "b": 4}


@pytest.mark.parametrize(
    ("loss_a", "target", "widths"),
    # a saves 12 and loses loss_a, b saves 10 and loses 0.4, that is 0.04 a us
    [(0.6, 18, (4, 2)), (0.36, 18, (2, 4)), (0.6, 15, (2, 2)), (0.36, 5, (2, 2))],
)
def test_netadapt_by_hand(loss_a: float, target: float, widths: tuple[int, int]) -> None:
    task = known({(4, 4): 0.0, (2, 4): loss_a, (4, 2): 0.4, (2, 2): 2.0})
    found = ALLOCATORS["netadapt"].propose(task, target)
    assert (found.widths["a"], found.widths["b"]) == widths


def test_halp_counts_a_layer_at_the_input_width_it_has() -> None:
    # a loses 3 of score, b 20; at the dense input widths cutting a saves 4, cutting b saves 8
    found = ALLOCATORS["halp"].propose(known(), 24)
    assert found.widths == {"a": 2, "b": 4}
    # the steps towards 10 have cut a by then; b follows
    assert ALLOCATORS["halp"].propose(known(), 10).widths == {"a": 2, "b": 2}


def test_exact_by_hand() -> None:
    found = ALLOCATORS["exact"].propose(known(), 18)
    assert found.widths == {"a": 4, "b": 2}
    assert found.gap == 0.0


def test_layer_adaptive_and_retention_by_hand() -> None:
    # mean losses 0.25 and 0.05: sensitivities 1 and 0.2; b loses 0.625 * 0.8 = half
    task = known()
    rule = ALLOCATORS["layer_adaptive"].propose(task, 18)
    assert rule.widths == {"a": 4, "b": 2}
    # 95 % of 10 are 9.5, so all of a; 95 % of 100 need all of b
    assert ALLOCATORS["retention"].propose(task, 5).widths == {"a": 4, "b": 4}
    assert not ALLOCATORS["retention"].steerable


def test_adaptive_alpha_by_hand() -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 4, bias=False), "b": nn.Linear(1, 4, bias=False)})
    with torch.no_grad():
        model["a"].weight.copy_(torch.tensor([[1.0], [-1.0], [1.0], [1.0]]))  # cv 0
        model["b"].weight.copy_(torch.tensor([[1.0], [-3.0], [1.0], [3.0]]))  # cv 0.5
    # alpha 1/3: a loses round(4/3) = 1, b round(4/3 * 1.5) = 2: 6 + 6 + 2 = 14
    task = known(model=model)
    assert ALLOCATORS["adaptive_alpha"].propose(task, 14).widths == {"a": 3, "b": 2}


def test_the_lowest_knob_that_is_enough() -> None:
    def half_of_a(task: Task, knob: float) -> Kept:
        return task.best({"a": 4 if knob < 0.3 else 2, "b": 4})

    seen = within(half_of_a, 1.0)(task := known(), 20)
    assert seen.widths == {"a": 2, "b": 4}
    knobs = [key[-1] for key in task.memory]  # type: ignore[index]
    assert math.ceil(0.3 * 256) in knobs
    assert within(half_of_a, 1.0)(known(), 28).widths == {"a": 4, "b": 4}
    assert within(half_of_a, 1.0)(known(), 1).widths == {"a": 2, "b": 4}  # as far as it goes


def test_a_knob_stops_at_the_first_place_within_the_target_where_costs_go_up_and_down() -> None:
    """Three channels run slow kernels: as wide as possible at a cost of 20 is 2, not 1."""

    def less_of_a(task: Task, knob: float) -> Kept:
        return task.best({"a": 4 - int(3.9 * knob), "b": 4})

    class Jagged(Known):
        def cost(self, widths: Mapping[str, int]) -> float:
            return {4: 28.0, 3: 40.0, 2: 16.0, 1: 19.0}[widths["a"]]

    task = Jagged(**vars(known()))
    assert within(less_of_a, 1.0)(task, 20).widths == {"a": 2, "b": 4}
    assert within(less_of_a, 1.0)(task, 30).widths == {"a": 4, "b": 4}
    assert within(less_of_a, 1.0)(task, 10).widths == {"a": 2, "b": 4}  # none: the cheapest


def test_domination_and_sorting_by_hand() -> None:
    assert dominates((1, 1), (1, 2))
    assert not dominates((1, 1), (1, 1))
    assert not dominates((1, 3), (2, 2))
    values = [(0.0, 10.0), (1.0, 5.0), (4.0, 0.0), (2.0, 6.0), (5.0, 5.0)]
    ranks, crowding = sort(values)
    assert ranks == [0, 0, 0, 1, 1]
    assert crowding[:3] == [math.inf, 4 / 4 + 10 / 10, math.inf]
    assert front(values) == [0, 1, 2]
    assert front([(1.0, 1.0), (1.0, 1.0), (0.0, 2.0)]) == [2, 0]


@pytest.mark.parametrize("name", ["evolutionary", "annealing"])
def test_searches_find_the_best_of_a_small_problem_and_its_front(name: str) -> None:
    wide = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)}
    losses = {(a, b): (4 - a) ** 2 + 2.0 * (4 - b) for a in range(1, 5) for b in range(1, 5)}
    flat = {
        n: SensitivityCurve(group=n, criterion="l2", widths=(1, 2, 3, 4), increases=(0.0,) * 4)
        for n in wide
    }
    task = known(losses, table=table(wide), curves=flat)
    found = ALLOCATORS[name].propose(task, 18)
    # within 18: (3, 3): 6 + 9 + 3 = 18 loses 3; (4, 2): 18 loses 4; (2, 4): 16 loses 4
    assert found.widths == {"a": 3, "b": 3}
    assert found.gap is None
    assert all(
        x.cost < y.cost and x.loss > y.loss
        for x, y in zip(found.front, found.front[1:], strict=False)
    )
    assert any(p.widths == {"a": 3, "b": 3} for p in found.front)
    again = ALLOCATORS[name].propose(replace(task, memory={}), 18)
    assert again == found  # drawn from the seed


def test_annealing_measures_no_more_than_it_may() -> None:
    wide = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)}
    flat = {
        n: SensitivityCurve(group=n, criterion="l2", widths=(1, 2, 3, 4), increases=(0.0,) * 4)
        for n in wide
    }
    archive = Archive(known(table=table(wide), curves=flat), {})
    anneal(archive, 18, np.random.default_rng(0), 3)
    assert 1 <= len(archive.found) <= 3


@pytest.mark.parametrize("error", [0.8, 1.0, 1.3])
def test_a_knob_is_turned_until_the_measured_cost_fits(build, error: float) -> None:
    task = _plain(build)

    def measure(groups) -> Measured:
        cost = error * task.cost({name: group.after for name, group in groups.items()})
        return Measured(cost, cost, cost)

    dense = error * task.cost(task.widths)
    plan = reach("uniform", task, 0.5 * dense, measure=measure)
    assert 0.93 * 0.5 * dense <= plan.corrected <= 0.5 * dense
    assert (plan.gap, plan.allocation, len(plan.rounds) <= 6) == (None, "uniform", True)
    assert plan.predicted_error == pytest.approx(1 / error - 1)


def test_a_rule_without_a_knob_reports_what_it_reached(build) -> None:
    task = _plain(build)
    measured = []

    def measure(groups) -> Measured:
        measured.append(groups)
        return Measured(99.0, 99.0, 99.0)

    plan = reach("retention", task, 10.0, measure=measure)
    assert (plan.corrected, plan.budget, len(measured)) == (99.0, 10.0, 1)


def test_names() -> None:
    assert set(ALLOCATORS) == set(names("allocation"))
    with pytest.raises(
        UsageError, match=r"no allocation 'unifrom'; did you mean 'uniform'\?.*halp"
    ):
        allocator("unifrom")


def _plain(build) -> Task:
    """The plain network, whose layers cost what their multiplications are."""
    model, inputs = build("plain")
    ones, twos = tuple(range(1, 17)), tuple(range(1, 25))
    prices = [
        *(("conv1", 3, w, 27 * 64 * w) for w in ones),
        *(("conv2", a, b, 9 * 16 * a * b) for a in ones for b in twos),
        *(("head", b, 10, 10 * b) for b in twos),
    ]
    found = with_lines(
        {
            **table().model_dump(),
            "layers": [
                {"name": n, "operator": "Conv", "group_in": a, "group_out": b, "width_in": i, "width_out": o}
                for n, a, b, i, o in (
                    ("conv1", None, "conv1", 3, 16),
                    ("conv2", "conv1", "conv2", 16, 24),
                    ("head", "conv2", None, 24, 10),
                )
            ],
            "widths": {"conv1": ones, "conv2": twos},
            "prices": [
                {"layer": n, "width_in": i, "width_out": o, "cost": c, "origin": "measured"}
                for n, i, o, c in prices
            ],
        }
    )  # fmt: skip
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.arange(64) % 10)]
    data = Data(inputs, batches, batches, batches)
    losses = {
        n: SensitivityCurve(group=n, criterion="l2", widths=w, increases=(0.0,) * len(w))
        for n, w in {"conv1": ones, "conv2": twos}.items()
    }
    scores = {n: torch.rand(len(w), generator=torch.Generator().manual_seed(1)) for n, w in {"conv1": ones, "conv2": twos}.items()}  # fmt: skip
    groups = find_groups(model, inputs).groups
    return Task(model, data, groups, found, losses, {"l2": scores}, criterion="l2")
