"""Least-squares reconstruction: layers behind a cut re-fitted from calibration inputs, no labels.

From the first layer on that lost input channels, or follows a branch that is gone, each layer is
given the weights with which its output comes closest to the dense model's (after arXiv 1707.06168,
with all channels chosen beforehand):

    minimise over W, b   sum over positions of ||W x + b - y||^2 + ridge * scale * ||W - W0||^2

x is what the layer receives in the slim model, whose earlier layers are already re-fitted; y is the
output of the same layer in the dense model, at the channels that stay; W0 are the weights as cut
and `scale` is the mean of the diagonal of the Gram matrix. The minimum is solved for, not trained.
Of a convolution's positions, a random 40 for each unknown are enough.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches
from edgeprune.pruning.channels import is_carrier
from edgeprune.pruning.groups import members
from edgeprune.pruning.ties import ties
from edgeprune.recovery.batchnorm import NORMS
from edgeprune.recovery.positions import Drawing, by_position, count, patches

SAMPLES = 1024
BATCH = 64  # samples whose patches are held at once
RIDGE = 1e-3
UNKNOWNS = 10_000  # weights of one output, at most: their Gram matrix takes 800 MB
HELD = 256e6  # bytes of the dense model's outputs that are kept from one pass of it
Inputs = tuple[Tensor, ...]
Target = tuple[Tensor | None, Tensor]  # positions of a batch, and the outputs there


class Refit(NamedTuple):
    """A layer, and its squared error over the variance of the dense output, before and after."""

    layer: str
    before: float
    after: float


class Reconstruction(NamedTuple):
    """The re-fitted model, what was re-fitted in order, and (layer, reason) of what was left."""

    model: nn.Module
    refitted: tuple[Refit, ...]
    left_alone: tuple[tuple[str, str], ...]


def reconstruct(
    slim: nn.Module,
    dense: nn.Module,
    data: Data,
    kept: Mapping[str, Sequence[int]],
    *,
    samples: int = SAMPLES,
    ridge: float = RIDGE,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Reconstruction:
    """Return a copy of `slim` whose layers behind the cuts give the dense model's outputs again.

    Convolutions (one and two dimensions) and linear layers are re-fitted in the order in which they
    run, those too that lost no channel: what they receive is no longer the same. The constant b
    goes into the layer's bias, or into the running mean of the BatchNorm that follows; where there
    is neither, the fit does without. Layers that share parameters are left alone: what suits one
    would change the other.

    Args:
        slim: the cut model.
        dense: the model it was cut from.
        data: its calibration inputs are used; labels are not.
        kept: group -> channels that stayed, as in the plan.
        samples: calibration samples, at most.
        ridge: weight that keeps the solution near the weights as cut.
        progress: receives (done, total, layer).

    Raises:
        DataError: there are no calibration batches.
    """
    slim, dense = copy.deepcopy(slim).eval(), dense.eval()
    taken = first_batches(data.calibration, samples, "calibration")
    inputs = [part for x, _ in taken for part in _split(x)]
    outputs, consumers = _roles(dense, data.example, kept)
    whole = _run_of(dense, data.example)
    order, norms, _ = _run_of(slim, data.example)
    layers, originals = dict(slim.named_modules()), dict(dense.named_modules())
    refitted: list[Refit] = []
    left = [(name, "it was not called") for name in consumers if name not in whole.order]
    consumers &= set(order)
    gone = {n for n in whole.order if type(layers.get(n)) is not type(originals[n])}
    ran = list(whole.order)
    first = next((k for k, name in enumerate(ran) if name in consumers | gone), len(ran))
    later = set(ran[first:])
    wanted = [n for n in order if n in consumers or (n in later and not obstacle(layers[n]))]
    tied = {name.rpartition(".")[0] for names in ties(slim) for name in names}
    reasons = {n: "it runs more than once" if order[n] > 1 else obstacle(layers[n]) for n in wanted}
    reasons |= {n: "it shares its weights with another layer" for n in wanted if n in tied}
    left += [(name, reason) for name, reason in reasons.items() if reason and name in consumers]
    fitted = [name for name in wanted if not reasons[name]]
    targets: dict[str, list[Target]] = {}
    for done, name in enumerate(fitted):
        progress(done, len(fitted), name)
        constant = layers[name].bias is not None or name in norms
        sums = NormalEquations(layers[name], len(inputs), fits_constant=constant)
        with torch.inference_mode():
            if name not in targets:
                drawings = _held_at_once(fitted[done:], layers, whole, inputs)
                targets = _targets(dense, drawings, outputs, inputs)
            for batch, (chosen, output) in zip(inputs, targets.pop(name), strict=True):
                entered = _received(slim, layers[name], batch)
                sums.take(patches(layers[name], entered, chosen), output)
        refitted.append(sums.solve(name, ridge, layers[norms[name]] if name in norms else None))
    progress(len(fitted), len(fitted), "")
    return Reconstruction(slim.eval(), tuple(refitted), tuple(left))


class NormalEquations:
    """The normal equations of one layer, summed batch by batch in double precision."""

    def __init__(self, layer: nn.Module, batches: int, *, fits_constant: bool) -> None:
        self.layer, self.constant = layer, fits_constant
        self.drawing = Drawing(layer, batches)
        self.weight: Tensor = layer.weight.detach().flatten(1).double()  # type: ignore[operator]
        size, out = self.weight.shape[1] + 1, self.weight.shape[0]
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, out, dtype=torch.float64)
        self.square = torch.zeros(out, dtype=torch.float64)

    def add(self, entered: Tensor, wanted: Tensor) -> None:
        """Take in inputs of the slim layer and outputs [positions, channels] of the dense one."""
        chosen = self.drawing(len(wanted))
        self.take(
            patches(self.layer, entered, chosen), wanted if chosen is None else wanted[chosen]
        )

    def take(self, rows: Tensor, wanted: Tensor) -> None:
        """Take in patches [positions, weights of one output] and outputs [positions, channels]."""
        rows = torch.cat((rows, torch.ones(len(rows), 1)), 1)
        self.gram += (rows.T @ rows).double()
        self.cross += (rows.T @ wanted).double()
        self.square += wanted.double().square().sum(0)

    def solve(self, name: str, ridge: float, norm: nn.Module | None) -> Refit:
        """Set the layer's weights, and its bias or the mean of `norm`, to the optimum."""
        bias: Tensor | None = getattr(self.layer, "bias", None)
        start = torch.cat((self.weight.T, torch.zeros(1, self.weight.shape[0])), 0)
        start = start.double()
        if bias is not None:
            start[-1] = bias.detach().double()
        used = slice(None) if self.constant else slice(0, -1)
        gram, cross = self.gram[used, used], self.cross[used]
        damping = ridge * gram.diagonal()[: self.weight.shape[1]].mean()
        diagonal = torch.full((len(gram),), float(damping), dtype=torch.float64)
        if self.constant:
            diagonal[-1] = 0.0
        step = torch.linalg.lstsq(
            gram + torch.diag(diagonal), cross - gram @ start[used], driver="gelsd"
        ).solution
        solution = start.clone()
        solution[used] += step
        before, after = self._error(start), self._error(solution)
        with torch.no_grad():
            weight: Any = self.layer.weight
            weight.copy_(solution[:-1].T.reshape(weight.shape))
            if bias is not None:
                bias.copy_(solution[-1])
            elif norm is not None:
                mean: Any = norm.running_mean
                mean.sub_(solution[-1].to(mean.dtype))
        return Refit(name, before, after)

    def _error(self, solution: Tensor) -> float:
        """Return the squared error over the variance of the dense output."""
        fitted = (solution * (self.gram @ solution)).sum() - 2 * (solution * self.cross).sum()
        mean = self.cross[-1].square() / self.gram[-1, -1]
        variance = float((self.square - mean).sum())
        return max(0.0, float(fitted + self.square.sum())) / max(variance, 1e-12)


