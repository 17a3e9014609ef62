"""Rows for RAM and flash of int8 firmware against models that are really cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.allocation.firmware_rows import PADDING_BYTES, FirmwareMemory
from edgeprune.allocation.problem import build_problem, flat_curves, observed
from edgeprune.allocation.removal import with_removals
from edgeprune.cost.table import build_table
from edgeprune.export.arena import plan_memory
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.integer_operators import Alias
from edgeprune.export.lowering import lower
from edgeprune.export.onnx_graph import export
from edgeprune.export.quantization import quantize
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.pruning.blocks import find_blocks
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.records import CostTable, Footprint
from tests.allocation.branched_models import Branched, Skipped

CODE, STACK, STATE = 5000, 200, 32


def quantized(source: Path, target: Path) -> Path:
    shape = read_graph(source).shapes[read_graph(source).inputs[0]]
    random = np.random.default_rng(0)
    quantize(source, target, [random.standard_normal(shape).astype(np.float32) for _ in range(4)])
    return target


def memory_of(path: Path) -> tuple[int, int]:
    """Return RAM and flash of the int8 file at `path`, were it firmware."""
    graph = read_integer_graph(path)
    kernels = [
        lower(operator, graph, "dsp", "edgeprune")
        for operator in graph.operators
        if not isinstance(operator, Alias)
    ]
    scratch = max(kernel.scratch for kernel in kernels)
    weights = sum(constant.bytes for kernel in kernels for constant in kernel.constants)
    return plan_memory(graph).arena_bytes + scratch + STATE + STACK, weights + CODE


def footprint_of(path: Path) -> Footprint:
    ram, flash = memory_of(path)
    arena = plan_memory(read_integer_graph(path)).arena_bytes
    return Footprint(
        flash_bytes=flash, ram_bytes=ram, code_bytes=CODE, constant_bytes=flash - CODE,
        variable_bytes=0, static_bytes=ram - STACK, stack_bytes=STACK, arena_bytes=arena,
        scratch_bytes=ram - STACK - STATE - arena, scratch_used_bytes=0, io_bytes=0,
    )  # fmt: skip


@pytest.fixture(params=["plain", "residual", "separable", "flattened"])
def subject(request, build, exported, groups_of, simulated, tmp_path):
    name = request.param
    model, inputs = build(name)
    device, graph = simulated(), read_graph(exported(name))
    profile = profile_model(device, exported(name), name=name)
    table = build_table(device, graph, groups_of(name).groups, profile)
    dense = quantized(exported(name), tmp_path / "dense.onnx")
    memory = FirmwareMemory(read_integer_graph(dense), table, "dsp", footprint_of(dense))
    return model, inputs, table, memory


def choices(table: CostTable) -> list[tuple[int, ...]]:
    random = np.random.default_rng(1)
    some = [tuple(int(random.integers(len(w))) for w in table.widths.values()) for _ in range(4)]
    return [(0,) * len(table.widths), *some, tuple(len(w) - 1 for w in table.widths.values())]


def test_rows_say_what_the_cut_firmware_takes(subject, tmp_path) -> None:
    model, inputs, table, memory = subject
    rows = (*memory.ram(1.0), *memory.flash(1.0))
    problem = build_problem(table, flat_curves(table), rows)
    for choice in choices(table):
        kept = {name: range(width) for name, width in problem.widths_of(choice).items()}
        slim: nn.Module = cut(model, inputs, kept)
        export(slim, inputs, tmp_path / "slim.onnx", opset=20)
        ram, flash = memory_of(quantized(tmp_path / "slim.onnx", tmp_path / "slim.int8.onnx"))
        used = problem.used(choice)
        assert used["ram"] == ram + PADDING_BYTES
        assert used["flash"] == flash


@pytest.mark.parametrize("kind", [Branched, Skipped])
def test_rows_without_a_branch_are_the_firmware_without_it(
    kind: type[nn.Module], simulated, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs, path = kind().eval(), (torch.randn(1, 3, 8, 8),), tmp_path / "model.onnx"
    export(model, inputs, path, opset=20)
    groups = find_groups(model, inputs).groups
    table = build_table(
        simulated(), read_graph(path), groups, profile_model(simulated(), path, name="m")
    )
    dense = quantized(path, tmp_path / "dense.onnx")
    memory = FirmwareMemory(read_integer_graph(dense), table, "dsp", footprint_of(dense))
    (block,) = find_blocks(model, inputs, groups)
    rows = (*memory.ram(1.0), *memory.flash(1.0))
    problem = build_problem(table, flat_curves(table), rows)
    problem = with_removals(problem, (block,), {block.last: 0.0})
    for gone in ((), (block,)):
        own = {group for one in gone for group in one.groups}
        choice = [0 if n in own else d for n, d in zip(problem.names, problem.dense, strict=True)]
        export(cut(model, inputs, {}, gone), inputs, path, opset=20)
        ram, flash = memory_of(quantized(path, tmp_path / "slim.onnx"))
        assert problem.used(choice) == {"ram": ram + PADDING_BYTES, "flash": flash}


def test_rows_that_cannot_bind_are_left_out(subject) -> None:
    _, _, _, memory = subject
    assert memory.ram(memory.footprint.ram_bytes + 1024.0) == ()
    assert memory.flash(memory.footprint.flash_bytes) == ()
    assert memory.ram(memory.footprint.ram_bytes - 1.0)


def test_rows_move_to_what_was_seen(subject) -> None:
    _, _, table, memory = subject
    rows = (*memory.ram(1.0), *memory.flash(1.0))
    problem = build_problem(table, flat_curves(table), rows)
    moved = observed(problem, problem.dense, {"ram": 777.0})
    assert moved.used(problem.dense)["ram"] == pytest.approx(777.0)
    narrow = (0,) * len(table.widths)
    gap = problem.used(problem.dense)["ram"] - 777.0
    assert moved.used(narrow)["ram"] == pytest.approx(problem.used(narrow)["ram"] - gap)
    assert moved.used(narrow)["flash"] == problem.used(narrow)["flash"]
