"""Linear collapse: Linear - activation - Linear into one Linear, where a linear map comes close.

With x the input of the first layer and y the output of the last one on calibration data,

    minimise over W, b   sum of ||W x + b - y||^2  +  ridge * s * ||W||^2

where s is the mean of the diagonal of the Gram matrix of x. Nothing is trained, no label is used.
Anything that works value by value (or normalises) may stand between: only x and y count.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeprune.data import call
from edgeprune.records import Chain
from edgeprune.recovery.reconstruction import NormalEquations

MODULES = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid,
    nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
    nn.BatchNorm1d, nn.Dropout, nn.Identity, nn.LayerNorm,
)  # fmt: skip
FUNCTIONS = (
    torch.relu, torch.sigmoid, torch.tanh, functional.celu, functional.dropout, functional.elu,
    functional.gelu, functional.hardsigmoid, functional.hardswish, functional.hardtanh,
    functional.leaky_relu, functional.logsigmoid, functional.mish, functional.relu,
    functional.relu6, functional.selu, functional.sigmoid, functional.silu, functional.softplus,
    functional.softsign, functional.tanh, functional.tanhshrink,
)  # fmt: skip
METHODS = ("relu", "sigmoid", "tanh")
Inputs = tuple[Tensor, ...]


def find_chains(model: nn.Module) -> tuple[Chain, ...]:
    """Return every Linear - ... - Linear of `model`, in the order in which they run.

    The model is traced with torch.fx; where that fails, the children of each nn.Sequential are
    looked at. A chain's inner values are used nowhere else, and its linear layers run once.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # noqa: BLE001 - control flow on values raises whatever the model raises
        return tuple(_chains_in_sequences(model))
    return tuple(_chains_in_graph(model, graph))


def fit(model: nn.Module, chain: Chain, calibration: Sequence[Inputs], ridge: float) -> nn.Linear:
    """Return the linear layer that comes closest to `chain` on the `calibration` inputs."""
    layers = dict(model.named_modules())
    first, last = layers[chain.first], layers[chain.last]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    layer = nn.Linear(first.in_features, last.out_features)
    with torch.no_grad():
        layer.weight.zero_()
        assert layer.bias is not None
        layer.bias.zero_()
        sums = NormalEquations(layer, len(calibration), fits_constant=True)
        for entered, left in _passing(model, first, last, calibration):
            sums.add(entered, left)
        sums.solve(chain.first, ridge, None)
    trained = first.weight.requires_grad or last.weight.requires_grad
    return layer.requires_grad_(trained).eval()


def error_of(model: nn.Module, chain: Chain, layer: nn.Linear, inputs: Sequence[Inputs]) -> float:
    """Return the squared error of `layer` over the variance of the chain's output."""
    layers = dict(model.named_modules())
    wrong = square = 0.0
    total, count = torch.zeros(layer.out_features, dtype=torch.float64), 0
    with torch.no_grad():
        for entered, left in _passing(model, layers[chain.first], layers[chain.last], inputs):
            wanted = left.double()
            wrong += float((layer(entered).double() - wanted).square().sum())
            square += float(wanted.square().sum())
            total += wanted.sum(0)
            count += len(wanted)
    variance = square - float(total.square().sum()) / count
    return wrong / max(variance, 1e-12)


def collapse(model: nn.Module, chain: Chain, layer: nn.Linear) -> nn.Module:
    """Return a copy of `model` in which `layer` stands for `chain`, under the first layer's name.

    Modules of their own are replaced in place (by Identity behind the first); otherwise the model
    becomes the rewritten graph, a torch.fx.GraphModule.
    """
    slim = copy.deepcopy(model)
    if chain.swappable:
        for name in (*chain.between, chain.last):
            _put(slim, name, nn.Identity())
        _put(slim, chain.first, copy.deepcopy(layer))
        return slim.eval()
    graph = fx.Tracer().trace(slim)
    nodes = {node.target: node for node in graph.nodes if node.op == "call_module"}
    first, last = nodes[chain.first], nodes[chain.last]
    inner = last.all_input_nodes[0]
    last.replace_all_uses_with(first)
    graph.erase_node(last)
    while inner is not first:
        before = inner.all_input_nodes[0]
        graph.erase_node(inner)
        inner = before
    _put(slim, chain.first, copy.deepcopy(layer))
    return fx.GraphModule(slim, graph, type(model).__name__).eval()


