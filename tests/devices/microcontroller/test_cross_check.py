"""The same binary in both emulators: unicorn's counts and outputs are those of qemu."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.build import build
from edgeprune.devices.microcontroller.emulation import Job
from edgeprune.devices.microcontroller.sources import write_sources
from edgeprune.devices.spec import load_spec
from edgeprune.export.quantization import quantize

pytestmark = [pytest.mark.microcontroller, pytest.mark.qemu]
MOST = 3  # instructions that a whole inference may differ by


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("name", ["cortex_m4", "cortex_m7", "cortex_m33"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_both_emulators_count_the_same_binary_alike(
    exported, tmp_path: Path, precision: str, name: str, compiler: str
) -> None:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("NO CROSS COMPILER: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi")
    path = exported("residual")
    if precision == "int8":
        path = tmp_path / "int8.onnx"
        shape = (8, 3, 8, 8)
        samples = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        quantize(exported("residual"), path, [samples[i : i + 1] for i in range(len(samples))])
    chip = load_spec(name).microcontroller
    assert chip is not None
    chip = chip.model_copy(update={"compiler": compiler})
    sources = write_sources(path, tmp_path / "code", chip)
    firmware = build(sources, chip, chip.machine, "residual")
    inputs = [
        np.random.default_rng(2).standard_normal(b.shape).astype(np.float32) for b in sources.inputs
    ]
    job = Job("residual", firmware, sources.encode(inputs), counted=True)
    (one,), (two,) = (engine.emulate(chip, [job], 120.0) for engine in (unicorn, qemu))
    assert one.counts is not None
    assert two.counts is not None
    assert one.counts.total > 1000
    assert abs(one.counts.total - two.counts.total) <= MOST
    for first, second in zip(one.counts.layers, two.counts.layers, strict=True):
        assert abs(first - second) <= MOST
    assert one.outputs == two.outputs
    assert one.stack_bytes == two.stack_bytes
