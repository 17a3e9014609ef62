"""The worker as the device sees it: a program of its own, started by path, answering by file."""

from __future__ import annotations

import ast
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from edgeprune.devices.local import WORKER

SESSION = {
    "threads": 1,
    "affinity": None,
    "providers": ["CPUExecutionProvider"],
    "graph_optimization": "all",
}
REQUEST = {
    "task": "time", "rounds": 3, "inner": 1, "openings": 1, "paired": False, "warmup_runs": 2, "warmup_seconds": 0.0,
    "deadline_seconds": 20.0, "seed": 0, "inputs": None, "outputs": None, "session": SESSION,
}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path):
    """Fields of a request -> (answer or None, finished process)."""

    def ask(*files: Path, session: dict[str, Any] | None = None, **fields: Any):
        models = [{"name": f"model{i}", "file": str(file)} for i, file in enumerate(files)]
        request = {**REQUEST, "models": models, **fields, "session": {**SESSION, **(session or {})}}
        asked, answered = tmp_path / "request.json", tmp_path / "result.json"
        answered.unlink(missing_ok=True)
        asked.write_text(json.dumps(request))
        command = [sys.executable, "-I", str(WORKER), str(asked), str(answered)]
        done = subprocess.run(
            command, cwd="/", capture_output=True, text=True, check=False, timeout=120
        )
        answer = json.loads(answered.read_text()) if answered.exists() else None
        assert {p.name for p in tmp_path.iterdir() if "result" in p.name} <= {"result.json"}
        return answer, done

    return ask


def test_it_imports_the_standard_library_numpy_and_onnxruntime_only() -> None:
    tree = ast.parse(WORKER.read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_neither_torch_nor_onnx_nor_edgeprune_is_loaded_while_it_runs(
    exported, tmp_path: Path
) -> None:
    asked, answered = tmp_path / "q.json", tmp_path / "r.json"
    asked.write_text(
        json.dumps({**REQUEST, "models": [{"name": "m", "file": str(exported("mlp"))}]})
    )
    program = (
        "import runpy, sys; sys.argv = [sys.argv[1], sys.argv[2], sys.argv[3]]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(WORKER), str(asked), str(answered)],
        cwd="/", capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "onnx", "edgeprune", "torch_pruning", "pydantic", "onnx_ir"}
    assert answered.exists()


def test_time_gives_every_run_in_nanoseconds(work, exported) -> None:
    answer, done = work(exported("mlp"), exported("residual"), rounds=7, inner=3)
    assert (done.returncode, done.stdout) == (0, "")
    assert answer["stopped"] == "fixed"
    assert [m["name"] for m in answer["models"]] == ["model0", "model1"]
    for model in answer["models"]:
        assert len(model["values"]) == 7 * 3
        assert all(value > 0 for value in model["values"])
        assert model["warmup"] >= 2
        assert model["load_seconds"] > 0
    fast, slow = (statistics.median(m["values"]) for m in answer["models"])
    assert slow > 2 * fast


def test_a_model_with_far_more_work_takes_far_longer(work, tmp_path: Path) -> None:
    files = []
    for size in (8, 1024):
        files.append(tmp_path / f"product{size}.onnx")
        files[-1].write_bytes(product(size))
    answer, _ = work(*files, rounds=9)
    small, large = (min(m["values"]) for m in answer["models"])
    assert large > 5 * small


def product(size: int, *, batch: object = 1, kind: int = TensorProto.FLOAT) -> bytes:
    weight = np.ones((size, size), np.float32)
    value = helper.make_tensor_value_info("x", kind, [batch, size])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, size])
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT)]
    previous = "c"
    for index in range(4):
        nodes.append(helper.make_node("MatMul", [previous, "w"], [f"p{index}"], name=f"p{index}"))
        previous = f"p{index}"
    nodes.append(helper.make_node("Identity", [previous], ["y"]))
    tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)
    graph = helper.make_graph(nodes, "g", [value], [out], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL]
)
def test_inputs_of_other_types_are_fed(work, tmp_path: Path, kind: int) -> None:
    (tmp_path / "m.onnx").write_bytes(product(8, kind=kind))
    answer, done = work(tmp_path / "m.onnx")
    assert answer is not None, done.stderr


def test_layers_give_every_node_of_every_run(work, exported) -> None:
    answer, _ = work(
        exported("residual"), exported("mlp"), task="layers", rounds=5, inner=2, warmup_runs=3
    )
    for model in answer["models"]:
        assert len(model["runs"]) == 10
        assert model["nodes"]
        for node in model["nodes"]:
            assert len(node["values"]) == 10, node["name"]
            assert node["provider"] == "CPUExecutionProvider"
            assert node["operator"]
    operators = [node["operator"] for node in answer["models"][0]["nodes"]]
    assert operators.count("Conv") == 6
    assert answer["models"][0]["peak_bytes"] > 0


