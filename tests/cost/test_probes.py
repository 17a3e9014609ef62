from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.cost import probes as module
from edgeprune.cost.probes import Probes
from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.devices.simulated import segment_cost
from edgeprune.errors import UnsupportedModelError
from edgeprune.export.fragments import fragment, template
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph


class Recording:
    def __init__(self, device) -> None:
        self.device, self.spec, self.requests = device, device.spec, []

    def ask(self, request):
        self.requests.append(request)
        return self.device.ask(request)


@pytest.fixture
def layer(exported):
    def of(name: str, layer: str, width: int | None = None):
        graph = read_graph(exported(name))
        return template(graph, next(s for s in graph.segments if s.name == layer), width)

    return of


def formula(layer, widths, simulation, tmp_path) -> float:
    path = tmp_path / "probe.onnx"
    path.write_bytes(fragment(layer, *widths))
    return sum(segment_cost(s, simulation) for s in read_graph(path).segments)


@pytest.mark.parametrize(
    ("name", "part", "group"),
    [
        ("plain", "conv2", 16),
        ("separable", "deep", 16),
        ("flattened", "4", 16),
        ("decoder", "up", 16),
        ("mlp", "2", 32),
    ],
)
def test_prices_of_an_exact_device_are_those_of_the_formula(
    simulated, layer, tmp_path, name, part, group
) -> None:
    device, shape = simulated(step=8, cliff=1.3), layer(name, part, group)
    pairs = (
        [(w, w) for w in (1, 7, 8, 9, 16)] if shape.depthwise else [(1, 1), (7, 9), (8, 8), (16, 5)]
    )
    probes = Probes(device)
    probes.take([(shape, pair) for pair in pairs])
    for pair in pairs:
        assert probes.price(shape, pair) == pytest.approx(
            formula(shape, pair, device.spec.simulation, tmp_path)
        )
    assert len(probes.taken) == len(pairs)


def test_at_dense_widths_the_price_is_that_of_the_layer_in_its_model(simulated, layer) -> None:
    device, shape = simulated(), layer("plain", "conv2", 16)
    probes = Probes(device)
    probes.take([(shape, (16, 24))])
    assert probes.price(shape, (16, 24)) == pytest.approx(
        segment_cost(shape.segment, device.spec.simulation)
    )


def test_a_price_that_was_not_taken_is_loud(simulated, layer) -> None:
    probes = Probes(simulated())
    with pytest.raises(UnsupportedModelError, match=r"layer conv2 has no price at widths \(3, 4\)"):
        probes.price(layer("plain", "conv2", 16), (3, 4))


def test_what_is_known_is_not_measured_again_unless_asked_for(simulated, layer) -> None:
    device = Recording(simulated(noise=0.1))
    shape, probes = layer("plain", "conv2", 16), Probes(device)
    probes.take([(shape, (8, 8))])
    first = probes.price(shape, (8, 8))
    probes.take([(shape, (8, 8)), (shape, (8, 16))])
    assert [len(r.models) for r in device.requests] == [1, 2], "the second beside a reference"
    assert probes.price(shape, (8, 8)) == first
    probes.take([(shape, (8, 8))], again=True)
    assert probes.price(shape, (8, 8)) != first


def test_equal_layers_share_one_price_and_unequal_ones_do_not(simulated, layer) -> None:
    device = Recording(simulated())
    a1, a2 = layer("residual", "a1", 16), layer("residual", "a2", 16)
    b2, one, deep = (
        layer("residual", "b2", 24),
        layer("residual", "project", 16),
        layer("separable", "deep", 16),
    )
    probes = Probes(device)
    probes.take([(a1, (16, 16)), (a2, (16, 16))])
    assert len(probes.taken) == 1
    probes.take([(b2, (16, 16)), (one, (16, 16)), (deep, (16, 16))])  # other pixels, kernel, groups
    assert len(probes.taken) == 4


def test_the_number_of_tokens_belongs_to_the_price(simulated, layer) -> None:
    probes = Probes(simulated(overhead_us=0.0))
    many, few = layer("tokens", "one", 16), layer("tokens", "two", 16)
    probes.take([(many, (8, 8)), (few, (8, 8))])
    assert probes.price(many, (8, 8)) == pytest.approx(4 * probes.price(few, (8, 8)))


