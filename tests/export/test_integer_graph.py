from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedModelError
from edgeprune.export.arena import plan_memory
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.integer_operators import Alias, Convolution, FullyConnected, Lookup
from edgeprune.export.lowering import lower
from edgeprune.export.onnx_graph import export
from edgeprune.export.requantize import factors, high_word, multiplier_and_shift, weighted_sum


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.skip = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(torch.relu(self.conv(x)) + self.skip(x)).flatten(1))


@pytest.fixture(scope="module")
def block(quantized: Callable[..., Path]) -> tuple[Block, Path]:
    torch.manual_seed(0)
    model = Block().eval()
    return model, quantized(model, (1, 2, 5, 5))


def test_operators_are_fused_and_named_after_layers(block) -> None:
    graph = read_integer_graph(block[1])
    kinds = [(op.layer, op.kind) for op in graph.operators]
    assert sorted(kinds[:2]) == [("conv", "Conv"), ("skip", "Conv")]
    assert [kind for _, kind in kinds[2:]] == ["Add", "Reshape", "Gemm"]
    summed = next(op for op in graph.operators if op.kind == "Add")
    assert graph.tensors[summed.output].zero_point == -128  # the ReLU is the lower limit


def test_weights_times_scales_are_those_of_torch(block) -> None:
    model, path = block
    graph = read_integer_graph(path)
    convolution = next(op for op in graph.operators if op.layer == "conv")
    assert isinstance(convolution, Convolution)
    scales = convolution.weight_scales
    real = convolution.weights * scales[:, None, None, None]
    assert np.abs(real - model.conv.weight.detach().numpy()).max() <= scales.max() / 2 + 1e-7
    bias = convolution.bias * scales * graph.tensors[graph.input].scale
    np.testing.assert_allclose(bias, model.conv.bias.detach().numpy(), atol=1e-4)


def test_a_matrix_behind_an_image_has_its_columns_with_channels_last(block) -> None:
    model, path = block
    product = next(op for op in read_integer_graph(path).operators if op.kind == "Gemm")
    assert isinstance(product, FullyConnected)
    real = product.weights * product.weight_scales[:, None]
    dense = model.head.weight.detach().numpy().reshape(3, 4, 25).transpose(0, 2, 1).reshape(3, 100)
    assert np.abs(real - dense).max() <= product.weight_scales.max() / 2 + 1e-7


def test_additions_and_reshapes_take_no_memory_of_their_own(block) -> None:
    graph = read_integer_graph(block[1])
    memory = plan_memory(graph)
    add = next(op for op in graph.operators if op.kind == "Add")
    alias = next(op for op in graph.operators if isinstance(op, Alias))
    assert memory.offsets[add.output] in [memory.offsets[name] for name in add.inputs]
    assert memory.offsets[alias.output] == memory.offsets[add.output]
    # Input and both branches are alive while the second branch is computed: 52 + 2 * 100.
    assert memory.arena_bytes == memory.liveness_bytes == 252


def test_the_callers_input_is_never_written_over(quantized) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(torch.sigmoid(x) + x)

    graph = read_integer_graph(quantized(Twice(), (1, 8)))
    memory = plan_memory(graph)
    inside = {memory.owner[op.output] for op in graph.operators} - {memory.owner[graph.output]}
    first = next(op for op in graph.operators if isinstance(op, Lookup))
    assert inside
    assert memory.offsets[first.output] != memory.offsets[graph.input]


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2)), (1, 2, 4, 4), r"layer '0'.*ConvTranspose has no integer kernel"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (1, 4), r"layer '1'.*LayerNorm"),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Unflatten(1, (8, 2, 4))), (1, 2, 4, 4), "moves values in memory"),
        (nn.Sequential(nn.Conv2d(2, 4, 1), nn.Softmax(2)), (1, 2, 4, 4), "another axis than the channels"),
        (nn.Sequential(nn.Linear(4, 2)), (3, 4), "one sample at a time"),
    ],
)  # fmt: skip
def test_what_has_no_integer_form_is_named(quantized, model, shape, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read_integer_graph(quantized(model.eval(), shape, samples=shape[0] * 8))
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_groups_that_cmsis_nn_does_not_know_are_named(quantized) -> None:
    graph = read_integer_graph(quantized(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), (1, 4, 3, 3)))
    with pytest.raises(UnsupportedModelError, match=r"layer '0'.*2 groups of 2 channels") as caught:
        lower(graph.operators[0], graph, "mve", "edgeprune")
    assert "split the layer" in caught.value.hint


def test_a_float_model_is_refused(tmp_path: Path) -> None:
    export(nn.Linear(4, 2), (torch.zeros(1, 4),), tmp_path / "float.onnx", opset=20)
    with pytest.raises(UnsupportedModelError, match="which is not int8"):
        read_integer_graph(tmp_path / "float.onnx")


@pytest.mark.parametrize("factor", [0.75, 0.0123, 1 / 3, 1.7, 2.0**-12, 0.99999999999])
def test_fixed_point_factors_are_exact_to_31_bits(factor: float) -> None:
    multiplier, shift = multiplier_and_shift(factor)
    assert 2**30 <= multiplier < 2**31
    assert multiplier * 2.0 ** (shift - 31) == pytest.approx(factor, rel=2**-30)
    word = high_word([factor], "layer")
    scaled = float(word.multipliers[0]) * 2.0 ** (word.shift - 32)
    assert scaled == pytest.approx(factor, abs=2.0 ** (word.shift - 32))


def test_factors_follow_single_precision() -> None:
    (found,) = factors(0.1, np.array([0.3]), 0.7)
    assert found == float(np.float32(np.float32(0.1) * np.float32(0.3)) / np.float32(0.7))


def test_a_sum_is_exact_and_never_overflows() -> None:
    parts = ((0.02, -128), (0.31, 17), (0.25, -5))
    total = weighted_sum(*parts)
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    sums = a * total.first + b * total.second + total.constant
    assert np.abs(sums).max() < 2**31
    exact = ((a + 128) * 0.02 + (b - 17) * 0.31) / 0.25 - 5
    assert np.abs((sums >> total.shift) - exact).max() <= 0.5 + 1e-3