def _split(inputs: Inputs) -> list[Inputs]:
    return list(zip(*(x.split(BATCH) for x in inputs), strict=True))


def _roles(
    dense: nn.Module, example: Inputs, kept: Mapping[str, Sequence[int]]
) -> tuple[dict[str, list[int]], set[str]]:
    """Return (layer -> output channels that stay, layers whose input was cut)."""
    layers = dict(dense.named_modules())
    outputs: dict[str, list[int]] = {}
    consumers: set[str] = set()
    for name, group in members(dense, example).items():
        if name not in kept or len(kept[name]) == len(group[0].indices):
            continue
        for member in group:
            if is_carrier(layers[member.layer]):
                continue
            if member.side == "in":
                consumers.add(member.layer)
            else:
                outputs[member.layer] = sorted(i for k in kept[name] for i in member.indices[k])
    return outputs, consumers


class _Run(NamedTuple):
    """One forward pass.

    Args:
        order: layer -> how often it runs, in order of the first run.
        norms: layer -> the BatchNorm behind it, which receives that layer's very output.
        positions: layer -> positions of its output for one sample.
    """

    order: dict[str, int]
    norms: dict[str, str]
    positions: dict[str, int]


def _run_of(model: nn.Module, example: Inputs) -> _Run:
    run = _Run({}, {}, {})
    given: dict[int, tuple[str, Tensor]] = {}
    handles = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def called(module: nn.Module, entered: Any, output: Any) -> None:
            run.order[name] = run.order.get(name, 0) + 1
            source = given.get(id(entered[0])) if entered else None
            if isinstance(module, NORMS) and module.track_running_stats and source is not None:
                run.norms[source[0]] = name
            if isinstance(output, Tensor):
                given[id(output)] = (name, output)  # held, so that the id stays its own
                if output.ndim > 1:
                    run.positions[name] = -(-count(output, module) // len(example[0]))

        return called

    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(hook(name)))
    with torch.inference_mode():
        model(*example)
    for handle in handles:
        handle.remove()
    return run