def test_nodes_add_up_to_the_run(work, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(product(512))
    answer, _ = work(tmp_path / "m.onnx", task="layers", rounds=40, warmup_runs=5)
    model = answer["models"][0]
    runs = model["runs"]
    sums = [sum(values) for values in zip(*(n["values"] for n in model["nodes"]), strict=True)]
    assert 0.5 <= statistics.median(s / r for s, r in zip(sums, runs, strict=True)) <= 1.05


def test_two_models_called_alike_do_not_mix_their_traces(work, exported) -> None:
    answer, _ = work(exported("mlp"), exported("plain"), exported("mlp"), task="layers")
    operators = [{n["operator"] for n in m["nodes"]} for m in answer["models"]]
    assert "Conv" not in operators[0] | operators[2]
    assert "Conv" in operators[1]


def test_run_gives_the_outputs_of_the_model(work, build, exported, tmp_path: Path) -> None:
    model, _ = build("plain")
    images = torch.randn(5, 3, 8, 8)
    np.savez(tmp_path / "in.npz", input=images.numpy())
    answer, _ = work(
        exported("plain"),
        task="run",
        inputs=str(tmp_path / "in.npz"),
        outputs=str(tmp_path / "out.npy"),
    )
    with torch.inference_mode():
        np.testing.assert_allclose(
            np.load(tmp_path / "out.npy"), model(images).numpy(), rtol=0, atol=1e-4
        )
    assert answer["models"][0]["name"] == "model0"
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_the_last_batch_is_filled_up_and_cut_again(work, tmp_path: Path, count: int) -> None:
    (tmp_path / "m.onnx").write_bytes(product(4, batch=4))
    rows = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=rows)
    work(
        tmp_path / "m.onnx",
        task="run",
        inputs=str(tmp_path / "in.npz"),
        outputs=str(tmp_path / "out.npy"),
    )
    wanted = rows.astype(np.float64) @ np.linalg.matrix_power(np.ones((4, 4)), 4)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, rtol=1e-4)


def test_outputs_stop_at_the_deadline_and_tell_how_many_runs_were_made(
    work, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(product(4, batch=2))
    rows = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=rows)
    paths = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    for seconds, stopped, runs, made in ((0.0, "time", 1, 2), (20.0, "fixed", 4, 7)):
        answer, _ = work(tmp_path / "m.onnx", task="run", deadline_seconds=seconds, **paths)
        (model,) = answer["models"]
        assert (answer["stopped"], model["made"]) == (stopped, runs)
        wanted = rows[:made].astype(np.float64) @ np.linalg.matrix_power(np.ones((4, 4)), 4)
        np.testing.assert_allclose(np.load(paths["outputs"]), wanted, rtol=1e-4)


def test_the_environment_says_what_decides(work, exported) -> None:
    answer, _ = work(exported("mlp"), session={"threads": 2, "graph_optimization": "basic"})
    environment = answer["environment"]
    assert set(environment["comparable"]) <= set(environment["facts"])
    assert environment["facts"]["threads"] == "2"
    assert environment["facts"]["graph_optimization"] == "basic"
    assert environment["facts"]["providers"] == "CPUExecutionProvider"
    assert {"processor", "onnxruntime", "instruction_set"} <= set(environment["comparable"])
    assert not {"load_before", "load_after"} & set(environment["comparable"])


def test_affinity_pins_the_process(work, exported) -> None:
    here = sorted(os.sched_getaffinity(0))
    answer, _ = work(exported("mlp"), session={"affinity": [here[-1]]})
    assert answer["environment"]["facts"]["affinity"] == str(here[-1])


