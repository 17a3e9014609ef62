from __future__ import annotations

import contextlib
import copy
import getpass
import logging
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgeprune.errors import OutputError, UnsupportedModelError, UsageError
from edgeprune.export.onnx_graph import describe, export, fixed_shape, load
from edgeprune.store import sha256_of

MODELS = [
    "plain",
    "residual",
    "concat",
    "separable",
    "mlp",
    "conv1d",
    "flattened",
    "decoder",
    "tokens",
]


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_alone_gives_the_output_of_torch(build, exported, name: str) -> None:
    model, inputs = build(name)
    session = onnxruntime.InferenceSession(
        exported(name).read_bytes(), providers=["CPUExecutionProvider"]
    )
    sample = tuple(torch.randn_like(x) for x in inputs)
    (got,) = session.run(
        None, {v.name: x.numpy() for v, x in zip(session.get_inputs(), sample, strict=True)}
    )
    with torch.inference_mode():
        np.testing.assert_allclose(got, model(*sample).numpy(), rtol=0, atol=1e-4)


class Autocast(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


def test_a_type_that_an_operator_does_not_take_is_told(tmp_path: Path) -> None:
    model = Autocast(nn.Conv2d(1, 2, 3)).eval()
    with pytest.raises(UnsupportedModelError, match="bfloat16") as caught:
        export(model, (torch.zeros(1, 1, 4, 4),), tmp_path / "m.onnx", opset=18)
    assert "no torch.autocast" in caught.value.hint


@pytest.mark.parametrize("name", MODELS)
def test_every_weighted_node_is_named_after_its_layer(build, exported, name: str) -> None:
    layers = {
        n for n, m in build(name)[0].named_modules() if getattr(m, "weight", None) is not None
    }
    graph = onnx.load(exported(name)).graph
    weighted = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    assert weighted
    assert all(node.name.rpartition("/")[0] in layers for node in weighted)
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)


def test_batchnorm_is_folded_away(exported) -> None:
    for name in ("plain", "residual", "separable"):
        operators = {node.op_type for node in onnx.load(exported(name)).graph.node}
        assert "BatchNormalization" not in operators


def test_what_the_artifact_says_is_true(build, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    artifact = export(*build("plain"), path, opset=18, metadata={"plan": "abc", "job": "test"})
    proto = onnx.load(path)
    assert artifact == describe(path)
    assert artifact.path == "m.onnx"
    assert artifact.sha256 == sha256_of(path)
    assert artifact.file_bytes == path.stat().st_size
    assert artifact.opset == 18 == next(o.version for o in proto.opset_import if o.domain == "")
    assert [(v.name, v.dtype, v.shape) for v in artifact.inputs] == [
        ("input", "float32", (1, 3, 8, 8))
    ]
    assert [(v.name, v.dtype, v.shape) for v in artifact.outputs] == [
        ("output", "float32", (1, 10))
    ]
    assert artifact.metadata == {"edgeprune.plan": "abc", "edgeprune.job": "test"}
    assert {p.key: p.value for p in proto.metadata_props} == artifact.metadata
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]  # no external data, nothing left over


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_opset_is_the_one_asked_for(build, tmp_path: Path, opset: int) -> None:
    model, inputs = build("mlp")
    assert export(model, inputs, tmp_path / "m.onnx", opset=opset).opset == opset
    onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])


def test_nothing_of_the_building_machine_is_in_the_file(exported) -> None:
    for name in ("residual", "flattened"):
        content = exported(name).read_bytes()
        proto = onnx.load(exported(name))
        assert proto.producer_name == "edgeprune"
        assert not proto.producer_version
        for trace in (b"/work", b"/tmp", b"/usr", b"site-packages", b".py", b"conftest", b'File "'):
            assert trace not in content, trace
        assert socket.gethostname().encode() not in content
        assert f"/{getpass.getuser()}/".encode() not in content
        for node in proto.graph.node:
            assert not node.metadata_props
            assert not node.doc_string


def test_the_same_model_gives_the_same_bytes(build, exported, tmp_path: Path) -> None:
    export(*build("plain"), tmp_path / "again.onnx", opset=20)
    assert (tmp_path / "again.onnx").read_bytes() == exported("plain").read_bytes()


def test_denormal_weights_are_flushed_and_others_are_not(build, tmp_path: Path) -> None:
    model, inputs = copy.deepcopy(build("mlp")[0]), build("mlp")[1]
    tiny, small = 1e-39, 2e-38  # below and above the smallest normal float32
    with torch.no_grad():
        model[0].weight[0, :4] = torch.tensor([tiny, -tiny, small, -small])
        model[2].bias[0] = tiny
    assert model[0].weight[0, 0].item() != 0.0
    export(model, inputs, tmp_path / "m.onnx", opset=20)
    arrays = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer
    ]
    smallest = np.finfo(np.float32).tiny
    for array in arrays:
        assert not ((np.abs(array) < smallest) & (array != 0)).any()
    kept = np.concatenate([array.ravel() for array in arrays])
    assert (np.abs(kept) == np.float32(small)).sum() == 2


def test_shapes_of_all_tensors_are_known(exported) -> None:
    for name in MODELS:
        graph = load(exported(name)).graph
        shaped = {v.name for v in (*graph.value_info, *graph.output) if fixed_shape(v) is not None}
        assert {output for node in graph.node for output in node.output} <= shaped


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Both(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 2 * y


def test_a_model_that_torch_cannot_export(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be exported to ONNX") as caught:
        export(Branching(), (torch.ones(1, 2),), tmp_path / "m.onnx", opset=20)
    assert caught.value.exit_code == 5
    assert len(caught.value.what.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_exporter_keeps_quiet_and_leaves_logging_as_it_was(
    build, tmp_path: Path, capfd
) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    export(*build("mlp"), tmp_path / "m.onnx", opset=20)
    assert logger.level == level
    assert capfd.readouterr() == ("", "")


def test_several_inputs_are_numbered(tmp_path: Path) -> None:
    artifact = export(Both(), (torch.ones(1, 2), torch.ones(1, 2)), tmp_path / "m.onnx", opset=20)
    assert [value.name for value in artifact.inputs] == ["input_0", "input_1"]


def test_an_output_that_cannot_be_written(build, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export(*build("mlp"), tmp_path / "file/m.onnx", opset=20)


# ------------------------------------------------------------------------------------ foreign files


def small(*, shape: list[object] | None, opset: int = 20) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)]
    ).SerializeToString()


@pytest.mark.parametrize("shape", [["batch", 3], [None, 3], None])
def test_a_dynamic_shape_is_named(tmp_path: Path, shape: list[object] | None) -> None:
    (tmp_path / "m.onnx").write_bytes(small(shape=shape))
    with pytest.raises(UnsupportedModelError, match="'x' has no fixed shape"):
        describe(tmp_path / "m.onnx")


def test_an_initializer_among_the_inputs_is_no_input(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "w", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:2], values[2:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "m.onnx")
    assert [value.name for value in describe(tmp_path / "m.onnx").inputs] == ["x"]


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x00" * 64, b"\xff" * 64, b"{}", b"PK\x03\x04" + b"0" * 99],
    ids=repr,
)
def test_files_that_are_no_onnx_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"m\.onnx is not an ONNX model") as caught:
        load(tmp_path / "m.onnx")
    assert caught.value.exit_code == 5


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file") as caught:
        load(tmp_path / "m.onnx")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path)


@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_never_a_traceback(
    tmp_path_factory, data: st.DataObject
) -> None:
    content = bytearray(small(shape=[1, 3]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with contextlib.suppress(UnsupportedModelError):
        describe(path)
