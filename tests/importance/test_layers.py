"""Every criterion on every type of layer, against its formula over slices written out by hand.

A case names the weights that belong to channel k of its first group, layer by layer; the formulas
are evaluated on these slices with plain automatic differentiation, one sample at a time.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance import curvature
from edgeprune.importance.normalisation import NORMALISATIONS, normalise
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import score_channels
from edgeprune.pruning.groups import find_groups

Slices = Callable[[dict[str, Tensor], int], list[Tensor]]


class Case(NamedTuple):
    """A network, its input shape, and the slices of channel k; `silent` count in no Taylor sum."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    group: str
    slices: Slices
    silent: Slices = lambda w, k: []


class Recurrent(nn.Module):
    """A recurrent layer of 3 units between its input and a linear layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def recurrent(gates: int) -> Slices:
    def slices(w: dict[str, Tensor], k: int) -> list[Tensor]:
        rows = [k + 3 * gate for gate in range(gates)]
        ih, hh = w["layer.weight_ih_l0"], w["layer.weight_hh_l0"]
        own = torch.cat([ih[rows].flatten(), hh[rows].flatten(), hh[:, k].flatten()])
        return [own, w["head.weight"][:, k]]

    return slices


def chain(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


CASES = {
    "linear": Case(
        chain(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)), (4,), "0",
        lambda w, k: [w["0.weight"][k], w["2.weight"][:, k]],
    ),
    "conv1d": Case(
        chain(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        (2, 7), "0",
        lambda w, k: [w["0.weight"][k], w["2.weight"][:, k]],
    ),
    "conv2d": Case(
        chain(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (2, 6, 6), "0",
        lambda w, k: [w["0.weight"][k], w["3.weight"][:, k]],
        lambda w, k: [w["1.weight"][k : k + 1]],
    ),
    "flattened": Case(  # channel k is read at 2 x 2 positions
        chain(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)), (1, 3, 3), "0",
        lambda w, k: [w["0.weight"][k], *w["3.weight"][:, 4 * k : 4 * k + 4].T],
    ),
    "depthwise": Case(
        chain(
            nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        (2, 5, 5), "2",
        lambda w, k: [w["0.weight"][k], w["2.weight"][k], w["3.weight"][:, k]],
    ),
    "grouped": Case(
        chain(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ),
        (2, 5, 5), "2",
        lambda w, k: [w["2.weight"][k], w["4.weight"][:, k]],
    ),
    "rnn": Case(lambda: Recurrent(nn.RNN(2, 3, batch_first=True)), (5, 2), "layer", recurrent(1)),
    "gru": Case(lambda: Recurrent(nn.GRU(2, 3, batch_first=True)), (5, 2), "layer", recurrent(3)),
    "lstm": Case(lambda: Recurrent(nn.LSTM(2, 3, batch_first=True)), (5, 2), "layer", recurrent(4)),
}  # fmt: skip


@contextlib.contextmanager
def differentiable_twice(model: nn.Module) -> Iterator[None]:
    """oneDNN's recurrent layers have no second derivative."""
    if not isinstance(model, Recurrent):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


REFUSED = ("output_error", "refit_error")  # read no consumers that are grouped convolutions
DENSE = ("depthwise", "rnn", "gru", "lstm")  # what is consumed is never 0: no ReLU in front
SAMPLES = 40  # a batch of 32 and one of 8


