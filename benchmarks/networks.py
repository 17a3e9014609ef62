"""The int8 networks of benchmarks/microcontroller.py, with inputs to run them on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from edgeprune.data import first_batches
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.onnx_graph import export
from edgeprune.export.precision import Precision
from edgeprune.export.quantization import quantize
from edgeprune.job import load_job
from edgeprune.loading import load_data, load_model

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FASHION = "fashion_small"
TINY = ("resnet8", "ds_cnn", "mobilenet_v1", "autoencoder")
NETWORKS = {
    FASHION: "the Fashion-MNIST network in a microcontroller's size, dense, trained",
    **dict.fromkeys(TINY, "MLPerf Tiny's shape, seeded random weights"),
}
CALIBRATION = 32  # seeded samples of the random networks


@dataclass(frozen=True)
class Network:
    """An int8 file and float32 inputs, [samples, ...]; `scale` is that of its output."""

    name: str
    path: Path
    samples: np.ndarray
    scale: float


def network(name: str, folder: Path, count: int) -> Network:
    """Write the int8 file of a network into `folder`; the same one every time."""
    path = folder / f"{name}.int8.onnx"
    samples = _fashion(path, count) if name == FASHION else _tiny(name, path, count)
    graph = read_integer_graph(path)
    return Network(name, path, samples, graph.tensors[graph.output].scale)


def _fashion(path: Path, count: int) -> np.ndarray:
    """Quantise as the job does, on its calibration images; return images of its test set."""
    place = EXAMPLES / "fashion_mnist"
    job = load_job(place / "microcontroller.toml")
    model, data = load_model(job, place), load_data(job, place)
    export(model, data.example_inputs, path.with_name("float.onnx"), opset=20)
    Precision.of(job, data).write(path.with_name("float.onnx"))
    path.with_name("float.int8.onnx").rename(path)
    part = data.validation if data.test is None else data.test
    taken = first_batches(part, count, "test")
    return np.concatenate([inputs[0].numpy() for inputs, _ in taken])[:count]


def _tiny(name: str, path: Path, count: int) -> np.ndarray:
    module = _module(EXAMPLES / "mlperf_tiny" / "model.py")
    shape = module.BUILDERS[name][1]
    export(module.build(name), (torch.zeros(shape),), path.with_name("float.onnx"), opset=20)
    quantize(path.with_name("float.onnx"), path, [_normal(shape, CALIBRATION, seed=1)])
    return _normal(shape, count, seed=2)


def _normal(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32)


def _module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location("mlperf_tiny", path)
    if specification is None or specification.loader is None:
        raise SystemExit(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
