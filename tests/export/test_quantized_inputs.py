"""int8 forms of models whose input is no float32, and faults of the runtime on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import DataError, UnsupportedModelError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.export.precision import Precision
from edgeprune.export.quantization import quantize
from edgeprune.job import Job


class Tokens(nn.Module):
    """[batch, 8] of token ids -> [batch, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.head = nn.Embedding(10, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(self.embed(x).mean(1)).relu())


class Images(nn.Module):
    """[batch, 3, 6, 6] of bytes -> [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.float() / 255.0).relu().mean((2, 3)))


def drawn(kind: str, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "tokens":
        return random.integers(0, 10, (count, 8))
    return random.integers(0, 256, (count, 3, 6, 6), dtype=np.uint8)


def written(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = (Tokens if kind == "tokens" else Images)().eval()
    path = folder / "float.onnx"
    export(model, (torch.from_numpy(drawn(kind, 1, 0)),), path, opset=20)
    return path


def run(path: Path, samples: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": one[None]})[0] for one in samples])


@pytest.mark.parametrize("kind", ["tokens", "images"])
def test_integer_inputs_are_calibrated_in_their_own_type(kind: str, tmp_path: Path) -> None:
    source, target = written(kind, tmp_path), tmp_path / "int8.onnx"
    found = quantize(source, target, [drawn(kind, 64, 1)])
    assert found.inputs == describe(source).inputs
    graph = onnx.load(target).graph
    stored = [t.name for t in graph.initializer if t.data_type == TensorProto.INT8]
    assert len([name for name in stored if name.endswith("weight_quantized")]) >= 2
    samples = drawn(kind, 40, 2)
    exact, rounded = run(source, samples), run(target, samples)
    assert np.abs(exact - rounded).max() < 0.15 * exact.std()


def test_calibration_of_another_type_is_not_cut_down_to_the_inputs(tmp_path: Path) -> None:
    source = written("images", tmp_path)
    with pytest.raises(DataError, match="holds float64, the model takes uint8"):
        quantize(source, tmp_path / "x.onnx", [drawn("images", 4, 1) / 255.0])
    assert not (tmp_path / "x.onnx").exists()


def test_faults_of_the_runtime_are_told(tmp_path: Path) -> None:
    source = written("tokens", tmp_path)
    with pytest.raises(UnsupportedModelError, match="cannot be quantised: InvalidArgument") as told:
        quantize(source, tmp_path / "x.onnx", [np.full((2, 8), 10)])  # outside of the table
    assert "float32" in told.value.hint


@pytest.mark.parametrize("kind", ["tokens", "images"])
def test_the_precision_of_a_job_takes_integer_inputs(kind: str, tmp_path: Path) -> None:
    source = written(kind, tmp_path)
    batch = [(torch.from_numpy(drawn(kind, 16, 1)), torch.zeros(16, dtype=torch.long))]
    data = Data(batch[0][0][:1], None, batch, batch)
    job = Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "a:b"},
            "data": {"factory": "a:b"},
            "export": {"precision": "int8"},
        }
    )
    assert Precision.of(job, data).write(source).path.endswith(".int8.onnx")


def test_a_layer_that_reads_token_ids_has_a_price_in_int8() -> None:
    table = onnx.numpy_helper.from_array(np.ones((2, 4), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"]),
         helper.make_node("Add", ["rows", "rows"], ["sum"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 4, 4])],
        [table],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    found = onnx.load_from_string(Precision("int8").fragment(proto.SerializeToString()))
    assert found.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    assert "QuantizeLinear" in {node.op_type for node in found.graph.node}


def test_a_mask_of_infinity_has_no_int8_form(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4)
            self.register_buffer("future", torch.full((4, 4), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.mix(x) + self.future).softmax(-1)

    source = tmp_path / "float.onnx"
    export(Masked().eval(), (torch.zeros(1, 4, 4),), source, opset=20)
    samples = np.random.default_rng(0).standard_normal((8, 4, 4)).astype(np.float32)
    with pytest.raises(UnsupportedModelError, match="reaches infinity"):
        quantize(source, tmp_path / "x.onnx", [samples])