class Setting(NamedTuple):
    model: nn.Module
    x: Tensor
    y: Tensor
    width: int

    def weights(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.model.named_parameters()}

    def gradients(self, part: slice) -> dict[str, Tensor]:
        self.model.zero_grad()
        cross_entropy(self.model(self.x[part]), self.y[part]).backward()
        return {n: p.grad.clone() for n, p in self.model.named_parameters()}  # type: ignore[union-attr]

    def products(self, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hessian of the mean loss times `vector`."""
        parameters = dict(self.model.named_parameters())
        with differentiable_twice(self.model):
            loss = cross_entropy(self.model(self.x), self.y)
            first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            inner = sum((g * vector[n]).sum() for n, g in zip(parameters, first, strict=True))
            found = torch.autograd.grad(inner, list(parameters.values()))
        return dict(zip(parameters, found, strict=True))


def setting(case: Case) -> Setting:
    torch.manual_seed(11)
    model = case.build().eval()
    y = torch.arange(SAMPLES) % 3
    x = torch.randn(SAMPLES, *case.shape) + y.view(-1, *[1] * len(case.shape)) / 2
    width = next(g.width for g in find_groups(model, (x[:1],)).groups if g.name == case.group)
    return Setting(model, x, y, width)


def scored(case: Case, found: Setting, criterion: str, probes: int = 32) -> list[float]:
    data = Data(found.x[:1], None, [(found.x, found.y)], [])
    groups = [g for g in find_groups(found.model, (found.x[:1],)).groups if g.name == case.group]
    scores = score_channels(found.model, data, groups, criterion, samples=SAMPLES, probes=probes)
    return scores[case.group].tolist()


def per_channel(case: Case, found: Setting, values: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """Yield the slices of every channel, those of normalisation scales at the end."""
    for k in range(found.width):
        yield [*case.slices(values, k), *case.silent(values, k)]


def whole(slices: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in slices]).double()


def expected(case: Case, found: Setting, criterion: str) -> list[float]:
    w = found.weights()
    channels = list(per_channel(case, found, w))
    mean = found.gradients(slice(None))
    if criterion == "l1":
        return [float(whole(c).abs().sum()) for c in channels]
    if criterion == "l2":
        return [float(whole(c).square().sum()) for c in channels]
    if criterion == "variance":
        return [float(whole(c).var(correction=0)) for c in channels]
    if criterion == "gradient":
        parts = [found.gradients(slice(0, 32)), found.gradients(slice(32, None))]
        sums = {n: sum(g[n].abs() for g in parts) for n in mean}
        return [float(whole(c).sum()) for c in per_channel(case, found, sums)]  # type: ignore[arg-type]
    if criterion == "snip":
        product = {n: (w[n] * mean[n]).abs() for n in mean}
        return [float(whole(c).sum()) for c in per_channel(case, found, product)]
    if criterion == "taylor":  # abs of the sum, layer by layer; normalisation is left out
        product = {n: w[n] * mean[n] for n in mean}
        return [
            sum(abs(float(part.sum())) for part in case.slices(product, k))
            for k in range(found.width)
        ]
    if criterion == "fisher":
        single = [found.gradients(slice(n, n + 1)) for n in range(SAMPLES)]
        squares = {n: sum(g[n].square() for g in single) / SAMPLES for n in mean}
        return [float(whole(c).sum()) for c in per_channel(case, found, squares)]  # type: ignore[arg-type]
    if criterion == "grasp":
        products = found.products(mean)
        signed = {n: w[n] * products[n] for n in mean}
        return [float(whole(c).sum()) for c in per_channel(case, found, signed)]
    raise AssertionError(criterion)


FORMULAS = ("l1", "l2", "variance", "gradient", "snip", "taylor", "fisher", "grasp")


@pytest.mark.parametrize("criterion", FORMULAS)
@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_formula_over_the_slices(name: str, criterion: str) -> None:
    case = CASES[name]
    found = setting(case)
    wanted = expected(case, found, criterion)
    scale = max(abs(value) for value in wanted)
    assert scored(case, found, criterion) == pytest.approx(wanted, rel=2e-3, abs=2e-5 * scale)


class Hadamard:
    """Probes whose signs are the rows of a Hadamard matrix: over all of them the trace is exact."""

    def __init__(self, parameters: int) -> None:
        self.rows = 2 ** math.ceil(math.log2(parameters))
        self.matrix = torch.ones(1, 1)
        while len(self.matrix) < self.rows:
            both = torch.cat((self.matrix, self.matrix), 1)
            self.matrix = torch.cat((both, torch.cat((self.matrix, -self.matrix), 1)), 0)
        self.parameters, self.row, self.column = parameters, 0, 0

    def draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        signs = self.matrix[self.row % self.rows, self.column : self.column + like.numel()]
        self.column += like.numel()
        if self.column == self.parameters:
            self.row, self.column = self.row + 1, 0
        return signs.reshape(like.shape).clone()


@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d", "depthwise", "rnn"])
def test_traces_are_those_of_the_hessian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The diagonal of the Hessian, entry by entry, against Hutchinson's over orthogonal probes."""
    case = CASES[name]
    found = setting(case)
    w = found.weights()
    diagonal = {n: torch.zeros(p.shape) for n, p in w.items()}
    for n, p in w.items():
        for index in range(p.numel()):
            unit = {m: torch.zeros(q.shape) for m, q in w.items()}
            unit[n].view(-1)[index] = 1.0
            diagonal[n].view(-1)[index] = found.products(unit)[n].reshape(-1)[index]
    traces = [float(whole(c).sum()) for c in per_channel(case, found, diagonal)]
    sizes = [float(whole(c).square().mean()) for c in per_channel(case, found, w)]
    wanted = [t * s for t, s in zip(traces, sizes, strict=True)]
    probes = Hadamard(sum(p.numel() for p in w.values()))
    monkeypatch.setattr(curvature, "_signs", probes.draw)
    got = scored(case, found, "hessian", probes=2 * probes.rows)  # all of them for each batch
    assert probes.row == 2 * probes.rows
    assert got == pytest.approx(wanted, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("criterion", [n for n in CRITERIA if n != "bn_scale"])
@pytest.mark.parametrize("name", CASES)
def test_every_criterion_scores_every_type_of_layer_alone_and_together(
    name: str, criterion: str
) -> None:
    case = CASES[name]
    found = setting(case)
    data = Data(found.x[:1], None, [(found.x, found.y)], [])
    groups = find_groups(found.model, (found.x[:1],)).groups
    if name == "grouped" and criterion in REFUSED:
        with pytest.raises(UsageError, match="it is a grouped convolution"):
            score_channels(found.model, data, groups, criterion, samples=SAMPLES)
        return
    scores = score_channels(found.model, data, groups, criterion, samples=SAMPLES)
    told_apart = len(set(scores[case.group].tolist())) > 1
    assert told_apart != (criterion == "apoz" and name in DENSE)
    for how in NORMALISATIONS:
        together = normalise(scores, how)
        assert all(together[g.name].shape == (g.width,) for g in groups)
        assert all(score.isfinite().all() for score in together.values())


def test_scales_of_batchnorm() -> None:
    case = CASES["conv2d"]
    found = setting(case)
    with torch.no_grad():
        found.model[1].weight.copy_(torch.tensor([0.5, -2.0, 1.0, 0.0]))
    assert scored(case, found, "bn_scale") == pytest.approx([0.5, 2.0, 1.0, 0.0])
    assert math.isclose(sum(scored(case, found, "bn_scale")), 3.5)