def test_the_cheapest_of_several_processes_is_the_price(simulated, layer) -> None:
    shape = layer("plain", "conv2", 16)
    prices: list[list[float]] = []
    for seed in range(4):
        prices.append([])
        for processes in (1, 4):
            device = Recording(simulated(noise=0.2, seed=seed))
            probes = Probes(device)
            probes.take([(shape, (8, 8))], processes=processes)
            assert len({request.seed for request in device.requests}) == processes
            prices[-1].append(probes.price(shape, (8, 8)))
    assert all(several <= single for single, several in prices)
    assert any(several < single for single, several in prices)


class Disturbed:
    """A device on which, in some of its processes, all takes 40 % longer."""

    def __init__(self, device, when) -> None:
        self.device, self.spec, self.when, self.asked = device, device.spec, when, 0

    def ask(self, request):
        self.asked += 1
        answer = self.device.ask(request)
        if not self.when(self.asked):
            return answer
        slower = [
            model.model_copy(
                update={
                    "nodes": tuple(
                        n.model_copy(update={"values": tuple(1.4 * v for v in n.values)})
                        for n in model.nodes
                    )
                }
            )
            for model in answer.models
        ]
        return answer.model_copy(update={"models": tuple(slower)})


def test_what_was_measured_beside_a_slower_reference_is_measured_again(
    simulated, layer, monkeypatch
) -> None:
    """Three processes of four probes; what the machine does between takes is seen as well."""
    monkeypatch.setattr(module, "CHUNK", 4)
    shape = layer("plain", "conv2", 16)
    pairs = [(shape, (width, 8)) for width in range(1, 13)]

    told: list[tuple[int, int]] = []

    def prices(when) -> tuple[list[float], int]:
        device = Disturbed(simulated(), when)
        probes = Probes(device)
        probes.take(pairs[:4])
        told.clear()
        probes.take(pairs[4:], progress=lambda done, total: told.append((done, total)))
        return [probes.price(*pair) for pair in pairs], device.asked

    quiet, least = prices(lambda asked: False)
    assert least == 3
    assert prices(lambda asked: asked == 2) == (quiet, 4)
    assert prices(lambda asked: asked in (2, 3, 4)) == (quiet, 6), "4 and 5 again, 6 once more"
    assert told == [(0, 2), (1, 2), (2, 4), (3, 4), (4, 5), (5, 5)], "what is done stays done"
    loud, most = prices(lambda asked: asked > 1)
    assert most == 3 + 2 * module.AGAIN, "not for ever"
    assert loud == pytest.approx([*quiet[:4], *(1.4 * cost for cost in quiet[4:])])


def test_many_probes_are_spread_over_processes_and_progress_is_told(
    simulated, layer, monkeypatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 5)
    device, told = Recording(simulated()), []
    Probes(device).take(
        [(layer("plain", "conv2", 16), (w, 8)) for w in range(1, 13)],
        progress=lambda done, total: told.append((done, total)),
    )
    assert [len(request.models) for request in device.requests] == [5, 6, 3]
    assert told[:3] == [(0, 3), (1, 3), (2, 3)]
    assert told[-1][0] == told[-1][1]


def test_changes_of_layout_at_the_borders_do_not_count() -> None:
    def node(operator: str, cost: float) -> NodeCosts:
        return NodeCosts(name=operator, operator=operator, provider="p", values=(cost,) * 10)

    nodes = (
        node("ReorderInput", 5.0),
        node("Conv", 2.0),
        node("Relu", 1.0),
        node("ReorderOutput", 7.0),
    )
    found = module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=nodes))
    assert found.cost == pytest.approx(3.0)
    assert found.after == pytest.approx(7.0)  # kept for plans in which layers disagree
    assert found.operators[-1] == "ReorderOutput"
    with pytest.raises(UnsupportedModelError, match="no node for probe m"):
        module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=nodes[:1]))


def test_probes_run_on_this_machine_and_wide_ones_cost_more(local, layer) -> None:
    shape, probes = layer("residual", "a1", 16), Probes(local)
    probes.take([(shape, (8, 8)), (shape, (160, 160))])
    assert 0 < 5 * probes.price(shape, (8, 8)) < probes.price(shape, (160, 160))


