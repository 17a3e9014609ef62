from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import DeviceError, UsageError
from edgeprune.export import cmsis_nn
from edgeprune.export.c_source import generate
from edgeprune.export.tensors import decode, encode
from edgeprune.records import CSource, QuantizedTensor
from tests.export.conftest import EXAMPLES, HOST, compare, inputs

pytestmark = pytest.mark.c_compiler
TARGETS = ["scalar", "dsp"]


class Branches(nn.Module):
    """Concatenations of different scales, pools of every kind, a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, 1, 1), nn.Conv2d(3, 6, 1)
        self.average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.maximum, self.counted = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2, 1)
        self.head = nn.Linear(22 * 16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), torch.sigmoid(self.b(x)) * 1], 1)
        x = torch.cat([self.average(x), self.maximum(x)], 1)
        return self.head(torch.flatten(self.counted(x), 1))


class Activations(nn.Module):
    """Functions of one value, where nothing before them can take them over."""

    def forward(self, x: Tensor) -> Tensor:
        a = nn.functional.leaky_relu(x) + nn.functional.hardsigmoid(x)
        return torch.tanh(nn.functional.relu6(a) + nn.functional.relu(x))


class Flattened(nn.Module):
    """Two images flattened and joined: the columns of the matrix have to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 3, 3, 2)
        self.head = nn.Linear(4 * 9 + 3 * 4, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x).flatten(1), self.b(x).flatten(1)], 1)).softmax(1)


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "odd_channels": (sequence(nn.Conv2d(3, 7, 3, 1, 1), nn.ReLU(), nn.Conv2d(7, 5, 3, 2, 1)), (1, 3, 9, 7)),
    "dilated": (sequence(nn.Conv2d(4, 6, 3, padding=2, dilation=2), nn.Conv2d(6, 4, (1, 3), dilation=(1, 2))), (1, 4, 8, 8)),
    "uneven_padding": (sequence(nn.ZeroPad2d((0, 2, 1, 0)), nn.Conv2d(4, 8, (2, 3), 2)), (1, 4, 7, 9)),
    "depthwise": (sequence(nn.Conv2d(6, 6, 3, 2, 1, groups=6), nn.ReLU(), nn.Conv2d(6, 6, 5, 1, 2, groups=6)), (1, 6, 9, 9)),
    "depthwise_dilated": (sequence(nn.Conv2d(8, 8, 3, 1, 2, dilation=2, groups=8)), (1, 8, 7, 7)),
    "multiplied": (sequence(nn.Conv2d(4, 12, 3, 1, 1, groups=4)), (1, 4, 6, 6)),
    "signal": (sequence(nn.Conv1d(2, 8, 5, 2, 2), nn.ReLU(), nn.Conv1d(8, 4, 3)), (1, 2, 40)),
    "pointwise": (sequence(nn.Conv2d(5, 9, 1), nn.ReLU6(), nn.Conv2d(9, 6, 1, 2)), (1, 5, 5, 5)),
    "branches": (Branches, (1, 3, 12, 12)),
    "activations": (Activations, (1, 4, 6, 6)),
    "flattened": (Flattened, (1, 2, 5, 5)),
    "few_inputs": (sequence(nn.Linear(7, 13), nn.ReLU(), nn.Linear(13, 3)), (1, 7)),
}  # fmt: skip


@pytest.fixture(scope="module")
def case(quantized) -> Callable[[str], tuple[Path, tuple[int, ...]]]:
    made: dict[str, tuple[Path, tuple[int, ...]]] = {}

    def case_(name: str) -> tuple[Path, tuple[int, ...]]:
        if name not in made:
            torch.manual_seed(0)
            build, shape = CASES[name]
            made[name] = quantized(build().eval(), shape), shape
        return made[name]

    return case_


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_every_operator_agrees_with_onnxruntime(
    case, generate_for, compile_network, name: str, target: str
) -> None:
    model, shape = case(name)
    network = compile_network(generate_for(model, target))
    differences, _ = compare(model, network, inputs(shape, 50, seed=2))
    assert differences.max() <= 1
    # Averages and softmax of onnxruntime round ties by the noise of its floats.
    rounded_alike = name not in ("branches", "flattened")
    assert not rounded_alike or (differences > 0).mean() < 0.002


