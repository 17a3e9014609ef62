"""Generated C compiled for this machine, next to onnxruntime on the same int8 file."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeprune.export import cmsis_nn
from edgeprune.export.c_source import generate
from edgeprune.export.onnx_graph import export
from edgeprune.export.quantization import quantize
from edgeprune.export.tensors import decode, encode
from edgeprune.records import CSource

# The host is no Arm processor: CMSIS-NN's own switches for its plain C.
HOST = ("-O2", "-fPIC", "-D__GNUC_PYTHON__", "-D__RESTRICT=__restrict")
STRICT = (
    "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef",
    "-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror",
)  # fmt: skip
EXAMPLES = Path(__file__).parents[2] / "examples"


def pytest_runtest_setup(item: pytest.Item) -> None:
    compiled = item.get_closest_marker("c_compiler") is not None
    if not compiled and item.get_closest_marker("microcontroller") is None:
        return
    if compiled and shutil.which("gcc") is None:
        pytest.skip("NO C COMPILER: apt-get install gcc")
    if importlib.util.find_spec("bakenn") is None:
        pytest.skip("NO CMSIS-NN: pip install -c constraints.txt -e '.[microcontroller]'")


class HostNetwork:
    """A generated network in a shared library of its own."""

    def __init__(self, source: CSource, path: Path) -> None:
        self.source, self._library = source, ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> Callable[..., int]:
        return getattr(self._library, f"{self.source.name}_{name}")

    def run(self, sample: NDArray[np.float32]) -> NDArray[np.float32]:
        """Real values in, real values out; canaries checked."""
        integers = encode(self.source.input, sample)
        result = np.zeros(int(np.prod(self.source.output.shape)), np.int8)
        self.infer(integers.ctypes.data_as(ctypes.c_void_p), result.ctypes.data_as(ctypes.c_void_p))
        assert self.check() == 0
        return decode(self.source.output, result)


@pytest.fixture(scope="session")
def cmsis_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CMSIS-NN, compiled once."""
    folder = tmp_path_factory.mktemp("cmsis")
    root = cmsis_nn.find(None)
    sources = [str(p) for p in sorted((root / "Source").rglob("arm_*.c"))]
    flags = [*HOST, "-DCMSIS_NN_USE_SINGLE_ROUNDING", f"-I{root / 'Include'}", "-c", *sources]
    subprocess.run(["gcc", *flags], cwd=folder, check=True)
    objects = [str(p) for p in sorted(folder.glob("*.o"))]
    subprocess.run(["ar", "rcs", str(folder / "libcmsis.a"), *objects], check=True)
    return folder / "libcmsis.a"


@pytest.fixture
def compile_network(cmsis_archive: Path) -> Callable[[CSource], HostNetwork]:
    def compile_(source: CSource) -> HostNetwork:
        folder = Path(source.folder)
        own = [str(folder / path) for path in source.sources if "/" not in path]
        includes = [
            f"-I{folder}",
            *(f"-isystem{folder / path}" for path in source.include_dirs[1:]),
        ]
        flags = [*HOST, *STRICT, *(f"-D{name}" for name in source.defines), *includes]
        library = folder / "network.so"
        subprocess.run(
            ["gcc", *flags, "-shared", *own, str(cmsis_archive), "-o", str(library)], check=True
        )
        return HostNetwork(source, library)

    return compile_


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Export a torch model and quantise it on normally distributed inputs."""

    def quantized_(model: nn.Module, shape: tuple[int, ...], samples: int = 32) -> Path:
        folder = tmp_path_factory.mktemp("int8")
        export(model, (torch.zeros(shape),), folder / "float.onnx", opset=20)
        quantize(folder / "float.onnx", folder / "int8.onnx", [inputs(shape, samples, seed=1)])
        return folder / "int8.onnx"

    return quantized_


@pytest.fixture(scope="session")
def mlperf_tiny(quantized: Callable[..., Path]) -> Callable[[str], Path]:
    """Return the int8 file of a network of MLPerf Tiny."""
    specification = importlib.util.spec_from_file_location(
        "mlperf_tiny", EXAMPLES / "mlperf_tiny" / "model.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return cache(lambda name: quantized(module.build(name), module.BUILDERS[name][1]))


def inputs(shape: tuple[int, ...], count: int, seed: int) -> NDArray[np.float32]:
    """Return `count` seeded samples."""
    return np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32)


def reference(model: Path, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the outputs of onnxruntime, sample by sample."""
    options = onnxruntime.SessionOptions()
    # Without VNNI, x86 saturates sums of uint8 by int8 products unless told otherwise.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


def compare(
    model: Path, network: HostNetwork, samples: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    """Return the differences to onnxruntime in units of the last place, and top-1 agreement."""
    scale = network.source.output.scale
    differences, agree = [], 0
    for sample, row in zip(samples, reference(model, samples), strict=True):
        expected, got = row[None], network.run(sample[None])
        differences.append(np.abs(np.rint((got - expected) / scale)).astype(np.float64))
        agree += int(got.argmax() == expected.argmax())
    return np.stack(differences), agree / len(samples)


@pytest.fixture
def generate_for(tmp_path: Path) -> Callable[..., CSource]:
    def generate_(model: Path, target: str, **options: object) -> CSource:
        return generate(model, tmp_path / target, name="network", target=target, **options)  # type: ignore[arg-type]

    return generate_
