"""Generated C code of edgeprune, bakenn and emx-onnx-cgen on the same int8 networks, emulated.

    make bench-microcontroller                                   all of it: some ten minutes
    python benchmarks/microcontroller.py --devices cortex_m4 --networks ds_cnn
    python benchmarks/microcontroller.py --docs docs/benchmarks.md     writes the section there too
    python benchmarks/microcontroller.py --keep folder                 goes on where it stopped

Every generator gets the same weights, scales and zero points, the same compiler, version and flags.
Instructions are exact and repeat; nothing here is timed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import torch
from generators import GENERATORS, NotPossibleError
from networks import NETWORKS, Network, network
from page import write_section
from section import Conditions, Row, section

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.build import build
from edgeprune.devices.microcontroller.emulation import Job
from edgeprune.devices.microcontroller.toolchain import compiler_obstacle, toolchain
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError, UnsupportedModelError
from edgeprune.records import Microcontroller
from edgeprune.store import write_text

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
    parser.add_argument("--samples", type=int, default=10, help="inputs compared for each")
    parser.add_argument(
        "--keep", type=Path, help="folder of figures, taken again for equal firmware"
    )
    parser.add_argument("--docs", type=Path, help="page whose section is written anew")
    asked = parser.parse_args()
    wanted = [
        Column(device, _chip(device, compiler))
        for device, compiler in COLUMNS
        if device in asked.devices and compiler in asked.compilers
    ]
    columns = [column for column in wanted if available(column)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        for name in asked.networks:
            model = network(name, Path(scratch), asked.samples)
            for row in measure(model, columns, Path(scratch), asked.keep):
                print(row.line(), flush=True)
                rows.append(row)
    text = section(rows, conditions(columns, asked.samples))
    print("\n" + text)
    if asked.docs:
        write_section(asked.docs, "microcontroller", text)
    lost = [row for row in rows if row.generator == "edgeprune" and beaten(row, rows)]
    for row in lost:
        print(f"beaten on {row.network}, {row.column}", file=sys.stderr)
    sys.exit(1 if lost else 0)


def available(column: Column) -> bool:
    """Whether compiler and emulator of a column are here; says what is missing."""
    missing = compiler_obstacle(column.chip) or column.engine.emulator_obstacle()
    if missing:
        name = f"{column.device} with {column.chip.compiler}"
        print(f"LEFT OUT: {name}: {missing.why} ({missing.help})", file=sys.stderr)
    return missing is None


def measure(
    model: Network, columns: list[Column], scratch: Path, keep: Path | None
) -> Iterator[Row]:
    expected = reference(model)
    for column in columns:
        for generator in GENERATORS:
            common = {"network": model.name, "column": column.title, "generator": generator}
            try:
                figures = _figures(model, column, generator, expected, scratch, keep)
            except (DeviceError, NotPossibleError, UnsupportedModelError) as error:
                if generator.startswith("edgeprune"):
                    raise
                figures = {"failure": str(error.args[0])}
            yield Row(**common, **figures)


def _figures(
    model: Network,
    column: Column,
    generator: str,
    expected: np.ndarray,
    scratch: Path,
    keep: Path | None,
) -> dict[str, Any]:
    """Return the fields of a row; those of firmware seen before are taken from `keep`."""
    place = f"{model.name}-{column.title}-{generator}".replace(" ", "").replace(",", "-")
    code = GENERATORS[generator](model.path, scratch / place, column.chip)
    firmware = build(code.sources, column.chip, column.machine, model.name)
    # The file's name is the hash of all that it is made of.
    name = (
        f"{firmware.image.path.stem}-{column.engine.emulator_version()}-{len(model.samples)}.json"
    )
    kept = keep / name.replace(" ", "-") if keep else None
    if kept and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    calls = [code.sources.encode([sample[None]]) for sample in model.samples]
    jobs = (
        Job(model.name, firmware, calls[0], True),
        Job(model.name, firmware, b"".join(calls), False),
    )
    counted, compared = (column.engine.emulate(column.chip, [job], SECONDS)[0] for job in jobs)
    border = sum(
        count
        for layer, count in zip(code.sources.layers, counted.counts.layers, strict=True)
        if layer.name in code.excluded
    )
    outputs = np.concatenate([code.sources.decode(data) for data in compared.outputs])
    difference = np.abs(np.rint((outputs - expected) / model.scale))
    footprint = firmware.footprint(compared.stack_bytes, compared.scratch_bytes)
    figures = {
        "instructions": counted.counts.total - border,
        "flash_bytes": footprint.flash_bytes,
        "static_bytes": footprint.static_bytes + code.caller_bytes,
        "stack_bytes": compared.stack_bytes,
        "largest_difference": int(difference.max()),
        "differing": float((difference > 0).mean()),
        "arena_bytes": code.sources.arena_bytes,
        "scratch_bytes": code.scratch_bytes,
        "liveness_bytes": code.liveness_bytes,
        "remarks": code.remarks,
    }
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(figures))
    return figures


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