def test_grouped_convolutions_run_with_the_kernels_of_edgeprune(
    quantized, generate_for, compile_network
) -> None:
    torch.manual_seed(0)
    shape = (1, 6, 7, 7)
    model = quantized(nn.Sequential(nn.Conv2d(6, 9, 3, 1, 1, groups=3)), shape)
    differences, _ = compare(
        model, compile_network(generate_for(model, "dsp")), inputs(shape, 50, 2)
    )
    assert differences.max() <= 1


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("ds_cnn", "dsp"),
        ("ds_cnn", "scalar"),
        ("autoencoder", "dsp"),
        ("autoencoder", "scalar"),
        pytest.param("resnet8", "dsp", marks=pytest.mark.slow),
        pytest.param("resnet8", "scalar", marks=pytest.mark.slow),
    ],
)
def test_mlperf_tiny_agrees_with_onnxruntime(
    mlperf_tiny, generate_for, compile_network, name: str, target: str
) -> None:
    model = mlperf_tiny(name)
    source = generate_for(model, target)
    differences, agreement = compare(
        model, compile_network(source), inputs(source.input.shape, 200, seed=2)
    )
    # CMSIS-NN rounds without floats: now and then a tie falls to the other side, and the next
    # random layers amplify it.
    assert differences.max() <= (2 if target == "scalar" else 1)
    assert (differences > 1).mean() < 0.001
    assert agreement >= 0.995
    assert source.arena_bytes == source.liveness_bytes


@pytest.mark.slow
def test_mobilenet_agrees_with_onnxruntime(mlperf_tiny, generate_for, compile_network) -> None:
    """Bit by bit: 27 random layers would blow up a single result rounded to the other side."""
    model = mlperf_tiny("mobilenet_v1")
    source = generate_for(model, "dsp")
    samples = inputs(source.input.shape, 200, seed=2)
    differences, agreement = compare(model, compile_network(source), samples)
    assert differences.max() <= 1
    assert agreement >= 0.995


