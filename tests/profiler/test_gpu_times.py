"""GPU times out of a trace that onnxruntime-webgpu 1.27.0 left on Mesa's lavapipe."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edgeprune.devices.gpu_times import WEBGPU, require_placement, with_gpu_times
from edgeprune.devices.local import WORKER
from edgeprune.devices.protocol import ModelAnswer, NodeCosts
from edgeprune.errors import DeviceError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import attribute, timeline

WORK = runpy.run_path(str(WORKER), run_name="worker")
EVENTS = json.loads(Path(__file__).with_name("webgpu_trace.json").read_text())
RUNS = 4


def answer_of(events: list[dict[str, Any]], warmup: int = 0) -> ModelAnswer:
    timed = [{"ts": 0, **event} for event in copy.deepcopy(events)]  # the trimmed trace has none
    found = WORK["_nodes"](timed, warmup)
    assert len(found["runs"]) == RUNS - warmup
    raw = ModelAnswer(name="m", load_seconds=0.0, warmup=warmup, **found)
    return with_gpu_times(raw)


def nodes_of(events: list[dict[str, Any]], warmup: int = 0) -> dict[str, list[float]]:
    return {node.name: list(node.values) for node in answer_of(events, warmup).nodes}


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


def test_starts_of_dispatches_are_not_drawn_as_those_of_programs(exported) -> None:
    """Dispatches follow each other faster than programs run: such slices would overlap."""
    answer = answer_of(EVENTS, 2)
    slices = timeline(read_graph(exported("residual")), answer, None)
    ends = [part.start + part.duration for part in slices]
    assert [part.start for part in slices] == pytest.approx([0.0, *ends[:-1]])
    assert ends[-1] == pytest.approx(sum(part.duration for part in slices))


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
    with pytest.raises(DeviceError, match="no times of its own"):
        nodes_of([e for e in EVENTS if e["cat"] != "Api"])


def test_programs_of_unknown_nodes_are_refused() -> None:
    stray = {"cat": "Api", "name": "elsewhere/Conv&Conv&Conv2dMM", "dur": 1, "args": {}}
    with pytest.raises(DeviceError, match="programs of no node: elsewhere/Conv"):
        nodes_of([*EVENTS, stray])


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_a_heavy_node_on_the_cpu_is_refused_and_a_light_one_is_not(operator: str) -> None:
    nodes = answer_of(EVENTS).nodes
    require_placement(nodes, WEBGPU)

    def moved(kind: str) -> list[NodeCosts]:
        elsewhere = {"provider": "CPUExecutionProvider"}
        return [n.model_copy(update=elsewhere) if n.operator == kind else n for n in nodes]

    require_placement(moved("Relu"), WEBGPU)
    with pytest.raises(DeviceError, match="runs on the CPU"):
        require_placement(moved(operator), WEBGPU)


def test_layers_are_found_by_their_names(exported) -> None:
    nodes = answer_of(EVENTS, 2).nodes
    owned, unowned = attribute(read_graph(exported("residual")), nodes)
    assert {"stem", "a1", "a2", "b1", "b2", "project", "head"} <= owned.keys()
    assert {node.name for node in unowned} == {"Transpose"}, "the change to the GPU's layout"
