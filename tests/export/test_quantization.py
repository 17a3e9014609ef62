from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import DataError, UnsupportedModelError
from edgeprune.export.cleanup import prepare
from edgeprune.export.onnx_graph import describe, export, load
from edgeprune.export.quantization import quantize
from tests.export.conftest import inputs

SHAPE = (1, 3, 12, 12)


class Network(nn.Module):
    """Everything that has to be rewritten: padding, ReLU6, a mean, a product without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2)
        self.relu, self.next = nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1)
        self.dropout, self.head = nn.Dropout(), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.next(self.relu(self.conv(self.pad(x)))).mean((2, 3))
        return self.head(self.dropout(x)) + 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    metadata = {"job": "test"}
    export(Network().eval(), (torch.zeros(SHAPE),), path, opset=20, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def target(source: Path) -> Path:
    quantize(source, source.parent / "int8.onnx", [inputs(SHAPE, 32, seed=1)])
    return source.parent / "int8.onnx"


def run(path: Path, sample: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": sample})
    return np.asarray(output)


def test_the_rewritten_graph_computes_the_same(source: Path, tmp_path: Path) -> None:
    prepared = prepare(load(source))
    kinds = Counter(node.op_type for node in prepared.graph.node)
    assert not kinds.keys() & {"Pad", "ReduceMean", "MatMul", "Identity", "Dropout", "Constant"}
    assert kinds["GlobalAveragePool"] == 1
    (tmp_path / "p.onnx").write_bytes(prepared.SerializeToString())
    sample = inputs(SHAPE, 1, seed=2)
    np.testing.assert_allclose(run(tmp_path / "p.onnx", sample), run(source, sample), atol=1e-5)


def test_int8_stays_close_to_float(source: Path, target: Path) -> None:
    samples = inputs(SHAPE, 50, seed=3)
    exact = np.concatenate([run(source, sample[None]) for sample in samples])
    rounded = np.concatenate([run(target, sample[None]) for sample in samples])
    assert np.abs(exact - rounded).max() < 0.1 * exact.std()


def test_every_operator_is_between_conversions(target: Path) -> None:
    graph = onnx.load(target).graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    operators = [n for n in graph.node if not n.op_type.endswith("quantizeLinear")]
    operators = [n for n in operators if n.op_type != "QuantizeLinear"]
    assert {n.op_type for n in operators} == {"Conv", "GlobalAveragePool", "Flatten", "Gemm", "Add"}
    for node in operators:
        assert {producers[name] for name in node.input if name} == {"DequantizeLinear"}


def test_weights_are_symmetric_with_a_scale_for_each_channel(target: Path) -> None:
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    weights = {n: t for n, t in tensors.items() if n.endswith("weight_quantized")}
    assert {t.dtype for t in weights.values()} == {np.dtype(np.int8)}
    for name, values in weights.items():
        base = name.removesuffix("_quantized")
        channels = values.shape[0] if values.ndim == 4 else tensors[f"{base}_scale"].size
        assert tensors[f"{base}_scale"].size == channels > 1
        assert not tensors[f"{base}_zero_point"].any()


def test_borders_and_metadata_are_those_of_the_source(source: Path, target: Path) -> None:
    before, after = describe(source), describe(target)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.metadata == before.metadata == {"edgeprune.job": "test"}
    assert onnx.load(target).producer_name == "edgeprune"


def test_the_same_input_gives_the_same_file(source: Path, target: Path, tmp_path: Path) -> None:
    batches = [inputs(SHAPE, 32, seed=1)[:20], inputs(SHAPE, 32, seed=1)[20:]]
    again = quantize(source, tmp_path / "again.onnx", batches)
    assert again.sha256 == describe(target).sha256


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_calibrations_give_other_ranges(
    source: Path, target: Path, tmp_path: Path, method
) -> None:
    found = quantize(source, tmp_path / "o.onnx", [inputs(SHAPE, 8, seed=1)], method=method)
    assert found.sha256 != describe(target).sha256


def test_calibration_must_be_there_and_fit(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no calibration data"):
        quantize(source, tmp_path / "x.onnx", [])
    with pytest.raises(DataError, match=r"\(2, 3, 9, 9\).*\(1, 3, 12, 12\)"):
        quantize(source, tmp_path / "x.onnx", [np.zeros((2, 3, 9, 9), np.float32)])
    assert not list(tmp_path.iterdir())


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    export(Two(), (torch.zeros(1, 4), torch.zeros(1, 4)), tmp_path / "two.onnx", opset=20)
    with pytest.raises(UnsupportedModelError, match="2 inputs"):
        quantize(tmp_path / "two.onnx", tmp_path / "x.onnx", [np.zeros((1, 4), np.float32)])