def test_every_probe_is_a_model_of_one_layer(layer) -> None:
    model = onnx.load_from_string(fragment(layer("plain", "conv2", 16), 5, 6))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]


def test_transposes_that_a_gpu_runtime_put_in_do_not_count() -> None:
    """As WebGPU reports them; a transpose of the model's own carries a name of the model's."""
    nodes = tuple(
        NodeCosts(name=name, operator=operator, provider="WebGpuExecutionProvider", values=(cost,) * 9)
        for name, operator, cost in (
            ("Transpose", "Transpose", 50.0),
            ("stem/Conv_token_1", "Conv", 3.0),
            ("Transpose_token_43", "Transpose", 60.0),
            ("mixer/Transpose", "Transpose", 4.0),
        )
    )  # fmt: skip
    found = module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=nodes))
    assert found.cost == pytest.approx(7.0)


def test_what_the_profiler_adds_to_each_node_is_taken_off() -> None:
    nodes = tuple(
        NodeCosts(name=name, operator="Conv", provider="p", values=(cost,) * 9)
        for name, cost in (("a", 10.0), ("b", 4.0), ("c", 2.0))
    )
    answer = ModelAnswer(name="m", load_seconds=0.0, nodes=nodes)
    assert module._cost(answer, 3.0).cost == pytest.approx(16.0 - 3 * 3.0)
    assert module._cost(answer, 5.2).cost == pytest.approx(0.05 * 16.0)
    assert module._cost(answer, 5.2, empty=0.5).cost == pytest.approx(3 * 0.5)


def test_short_nodes_count_with_what_a_coarse_clock_cuts_off() -> None:
    """Each is now 0, now 1 microsecond by the clock, and both together always 1."""
    values = (0.0, 1.0) * 20
    nodes = tuple(
        NodeCosts(name=name, operator="Reshape", provider="p", values=taken)
        for name, taken in (("a", values), ("b", values[::-1]))
    )
    assert module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=nodes)).cost == 1.0


def test_bodies_that_run_more_often_than_the_model_have_a_price() -> None:
    nodes = tuple(
        NodeCosts(name=name, operator="Add", provider="p", values=(2.0,) * count)
        for name, count in (("loop", 10), ("inside", 30))
    )
    assert module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=nodes)).cost == 4.0


def test_the_copy_for_the_output_of_a_model_does_not_count() -> None:
    """onnxruntime gives an output memory of its own, so that a reshape at the end copies."""
    names = {"gemm_input_reshape": 1.0, "Gemm": 5.0, "gemm_output_reshape": 4.0}
    nodes = [
        NodeCosts(name=name, operator=name, provider="p", values=(cost,) * 9)
        for name, cost in names.items()
    ]
    assert module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=tuple(nodes))).cost == 7.0
    nodes.append(NodeCosts(name="sum", operator="Add", provider="p", values=(2.0,) * 9))
    assert module._cost(ModelAnswer(name="m", load_seconds=0.0, nodes=tuple(nodes))).cost == 12.0


class Combined(nn.Module):
    """A product whose result is combined with something of another shape each time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(12, 12, bias=False) for _ in range(3))
        self.d, self.e = nn.Linear(12, 12), nn.Linear(12, 12, bias=False)
        self.places = nn.Parameter(torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.a(x) * 0.5).relu() + self.places)
        return self.e(self.d(x)) * x.mean(2, keepdim=True)


def test_what_is_combined_with_a_product_is_told_apart(tmp_path) -> None:
    export(Combined().eval(), (torch.randn(1, 6, 12),), tmp_path / "model.onnx", opset=20)
    graph = read_graph(tmp_path / "model.onnx")
    shapes = [template(graph, s) for s in graph.segments if s.operator == "MatMul"]
    assert len({module._signature(shape, (12, 12)) for shape in shapes}) == 5
    assert module._signature(shapes[0], (12, 12)) != module._signature(shapes[0], (12, 11))
    for shape in shapes:
        onnxruntime.InferenceSession(fragment(shape, 5, 7), providers=["CPUExecutionProvider"])
