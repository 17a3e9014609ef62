"""GPU times out of a trace that onnxruntime-webgpu 1.27.0 left on Mesa's lavapipe."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edgeprune.devices.local import WORKER
from edgeprune.devices.protocol import NodeCosts
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import attribute

WORK = runpy.run_path(str(WORKER), run_name="worker")
EVENTS = json.loads(Path(__file__).with_name("webgpu_trace.json").read_text())
RUNS = 4


def nodes_of(events: list[dict[str, Any]], warmup: int = 0) -> dict[str, list[float]]:
    found = WORK["_nodes"](copy.deepcopy(events), warmup)
    assert len(found["runs"]) == RUNS - warmup
    return {node["name"]: node["values"] for node in found["nodes"]}


def programs(prefix: str) -> list[int]:
    return [e["dur"] for e in EVENTS if e["cat"] == "Api" and e["name"].startswith(prefix + "&")]


def dispatch(name: str) -> list[int]:
    return [e["dur"] for e in EVENTS if e["cat"] == "Node" and e["name"] == f"{name}_kernel_time"]


def test_a_node_has_the_time_of_its_program_not_of_the_dispatch() -> None:
    nodes = nodes_of(EVENTS)
    name = "a2/Conv_token_9"
    assert nodes[name] == programs(name)
    assert nodes[name] != dispatch(name)
    assert min(nodes[name]) > 5 * min(dispatch(name))


def test_programs_of_one_node_add_up_run_by_run() -> None:
    spent = programs("ReduceMean")
    assert len(spent) == 2 * RUNS, "a transpose and the mean"
    assert nodes_of(EVENTS)["ReduceMean"] == [
        spent[2 * run] + spent[2 * run + 1] for run in range(RUNS)
    ]


def test_the_runs_that_compile_shaders_are_dropped() -> None:
    all_, later = nodes_of(EVENTS), nodes_of(EVENTS, warmup=2)
    assert all_["stem/Conv_token_1"][0] > 1000 * min(all_["stem/Conv_token_1"])
    assert {name: values[2:] for name, values in all_.items()} == later


def test_what_runs_in_the_first_run_only_is_left_out() -> None:
    first = next(i for i, e in enumerate(EVENTS) if e["name"].startswith("a1/Conv_token_5&"))
    once = {"cat": "Api", "name": "a1/Conv_token_5&Conv&Transpose", "dur": 77, "args": {}}
    events = [*EVENTS[:first], once, *EVENTS[first:]]
    assert nodes_of(events)["a1/Conv_token_5"] == programs("a1/Conv_token_5")


def test_a_node_without_programs_costs_nothing() -> None:
    """Such as a reshape, which only changes the view."""
    events = [e for e in EVENTS if not e["name"].startswith("Add&")]
    assert nodes_of(events)["Add"] == [0] * RUNS


def test_nodes_on_the_cpu_keep_their_own_time() -> None:
    events = copy.deepcopy([e for e in EVENTS if not e["name"].startswith("Add_2&")])
    for event in events:
        if event["name"] == "Add_2_kernel_time":
            event["args"]["provider"] = "CPUExecutionProvider"
    assert nodes_of(events)["Add_2"] == dispatch("Add_2")


def test_namesakes_are_not_counted_twice() -> None:
    events = copy.deepcopy(EVENTS)
    for event in events:
        event["name"] = event["name"].replace("Add_2", "Add", 1)
    both = nodes_of(events)["Add"]
    assert sum(both) == sum(programs("Add")) + sum(programs("Add_2"))


def test_an_adapter_without_time_stamps_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no times of its own"):
        nodes_of([e for e in EVENTS if e["cat"] != "Api"])


def test_programs_of_unknown_nodes_are_refused() -> None:
    stray = {"cat": "Api", "name": "elsewhere/Conv&Conv&Conv2dMM", "dur": 1, "args": {}}
    with pytest.raises(RuntimeError, match="programs of no node: elsewhere/Conv"):
        nodes_of([*EVENTS, stray])


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_a_heavy_node_on_the_cpu_is_refused_and_a_light_one_is_not(operator: str) -> None:
    found = WORK["_nodes"](copy.deepcopy(EVENTS), 0)["nodes"]
    WORK["_placed"](found)
    light = next(node for node in found if node["operator"] == "Relu")
    light["provider"] = "CPUExecutionProvider"
    WORK["_placed"](found)
    heavy = next(node for node in found if node["operator"] == operator)
    heavy["provider"] = "CPUExecutionProvider"
    with pytest.raises(RuntimeError, match="runs on the CPU"):
        WORK["_placed"](found)


def test_layers_are_found_by_their_names(exported) -> None:
    found = WORK["_nodes"](copy.deepcopy(EVENTS), 2)["nodes"]
    nodes = tuple(NodeCosts(**node) for node in found)
    owned, unowned = attribute(read_graph(exported("residual")), nodes)
    assert {"stem", "a1", "a2", "b1", "b2", "project", "head"} <= owned.keys()
    assert {node.name for node in unowned} == {"Transpose"}, "the change to the GPU's layout"