@pytest.mark.parametrize("target", TARGETS)
def test_the_fashion_mnist_network_agrees_with_onnxruntime(
    quantized, generate_for, compile_network, target: str
) -> None:
    path = EXAMPLES / "fashion_mnist" / "model.py"
    specification = importlib.util.spec_from_file_location("fashion_mnist_model", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    model = quantized(module.build(widths=(8, 13, 22)), (1, 1, 28, 28))
    network = compile_network(generate_for(model, target))
    differences, agreement = compare(model, network, inputs((1, 1, 28, 28), 200, seed=2))
    assert differences.max() <= 1
    assert agreement >= 0.995


@pytest.fixture
def residual(mlperf_tiny, generate_for) -> CSource:
    return generate_for(mlperf_tiny("resnet8"), "scalar")


def test_the_places_in_the_arena_can_be_used_instead_of_buffers(residual, compile_network) -> None:
    network = compile_network(residual)
    sample = inputs(residual.input.shape, 1, seed=3)
    expected = network.run(sample)
    for name in ("input", "output"):
        getattr(network, name).restype = ctypes.c_void_p
    place, result = network.input(), network.output()
    integers = encode(residual.input, sample)
    ctypes.memmove(place, integers.ctypes.data, integers.size)
    network.infer(ctypes.c_void_p(place), ctypes.c_void_p(result))
    written = np.frombuffer(ctypes.string_at(result, expected.size), np.int8)
    np.testing.assert_array_equal(decode(residual.output, written), expected)


def test_scratch_is_used_up_to_its_size_and_not_beyond(residual, compile_network) -> None:
    network = compile_network(residual)
    network.paint()
    assert network.scratch_used() == 0
    network.run(inputs(residual.input.shape, 1, seed=3))
    # The last byte of an int16 column may happen to hold the pattern.
    assert residual.scratch_bytes - 8 <= network.scratch_used() <= residual.scratch_bytes


@pytest.mark.parametrize("target", TARGETS)
def test_the_folder_compiles_by_its_own_list(mlperf_tiny, generate_for, target: str) -> None:
    source = generate_for(mlperf_tiny("ds_cnn"), target)
    folder = Path(source.folder)
    listed = {*source.sources, *source.headers, *source.documents}
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == listed
    main = folder / "main.c"
    main.write_text(
        '#include "network.h"\nint main(void) {\n'
        "    network_infer(network_input(), network_output());\n    return network_check();\n}\n"
    )
    command = ["gcc", *HOST, *(f"-D{name}" for name in source.defines), "main.c"]
    command += [*source.sources, *(f"-I{path}" for path in source.include_dirs), "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    assert subprocess.run([folder / "main"], check=False).returncode == 0


def test_two_runs_write_the_same_files(mlperf_tiny, tmp_path: Path) -> None:
    def digest(folder: Path) -> dict[str, str]:
        generate(mlperf_tiny("ds_cnn"), folder, name="network", target="dsp")
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
        }

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old.c").write_text("left over")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_layers_and_sizes_are_told(mlperf_tiny, generate_for) -> None:
    source = generate_for(mlperf_tiny("resnet8"), "dsp")
    assert [f.operator for f in source.functions].count("Conv") == 9
    assert source.functions[0].symbol == "network_layer_000_0_conv"
    assert source.functions[2].layer == "3.body.3"
    assert sum(f.macs for f in source.functions) == 12_501_632
    text = (Path(source.folder) / "network.c").read_text()
    assert all(f"LAYER {function.symbol}(" in text for function in source.functions)
    assert source.weight_bytes == sum(f.weight_bytes for f in source.functions)
    assert source.scratch_bytes == max(f.scratch_bytes for f in source.functions)
    assert max(life.offset + life.bytes for life in source.lifetimes) == source.arena_bytes
    header = (Path(source.folder) / "network.h").read_text()
    assert f"#define NETWORK_ARENA_BYTES {source.arena_bytes}" in header
    assert "int8[32][32][3] (height 32, width 32, channels 3)" in header
    forbidden = ("malloc", "printf", "stdio", "stdlib")
    assert not any(word in text for word in forbidden)


def test_cmsis_nn_can_be_asked_for(mlperf_tiny, generate_for) -> None:
    ours = generate_for(mlperf_tiny("resnet8"), "dsp")
    theirs = generate_for(mlperf_tiny("resnet8"), "dsp", kernels="cmsis_nn")
    assert not any("cmsis_nn" in path for path in ours.sources)
    assert any(path.endswith("arm_convolve_s8.c") for path in theirs.sources)
    assert "cmsis_nn/LICENSE.txt" in theirs.documents


def test_borders_convert_both_ways() -> None:
    tensor = QuantizedTensor(
        name="x", shape=(1, 2, 2, 3), permutation=(0, 2, 3, 1), scale=0.5, zero_point=-3
    )
    values = np.arange(12, dtype=np.float32).reshape(tensor.shape) / 2
    integers = encode(tensor, values)
    assert integers.ravel().tolist() == [-3, 3, -2, 4, -1, 5, 0, 6, 1, 7, 2, 8]
    np.testing.assert_array_equal(decode(tensor, integers.ravel()), values)
    ties = encode(tensor, np.full(tensor.shape, 0.25, np.float32))
    assert set(ties.ravel().tolist()) == {-3}  # half to even
    assert set(encode(tensor, np.full(tensor.shape, 1e9)).ravel().tolist()) == {127}


def test_bad_names_and_trees_are_refused(mlperf_tiny, tmp_path: Path) -> None:
    model = mlperf_tiny("autoencoder")
    with pytest.raises(UsageError, match="cannot name C code"):
        generate(model, tmp_path / "x", name="My Net", target="dsp")
    with pytest.raises(DeviceError, match="not a CMSIS-NN tree"):
        generate(model, tmp_path / "x", name="x", target="mve", cmsis=tmp_path)
    newer = tmp_path / "newer"
    (newer / "Include").mkdir(parents=True)
    (newer / "Source").mkdir()
    (newer / "Include" / "arm_nnfunctions.h").write_text("const cmsis_nn_dims *upscale_dims")
    with pytest.raises(DeviceError, match="newer CMSIS-NN"):
        cmsis_nn.find(newer)
    assert not (tmp_path / "x").exists()


def test_scratch_is_what_cmsis_nn_says(cmsis_archive, mlperf_tiny, tmp_path: Path) -> None:
    """Of the plain C variants; the emulator's canaries check those of DSP and MVE."""
    root = cmsis_nn.find(None)
    (tmp_path / "ask.c").write_text(
        '#include "arm_nnfunctions.h"\nint ask(void) {\n'
        "    const cmsis_nn_conv_params p = {0, 0, {1, 1}, {1, 1}, {1, 1}, {-128, 127}};\n"
        "    const cmsis_nn_dims in = {1, 32, 32, 16}, filter = {16, 3, 3, 16}, out = {1, 32, 32, 16};\n"
        "    return arm_convolve_wrapper_s8_get_buffer_size(&p, &in, &filter, &out);\n}\n"
    )
    library = tmp_path / "ask.so"
    command = ["gcc", *HOST, f"-I{root / 'Include'}", "-shared", str(tmp_path / "ask.c")]
    subprocess.run([*command, str(cmsis_archive), "-o", str(library)], check=True)
    source = generate(mlperf_tiny("resnet8"), tmp_path / "c", name="x", target="scalar")
    assert source.functions[1].input_shape == (1, 16, 32, 32)
    assert source.functions[1].scratch_bytes == ctypes.CDLL(str(library)).ask() == 576
