"""What of a job takes no part in a comparison at equal cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune.allocation.problem import Resource
from edgeprune.bench.scope import left_out, require_cost
from edgeprune.cost.table import build_table
from edgeprune.devices.spec import load_spec
from edgeprune.errors import UsageError
from edgeprune.export.segments import read_graph
from edgeprune.job import Job
from edgeprune.profiler.layers import profile_model
from edgeprune.stages import allocating
from edgeprune.stages.base import Run


def a_job(precision: str = "float32", **budget: object) -> Job:
    return Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": budget,
            "export": {"precision": precision},
        }
    )


@pytest.mark.parametrize(
    ("device", "job", "named"),
    [
        ("mobile_cpu", a_job(latency="50%"), ""),
        ("mobile_cpu", a_job(macs="50%", ram_kb=9), "[budget] macs, [budget] ram_kb of the job"),
        ("nucleo_l4r5zi", a_job("int8", latency="50%"), "the memory of the board"),
        (
            "nucleo_l4r5zi",
            a_job("int8", parameters="2x", flash_kb=64),
            "[budget] parameters, [budget] flash_kb of the job and the memory of the board",
        ),
        ("nucleo_l4r5zi", a_job(latency="50%"), ""),  # float32: plans are never held to it
        ("cortex_m4", a_job("int8", latency="50%"), ""),  # a core without a board
    ],
)
def test_limits_besides_the_cost_are_named(device: str, job: Job, named: str) -> None:
    assert left_out(job, load_spec(device)) == named


def test_a_comparison_needs_a_cost() -> None:
    require_cost(a_job(latency="50%", macs="50%"))
    with pytest.raises(UsageError, match="limits none: it asks for macs 50%, ram_kb 9") as error:
        require_cost(a_job(macs="50%", ram_kb=9))
    assert "--budget 50%" in error.value.hint


@pytest.mark.parametrize("board", [True, False])
def test_a_plan_is_held_to_the_memory_of_a_board_unless_it_is_compared(
    build, groups_of, exported, simulated, monkeypatch, board: bool
) -> None:
    path: Path = exported("plain")
    device, graph = simulated(), read_graph(path)
    profile = profile_model(device, path, name="plain", processes=1, rounds=2)
    table = build_table(device, graph, groups_of("plain").groups, profile, processes=1)
    flash = Resource("flash", "bytes", 1.0, ())
    monkeypatch.setattr(allocating, "_firmware_rows", lambda run, table: (flash,))
    run = Run(
        a_job("int8", latency="50%"),
        build("plain")[0],
        data=None,
        device=SimpleNamespace(spec=load_spec("nucleo_l4r5zi")),
        folder=SimpleNamespace(file=lambda name: path),
        console=None,
        board=board,
    )
    monkeypatch.setattr(Run, "precision", SimpleNamespace(name="int8"))
    problem = allocating.pose(run, groups_of("plain"), profile, table)
    assert problem.resources == ((flash,) if board else ())
