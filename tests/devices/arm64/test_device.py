"""The device as it is used: the real onnxruntime for aarch64 under the real qemu."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from edgeprune.cost.table import build_table, predicted_cost
from edgeprune.devices.arm64 import device as module
from edgeprune.devices.arm64.convolutions import check_convolutions
from edgeprune.devices.arm64.device import Arm64Device
from edgeprune.devices.arm64.place import home, installed
from edgeprune.devices.protocol import Answer, Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError
from edgeprune.export.onnx_graph import describe, export
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.verify.inference import numeric_device, run_arrays
from tests.allocation.branched_models import Attentive
from tests.running import interruptible, wait_for_children, wait_until_ended

pytestmark = pytest.mark.arm64
MODELS = ("residual", "separable", "plain")


def layers(device: Arm64Device, exported) -> Answer:
    models = tuple(file_of(name, exported(name)) for name in MODELS)
    return device.ask(Request(task="layers", models=models))


@pytest.fixture(scope="module")
def answer(arm64, exported) -> Answer:
    return layers(arm64, exported)


def test_two_runs_differ_by_no_instruction_on_any_node(
    arm64, exported, answer, tmp_path: Path, monkeypatch
) -> None:
    """Neither do they when the paths are longer."""
    folder = tmp_path / ("a-long-name" * 5)
    folder.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(folder))
    again = layers(arm64, exported)
    for one, other in zip(answer.models, again.models, strict=True):
        assert [n.name for n in one.nodes] == [n.name for n in other.nodes]
        assert [n.values for n in one.nodes] == [n.values for n in other.nodes]
        assert one.runs == other.runs
    assert answer.environment.differences(again.environment) == []
    assert list(folder.iterdir()) == []


def test_each_node_of_each_model_has_its_count(answer) -> None:
    for model in answer.models:
        total = sum(node.values[0] for node in model.nodes)
        assert all(value == int(value) > 0 for node in model.nodes for value in node.values)
        assert 0 < model.runs[0] - total < 20_000 * len(model.nodes)  # between the nodes
    convolutions = [n.name for n in answer.models[0].nodes if n.operator in ("Conv", "FusedConv")]
    assert len(convolutions) == 6


def test_the_environment_names_what_decides_the_counts(answer) -> None:
    facts, comparable = answer.environment.facts, set(answer.environment.comparable)
    versions = installed().versions
    assert facts["architecture"] == "aarch64"
    assert (facts["processor"], facts["cpu"]) == ("cortex-a76", "cortex-a76")
    assert facts["qemu"] == versions["qemu"]
    assert facts["instruction_set"] == "asimd asimddp"
    assert {"onnxruntime", "qemu", "cpu", "counter", "architecture"} <= comparable <= set(facts)


def test_convolutions_execute_their_multiply_accumulates(arm64, exported, monkeypatch) -> None:
    """The check sees the true ratios, and a pairing that is off by one node is refused."""
    ratios: dict[str, list[float]] = {}

    def look(file, model, counted):
        ratios[model.name] = check_convolutions(file, model, counted)
        with pytest.raises(DeviceError, match="do not belong to the nodes"):
            check_convolutions(file, model, [*counted[1:], counted[0]])
        return ratios[model.name]

    monkeypatch.setattr(module, "check_convolutions", look)
    layers(arm64, exported)
    assert [len(ratios[name]) for name in MODELS] == [6, 3, 2]
    # 8 x 8 pixels fill the tiles, so that all but the padded depthwise one are near to 1.
    assert ratios["plain"] == pytest.approx([1.0, 1.0], abs=0.01)
    assert ratios["residual"] == pytest.approx([1.0] * 6, abs=0.01)


def test_outputs_agree_with_those_of_this_machine(arm64, local, exported) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    path = exported("residual")
    here, there = (
        run_arrays(device, path, describe(path), {"input": images}) for device in (local, arm64)
    )
    assert there.shape == (3, 10)
    assert np.abs(here - there).max() <= 1e-5 * max(1.0, np.abs(here).max())
    assert numeric_device(arm64).spec.transport == "local"


def test_comparisons_are_exact(arm64, exported) -> None:
    comparison, _ = compare(arm64, exported("residual"), exported("plain"))
    assert (comparison.stopped, comparison.pairs) == ("exact", 1)
    assert comparison.low == comparison.median == comparison.high > 1.0
    assert comparison.first_cost == int(comparison.first_cost) > 100_000


def test_plans_of_a_model_of_many_small_layers_are_predicted(arm64, tmp_path: Path) -> None:
    """What runs between layers is a quarter of such a model, and does not shrink with widths."""
    model, inputs, path = Attentive().eval(), (torch.randn(1, 16, 12),), tmp_path / "dense.onnx"
    export(model, inputs, path, opset=20)
    groups = find_groups(model, inputs).groups
    table = build_table(arm64, read_graph(path), groups, profile_model(arm64, path, name="dense"))
    assert table.beside * len(table.layers) > 0.1 * table.dense_cost
    for share in (0.75, 0.5, 0.25):
        widths = {name: offered[-1] for name, offered in table.widths.items()}
        widths["up"] = min(table.widths["up"], key=lambda w: abs(w - share * widths["up"]))
        slim = tmp_path / "slim.onnx"
        kept = {
            g.name: [k for b in g.bundles()[: widths[g.name] // g.divisor] for k in b]
            for g in groups
        }
        export(cut(model, inputs, kept), inputs, slim, opset=20)
        found = profile_model(arm64, slim, name="slim").total
        assert predicted_cost(table, widths) == pytest.approx(found, rel=0.01)


def test_the_other_processor_is_another_environment(answer, exported) -> None:
    device = Arm64Device(load_spec("arm64_emulated_a53"))
    asked = Request(task="time", models=(file_of("plain", exported("plain")),))
    differences = "; ".join(answer.environment.differences(device.ask(asked).environment))
    assert "cpu: cortex-a76 against cortex-a53" in differences
    assert "instruction_set: asimd asimddp against asimd" in differences


def test_a_model_that_the_runtime_refuses_is_named(arm64, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"garbage")
    with pytest.raises(
        UnsupportedModelError, match=r"refuses broken: Protobuf parsing failed"
    ) as caught:
        arm64.ask(Request(task="time", models=(file_of("broken", tmp_path / "broken.onnx"),)))
    assert caught.value.exit_code == 5
    assert "/proc/self" not in str(caught.value)


# --------------------------------------------------------------------------------------- endings


def emulators() -> set[int]:
    """Return the processes that run the installed qemu."""
    qemu = str(home() / installed().qemu)
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if qemu in (process.info["cmdline"] or [])
    }


def test_a_time_out_leaves_no_process(arm64, exported, monkeypatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(module, "MODEL_SECONDS", 0.0)
    before = emulators()
    with pytest.raises(DeadlineError, match="no answer within") as caught:
        arm64.ask(
            Request(task="time", models=(file_of("m", exported("plain")),), deadline_seconds=0.0)
        )
    assert caught.value.exit_code == 124
    assert not psutil.Process().children(recursive=True)
    assert emulators() <= before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_whoever_asked_dies_and_the_emulator_with_it(arm64, exported, how) -> None:
    request = Request(task="time", models=(file_of("m", exported("plain")),), rounds=100_000)
    script = (
        "import sys; from edgeprune.devices.opening import open_device\n"
        "from edgeprune.devices.protocol import Request\n"
        "open_device('arm64_emulated').ask(Request.model_validate_json(sys.argv[1]))\n"
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", script, request.model_dump_json()],
        stderr=subprocess.DEVNULL,
        preexec_fn=interruptible,
    )
    children = wait_for_children(asker.pid, "qemu-aarch64")
    time.sleep(1.0)  # the counter is in place: it ties the emulator to its parent
    os.kill(asker.pid, how)
    asker.wait(30)
    wait_until_ended(children)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_the_example_is_profiled_by_the_command_line(arm64) -> None:
    command = [
        *(sys.executable, "-m", "edgeprune", "profile"),
        *("examples/fashion_mnist/job.toml", "--device", "arm64_emulated", "--json"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert (profile["kind"], profile["unit"]) == ("emulated", "instructions")
    assert profile["coverage"] >= 0.95
    layers_sum = sum(layer["cost"] for layer in profile["layers"])
    assert layers_sum == pytest.approx(profile["total"], rel=0.05)
    assert all(row["cost"] == row["low"] == row["high"] for row in profile["layers"])
