"""Generated C code of edgeprune, bakenn and emx-onnx-cgen on the same int8 networks, emulated.

    make bench-microcontroller                                   all of it: some ten minutes
    python benchmarks/microcontroller.py --devices cortex_m4 --networks ds_cnn
    python benchmarks/microcontroller.py --docs docs/benchmarks.md     writes the section there too

Every generator gets the same weights, scales and zero points, the same compiler, version and flags.
Instructions are exact and repeat; nothing here is timed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import torch
from generators import GENERATORS, NotPossibleError
from networks import NETWORKS, Network, network
from section import Conditions, Row, section, write_section

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.build import build
from edgeprune.devices.microcontroller.emulation import Job
from edgeprune.devices.microcontroller.toolchain import toolchain
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError, UnsupportedModelError
from edgeprune.records import Microcontroller

# Device profile and compiler of each column. unicorn lacks double-precision instructions of the
# Cortex-M7 that emx-onnx-cgen's code needs, so that its column is counted in qemu.
COLUMNS = (
    ("cortex_m4", "zig"),
    ("cortex_m4", "gcc"),
    ("cortex_m7", "zig"),
    ("cortex_m33", "zig"),
    ("cortex_m55", "zig"),
)
SECONDS = 600.0  # for one emulation


@dataclass(frozen=True)
class Column:
    """A core and a compiler."""

    device: str
    chip: Microcontroller

    @property
    def engine(self) -> ModuleType:
        return qemu if self.chip.emulator == "qemu" else unicorn

    @property
    def machine(self) -> str:
        return self.chip.machine if self.chip.emulator == "qemu" else unicorn.MACHINE

    @property
    def title(self) -> str:
        core = self.chip.cpu.replace("cortex-m", "M")
        return core if toolchain(self.chip).version.startswith("zig") else f"{core}, gcc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", nargs="+", default=[device for device, _ in COLUMNS])
    parser.add_argument("--compilers", nargs="+", default=["zig", "gcc"], choices=["zig", "gcc"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=20, help="inputs compared for each")
    parser.add_argument("--docs", type=Path, help="page whose section is written anew")
    asked = parser.parse_args()
    columns = [
        Column(device, _chip(device, compiler))
        for device, compiler in COLUMNS
        if device in asked.devices and compiler in asked.compilers
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        for name in asked.networks:
            model = network(name, Path(scratch), asked.samples)
            for row in measure(model, columns, Path(scratch)):
                print(row.line(), flush=True)
                rows.append(row)
    text = section(rows, conditions(columns, asked.samples))
    print("\n" + text)
    if asked.docs:
        write_section(asked.docs, text)
    lost = [row for row in rows if row.generator == "edgeprune" and beaten(row, rows)]
    for row in lost:
        print(f"beaten on {row.network}, {row.column}", file=sys.stderr)
    sys.exit(1 if lost else 0)


def measure(model: Network, columns: list[Column], scratch: Path) -> Iterator[Row]:
    expected = reference(model)
    for column in columns:
        for generator in GENERATORS:
            yield _row(model, column, generator, expected, scratch)


def _row(
    model: Network, column: Column, generator: str, expected: np.ndarray, scratch: Path
) -> Row:
    common = {"network": model.name, "column": column.title, "generator": generator}
    place = f"{model.name}-{column.title}-{generator}".replace(" ", "").replace(",", "-")
    try:
        code = GENERATORS[generator](model.path, scratch / place, column.chip)
        firmware = build(code.sources, column.chip, column.machine, model.name)
        calls = [code.sources.encode([sample[None]]) for sample in model.samples]
        jobs = (
            Job(model.name, firmware, calls[0], True),
            Job(model.name, firmware, b"".join(calls), False),
        )
        counted, compared = (column.engine.emulate(column.chip, [job], SECONDS)[0] for job in jobs)
    except (DeviceError, NotPossibleError, UnsupportedModelError) as error:
        if generator.startswith("edgeprune"):
            raise
        return Row(**common, failure=str(error.args[0]))
    border = sum(
        count
        for layer, count in zip(code.sources.layers, counted.counts.layers, strict=True)
        if layer.name in code.excluded
    )
    outputs = np.concatenate([code.sources.decode(data) for data in compared.outputs])
    difference = np.abs(np.rint((outputs - expected) / model.scale))
    footprint = firmware.footprint(compared.stack_bytes, compared.scratch_bytes)
    return Row(
        **common,
        instructions=counted.counts.total - border,
        flash_bytes=footprint.flash_bytes,
        static_bytes=footprint.static_bytes + code.caller_bytes,
        stack_bytes=compared.stack_bytes,
        largest_difference=int(difference.max()),
        differing=float((difference > 0).mean()),
        arena_bytes=code.sources.arena_bytes,
        scratch_bytes=code.scratch_bytes,
        liveness_bytes=code.liveness_bytes,
        remarks=code.remarks,
    )


def reference(model: Network) -> np.ndarray:
    """Return what onnxruntime computes, unfused: its fused kernels saturate without VNNI."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[None]})[0] for x in model.samples])


def beaten(row: Row, rows: list[Row]) -> bool:
    """Whether another generator than edgeprune needs fewer instructions in the same column."""
    rivals = [
        other.instructions
        for other in rows
        if (other.network, other.column) == (row.network, row.column)
        and not other.generator.startswith("edgeprune")
        and other.instructions is not None
    ]
    return row.instructions is None or row.instructions > min(rivals, default=row.instructions)


def conditions(columns: list[Column], samples: int) -> Conditions:
    versions = {
        name: importlib.metadata.version(name)
        for name in ("edgeprune", "bakenn", "emx-onnx-cgen", "onnxruntime", "torch")
    }
    tools = {
        column.title: f"{toolchain(column.chip).identity}; {column.engine.emulator_version()}"
        for column in columns
    }
    return Conditions(tools, versions, samples)


@cache
def _chip(device: str, compiler: str) -> Microcontroller:
    chip = load_spec(device).microcontroller
    if chip is None:
        raise SystemExit(f"{device} is no microcontroller")
    emulator = "qemu" if device == "cortex_m7" else chip.emulator
    return chip.model_copy(update={"compiler": compiler, "emulator": emulator})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