def bridge(weight: Tensor, bias: Tensor, hidden: int, eps: float) -> tuple[nn.Linear, nn.Linear]:
    """Return the two layers around a sigmoid that pass x -> weight x + bias through, masked.

    The first layer is eps times the identity without bias, the second weight / (eps / 4) with bias
    b - sum(second) / 2: near 0 the sigmoid is 1/2 + x/4. Units above the number of inputs stay 0,
    so that at most inputs + outputs * (inputs + 1) weights are not zero. The error falls with eps^2
    until rounding of the sigmoid's 1/2 takes over.

    Args:
        weight: [outputs, inputs], with inputs <= hidden.
        bias: [outputs].
        hidden: units between the layers.
        eps: scale of what enters the sigmoid.

    Raises:
        ValueError: fewer hidden units than inputs, or `eps` not above 0.
    """
    outputs, inputs = weight.shape
    if hidden < inputs or not eps > 0:
        raise ValueError(f"{hidden} hidden units for {inputs} inputs, eps {eps}")
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:inputs] = eps * torch.eye(inputs)
        first.bias.zero_()
        last.weight.zero_()
        last.weight[:, :inputs] = weight / (eps * 0.25)
        last.bias.copy_(bias.double() - last.weight.double().sum(1) / 2)
    return first, last


def _chains_in_graph(model: nn.Module, graph: fx.Graph) -> Iterator[Chain]:
    layers = dict(model.named_modules())
    runs = Counter(node.target for node in graph.nodes if node.op == "call_module")

    def linear(node: fx.Node) -> bool:
        return (
            node.op == "call_module"
            and type(layers[str(node.target)]) is nn.Linear
            and runs[node.target] == 1
        )

    def inner(node: fx.Node) -> bool:
        if len(node.all_input_nodes) != 1:
            return False
        if node.op == "call_module":
            return isinstance(layers[str(node.target)], MODULES)
        if node.op == "call_function":
            return node.target in FUNCTIONS
        return node.op == "call_method" and node.target in METHODS

    for start in graph.nodes:
        if not linear(start):
            continue
        node, between = start, list[fx.Node]()
        while len(node.users) == 1:
            node = next(iter(node.users))
            if linear(node) and node.all_input_nodes == [(between or [start])[-1]]:
                modules = all(n.op == "call_module" and runs[n.target] == 1 for n in between)
                names = tuple(getattr(n.target, "__name__", str(n.target)) for n in between)
                yield Chain(
                    first=str(start.target),
                    between=names,
                    last=str(node.target),
                    swappable=modules,
                )
                break
            if not inner(node):
                break
            between.append(node)


def _chains_in_sequences(model: nn.Module) -> Iterator[Chain]:
    everywhere = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    for name, sequence in model.named_modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        first, between = "", list[str]()
        for key, child in sequence.named_children():
            path = f"{name}.{key}" if name else key
            if type(child) is nn.Linear and everywhere[id(child)] == 1:
                if first:
                    yield Chain(first=first, between=tuple(between), last=path, swappable=True)
                first, between = path, []
            elif first and isinstance(child, MODULES):
                between.append(path)
            else:
                first, between = "", []


def _passing(
    model: nn.Module, first: nn.Module, last: nn.Module, batches: Sequence[Inputs]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (input of `first`, output of `last`) as [positions, values], batch by batch."""
    for inputs in batches:
        with _watching(first, last) as (entered, left), torch.inference_mode():
            call(model.eval(), inputs)
        for x, y in zip(entered, left, strict=True):
            yield x.reshape(-1, x.shape[-1]).clone(), y.reshape(-1, y.shape[-1]).clone()


@contextmanager
def _watching(first: nn.Module, last: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    entered, left = list[Tensor](), list[Tensor]()
    handles = (
        first.register_forward_pre_hook(lambda _, args: entered.append(args[0])),
        last.register_forward_hook(lambda _, args, output: left.append(output)),
    )
    try:
        yield entered, left
    finally:
        for handle in handles:
            handle.remove()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(model.get_submodule(parent), key, module)