def _held_at_once(
    names: Sequence[str], layers: Mapping[str, nn.Module], dense: _Run, batches: Sequence[Inputs]
) -> dict[str, Drawing]:
    """Return the first of the layers, as many as one pass keeps the dense outputs of."""
    found: dict[str, Drawing] = {}
    samples, held = sum(len(batch[0]) for batch in batches), 0
    for name in names:
        weight: Any = layers[name].weight
        drawing = Drawing(layers[name], len(batches))
        rows = min(samples * dense.positions.get(name, 1), len(batches) * drawing.most)
        held += weight.element_size() * rows * len(weight)
        if found and held > HELD:
            break
        found[name] = drawing
    return found


def obstacle(layer: nn.Module) -> str:
    """Return why a layer cannot be re-fitted, or ""."""
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return f"{type(layer).__name__} is not re-fitted"
    if (unknowns := layer.weight[0].numel()) > UNKNOWNS:
        return f"each output has {unknowns:,} weights, more than {UNKNOWNS:,}"
    if isinstance(layer, nn.Linear):
        return ""
    if layer.groups > 1:
        return "it is a grouped convolution"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"its padding is {layer.padding_mode} {layer.padding}"
    return ""


class _Reached(Exception):
    """The layer of interest has run; the rest of the forward pass is not needed."""


def _received(slim: nn.Module, layer: nn.Module, inputs: Inputs) -> Tensor:
    """Return what `layer` receives in `slim`."""
    caught: list[Tensor] = []

    def before(_: nn.Module, entered: tuple[Tensor, ...]) -> None:
        caught.append(entered[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(before)
    try:
        _call(slim, inputs)
    finally:
        handle.remove()
    return caught[0]


def _targets(
    dense: nn.Module,
    drawings: Mapping[str, Drawing],
    outputs: Mapping[str, list[int]],
    batches: Sequence[Inputs],
) -> dict[str, list[Target]]:
    """Return layer -> its outputs in `dense` for each batch, at positions drawn from all."""
    layers = dict(dense.named_modules())
    found: dict[str, list[Target]] = {name: [] for name in drawings}
    batch = 0

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def called(layer: nn.Module, _: Any, output: Tensor) -> None:
            if len(found[name]) > batch:  # a layer that runs again
                return
            chosen = drawings[name](count(output, layer))
            found[name].append((chosen, by_position(output, layer, outputs.get(name), chosen)))
            if all(len(targets) > batch for targets in found.values()):
                raise _Reached

        return called

    handles = [layers[name].register_forward_hook(hook(name)) for name in drawings]
    try:
        for batch, inputs in enumerate(batches):  # noqa: B007 - the hooks read it
            _call(dense, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _call(model: nn.Module, inputs: Inputs) -> None:
    try:
        call(model, inputs)
    except _Reached:
        return