def test_the_deadline_stops_the_rounds_and_is_told(work, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(product(512))
    for task in ("time", "layers"):
        answer, _ = work(tmp_path / "m.onnx", task=task, rounds=1_000_000, deadline_seconds=0.2)
        assert answer["stopped"] == "time"
        model = answer["models"][0]
        assert 1 <= len(model["values"] if task == "time" else model["runs"]) < 1_000_000


@pytest.mark.parametrize("task", ["time", "layers"])
def test_a_provider_that_does_not_exist_is_an_error(work, exported, task: str) -> None:
    answer, done = work(
        exported("mlp"), task=task, session={"providers": ["CUDAExecutionProvider"]}
    )
    assert answer is None
    assert done.returncode != 0
    assert "CUDAExecutionProvider" in done.stderr


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 100])
def test_a_file_that_is_no_model_is_an_error_without_an_answer(
    work, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    answer, done = work(tmp_path / "m.onnx")
    assert answer is None
    assert "onnxruntime" in done.stderr


def test_a_dynamic_shape_is_an_error_that_names_the_input(work, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(product(8, batch="batch"))
    answer, done = work(tmp_path / "m.onnx")
    assert answer is None
    assert (
        done.stderr.strip().splitlines()[-1].startswith("ValueError: input 'x' has no fixed shape")
    )


# --------------------------------------------------------------------------------------- the order


@pytest.fixture(scope="module")
def worker() -> dict[str, Any]:
    """The functions of the worker; it is no module that edgeprune imports."""
    import runpy

    return runpy.run_path(str(WORKER))


def test_pairs_alternate(worker) -> None:
    assert list(worker["schedule"](2, 4, True, 0)) == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_otherwise_every_round_visits_all_in_an_order_drawn_from_the_seed(worker) -> None:
    orders = list(worker["schedule"](6, 50, False, 3))
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 40
    assert orders == list(worker["schedule"](6, 50, False, 3))
    assert orders != list(worker["schedule"](6, 50, False, 4))
    firsts = [order[0] for order in worker["schedule"](3, 300, False, random.randrange(9))]
    assert min(firsts.count(i) for i in range(3)) > 60


def test_runs_happen_in_the_order_of_the_schedule(worker, monkeypatch) -> None:
    visited: list[str] = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, *_: object) -> None:
            visited.append(self.name)

    for name in ("open_session", "feeds_for", "warm_up"):
        monkeypatch.setitem(worker["timed"].__globals__, name, {
            "open_session": lambda model, options: (Session(model["name"]), 0.0),
            "feeds_for": lambda session, seed: {},
            "warm_up": lambda runners, seconds, at_least: [0] * len(runners),
        }[name])  # fmt: skip
    models = [{"name": name} for name in "ab"]
    request = {**REQUEST, "models": models, "paired": True, "rounds": 4, "inner": 2}
    result = worker["timed"](request, None)
    assert "".join(visited) == "aabb" + "bbaa" + "aabb" + "bbaa"
    assert [len(m["values"]) for m in result["models"]] == [8, 8]


def test_warm_up_makes_the_runs_asked_for_and_more_while_runs_get_faster(worker) -> None:
    calls: list[int] = []
    assert worker["warm_up"]([lambda: calls.append(1)], 0.0, 5) == [5]
    assert len(calls) == 5
    made = worker["warm_up"]([lambda: None, lambda: None], 1.0, 5)
    assert all(count >= 5 for count in made)


def test_profiled_and_unprofiled_runs_share_their_rounds(work, exported) -> None:
    answer, done = work(
        exported("residual"), task="layers", rounds=6, unprofiled=True, warmup_runs=3
    )
    assert done.returncode == 0, done.stderr
    (model,) = answer["models"]
    assert len(model["values"]) == len(model["runs"]) == 6
    for node in model["nodes"]:
        assert len(node["values"]) == len(node["starts"]) == 6
        assert min(node["starts"]) >= 0
    run = [(node["starts"][0], node["values"][0]) for node in model["nodes"]]
    assert sum(taken for _, taken in run) <= model["runs"][0]
    starts = [start for start, _ in run]
    assert max(starts) - min(starts) < model["runs"][0]


def test_memory_that_a_model_takes(work, tmp_path: Path) -> None:
    """Ten million weights and a hundred thousand: the difference is theirs."""
    from edgeprune.export.synthetic import write_product

    grown = []
    for size in (320, 3200):
        path = write_product(tmp_path / f"{size}.onnx", size)
        answer, done = work(path, task="memory", rounds=2)
        assert done.returncode == 0, done.stderr
        memory = answer["models"][0]["memory"]
        assert 0 < memory["before"] < memory["loading"]
        grown.append(memory["running"] - memory["before"])
    weights = 4 * (3200**2 - 320**2)
    assert grown[1] - grown[0] > weights


def test_a_model_larger_than_the_memory_is_refused_before_it_is_opened(
    worker, monkeypatch, exported
) -> None:
    monkeypatch.setitem(worker["open_session"].__globals__, "_kib", lambda path, key: 1)
    with pytest.raises(ValueError, match=r"its file takes \d+ KiB, but 1 KiB of memory are free"):
        worker["open_session"]({"file": str(exported("residual"))}, SESSION)


def test_facts_tell_what_disturbed(work, exported) -> None:
    answer, _ = work(exported("mlp"))
    facts = answer["environment"]["facts"]
    for name in ("others_busy", "stolen"):
        assert 0.0 <= float(facts[name]) < 1000
