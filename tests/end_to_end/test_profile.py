"""`edgeprune profile` from the outside: outputs, bad input, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.export.synthetic import write_chain, write_convolutions
from edgeprune.records import ModelProfile
from tests.running import wait_for_children, wait_until_ended
from tests.trace_format import check_trace


def a_model(path: Path, operator: str, opset: int = 20, domain: str = "", dims=(1, 4)) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def profile_file(path: Path, **simulation: float) -> Path:
    fields = "\n".join(f"{name} = {value}" for name, value in simulation.items())
    path.write_text(
        'title = "test"\nkind = "cpu"\nruntime = "simulated"\ntransport = "simulated"\n'
        f'unit = "us"\nfigure = "estimated"\n[simulation]\n{fields}\n'
    )
    return path


def test_json_trace_and_page_of_a_measured_model(
    profile, convolutions: Path, tmp_path: Path
) -> None:
    trace, page = tmp_path / "trace.json", tmp_path / "page.html"
    code, out, err = profile(
        convolutions,
        "--device",
        "mobile_cpu",
        "--json",
        "--seconds",
        1,
        "--trace",
        trace,
        "--html",
        page,
    )
    assert code in (0, 4), err  # a machine that is busy may not settle
    found = ModelProfile.model_validate_json(out)
    assert (code == 4) is (found.stopped == "unstable")
    document = json.loads(out)
    for name in ("schema", "device", "kind", "unit", "total", "coverage", "environment", "layers"):
        assert name in document
    assert found.kind == "measured"
    assert [layer.operator for layer in found.layers] == ["Conv"] * 3
    assert found.peaks is not None
    assert {"processor", "onnxruntime", "governor"} <= set(found.environment.comparable)
    drawn_run = json.loads(trace.read_text())
    check_trace(drawn_run)
    events = drawn_run["traceEvents"]
    end = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
    assert 0.3 * found.total < end < 10 * found.total  # microseconds, as the total
    drawn = {event["name"] for event in events if event.get("cat") == "layer"}
    assert drawn == {layer.name for layer in found.layers}
    assert page.read_text().startswith("<!doctype html>")
    assert "GFLOP/s" in err
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_two_profiles_of_one_environment_are_compared(
    profile, convolutions: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.json"
    code, out, _ = profile(convolutions, "--device", "simulated", "--json")
    assert code == 0
    old.write_text(out)
    longer = write_convolutions(tmp_path / "longer.onnx", 4, channels=8, size=8)
    code, out, err = profile(longer, "--device", "simulated", "--json", "--against", old)
    assert code == 0, err
    against = json.loads(out)["against"]
    assert against["ratio"] == pytest.approx(4 / 3, rel=0.03)
    assert against["changed"]
    assert [row["before"] is None for row in against["layers"]].count(True) == 1
    assert "model.onnx" in err


def test_profiles_of_different_environments_are_refused_with_all_differences(
    profile, convolutions: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old.json"
    old.write_text(profile(convolutions, "--device", "simulated", "--json")[1])
    other = profile_file(tmp_path / "other.toml", step=16, cliff=1.5)
    code, out, err = profile(convolutions, "--device", other, "--json", "--against", old)
    assert code == 2
    assert json.loads(out)["device"] == "other"
    for line in ("device: simulated against other", "step: 8 against 16", "cliff: 1.3 against 1.5"):
        assert line in err


def test_something_else_than_a_profile_cannot_be_compared_with(
    profile, convolutions, tmp_path
) -> None:
    (tmp_path / "old.json").write_text('{"schema": 1}')
    code, _, err = profile(
        convolutions, "--device", "simulated", "--against", tmp_path / "old.json"
    )
    assert (code, "is not a profile" in err) == (2, True)
    assert (
        profile(convolutions, "--device", "simulated", "--against", tmp_path / "none.json")[0] == 2
    )


@pytest.mark.parametrize("device", ["simulated", "mobile_cpu"])
def test_dynamic_shapes_need_a_shape(profile, tmp_path: Path, device: str) -> None:
    path = a_model(tmp_path / "m.onnx", "Sin", dims=("batch", 4))
    code, _, err = profile(path, "--device", device)
    assert (code, "input 'x' has no fixed shape" in err, "--shape" in err) == (5, True, True)
    code, out, err = profile(path, "--device", device, "--shape", "6,4", "--seconds", 1, "--json")
    assert code in (0, 4), err
    assert json.loads(out)["layers"][0]["input_shape"] == [6, 4]


@pytest.mark.parametrize("shape", ["6", "x,4", "0,4", "z=6,4"])
def test_a_shape_that_does_not_fit_is_a_usage_error(profile, tmp_path: Path, shape: str) -> None:
    path = a_model(tmp_path / "m.onnx", "Sin", dims=("batch", 4))
    assert profile(path, "--device", "simulated", "--shape", shape)[0] == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"operator": "Sin", "opset": 99}, "opset"),
        ({"operator": "Wavelet", "domain": "com.example"}, "Wavelet"),
        ({"operator": "NoSuchOperator"}, "NoSuchOperator"),
    ],
)
def test_what_the_runtime_does_not_know_is_named(
    profile, tmp_path: Path, fields, words: str
) -> None:
    code, _, err = profile(a_model(tmp_path / "m.onnx", **fields), "--device", "mobile_cpu")
    assert code == 5, err
    assert words.lower() in err.lower()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\x08\x07" * 40, b"PK\x03\x04" + b"\0" * 60],
    ids=["empty", "text", "fields", "archive"],
)
def test_a_file_that_is_no_model(profile, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    code, _, err = profile(tmp_path / "m.onnx", "--device", "mobile_cpu")
    assert (code, "is not an ONNX model" in err) == (5, True)


@pytest.mark.parametrize("device", ["simulated", "mobile_cpu"])
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("absent", 2, "absent.onnx cannot be read: No such file or directory"),
        ("constant", 5, "constant.onnx has no layers: it gives nothing but constants"),
        ("undefined", 5, "'z'"),
        ("misshapen", 5, "ncompatible dimensions"),
        ("unranked", 5, "unranked.onnx: input 'x' has no fixed shape"),
    ],
)
def test_files_that_no_device_takes_and_devices_that_run_nothing(
    profile, tmp_path: Path, device: str, name: str, code: int, said: str
) -> None:
    """A device that computes its figures has no runtime that would refuse the model."""
    size = 5 if name == "misshapen" else 4
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    ones = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0] * 16)
    row = helper.make_tensor("r", TensorProto.FLOAT, [1, 4], [1.0] * 4)
    nodes = {
        "constant": helper.make_node("Constant", [], ["y"], value=row),
        "undefined": helper.make_node("Sin", ["z"], ["y"]),
    }
    if name == "unranked":
        x.type.tensor_type.ClearField("shape")
    node = nodes.get(name, helper.make_node("MatMul", ["x", "w"], ["y"]))
    graph = helper.make_graph([node], "g", [x][: name != "constant"], [y], [ones])
    path = tmp_path / f"{name}.onnx"
    if name != "absent":
        opsets = [helper.make_opsetid("", 20)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    found, out, err = profile(path, "--device", device, "--json")
    assert (found, out) == (code, ""), err
    assert said in err
    assert str(tmp_path / "edgeprune") not in err
    assert "/model.onnx" not in err  # the file is called as it was given


def test_a_truncated_model(profile, convolutions: Path) -> None:
    convolutions.write_bytes(convolutions.read_bytes()[: convolutions.stat().st_size // 2])
    assert profile(convolutions, "--device", "mobile_cpu")[0] == 5


def test_what_does_not_settle_ends_with_4_and_shows_what_is_known(
    profile, convolutions, tmp_path
) -> None:
    device = profile_file(tmp_path / "noisy.toml", noise=0.02, process_noise=0.45)
    code, out, err = profile(convolutions, "--device", device, "--seconds", 0, "--json")
    assert code == 4
    assert json.loads(out)["stopped"] == "unstable"
    assert "--seconds 60" in err
    assert "slowest process" in err


def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    chain = write_chain(tmp_path / "chain.onnx", "Sin", 200, (1, 4096))
    program = (
        "from pathlib import Path\n"
        "from edgeprune.devices.opening import open_device\n"
        "from edgeprune.devices.protocol import Request, file_of\n"
        f"models = (file_of('chain', Path({str(chain)!r})),)\n"
        "request = Request(task='time', models=models, rounds=10**9, deadline_seconds=120)\n"
        "open_device('mobile_cpu').ask(request)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        try:
            workers = wait_for_children(parent.pid, "worker.py")
            time.sleep(1.0)  # until it has asked Linux to be ended
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_until_ended(workers)


def test_what_a_profile_says_of_its_device_stands_beside_the_costs(
    profile, convolutions: Path, tmp_path: Path
) -> None:
    device, page = profile_file(tmp_path / "noted.toml", noise=0.0), tmp_path / "page.html"
    note = "times of this device mean nothing"
    device.write_text(f'note = "{note}"\n' + device.read_text())
    code, out, err = profile(convolutions, "--device", device, "--json", "--html", page)
    assert code == 0, err
    assert ModelProfile.model_validate_json(out).warnings[0] == note
    assert f"warning: {note}" in page.read_text()
    assert note in err
