from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.devices.local import LocalDevice
from edgeprune.devices.microcontroller.device import MicrocontrollerDevice
from edgeprune.devices.opening import device_for, obstacle_to
from edgeprune.devices.protocol import Answer, Request, file_of
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DataError, DeviceError, UnsupportedModelError, UsageError
from edgeprune.export.onnx_graph import describe
from edgeprune.export.quantization import quantize
from edgeprune.profiler.layers import profile_model
from edgeprune.verify import inference
from edgeprune.verify.inference import run_arrays

pytestmark = pytest.mark.microcontroller

UNICORN = ("cortex_m4", "cortex_m7", "cortex_m33")
qemu = pytest.mark.qemu


def device(name: str, **changes: object) -> MicrocontrollerDevice:
    spec = load_spec(name)
    chip = spec.microcontroller.model_copy(update=changes)
    return MicrocontrollerDevice(spec.model_copy(update={"microcontroller": chip}))


def ask(asked: MicrocontrollerDevice, *paths: Path, task: str = "time", **fields) -> Answer:
    models = tuple(file_of(path.stem, path) for path in paths)
    return asked.ask(Request(task=task, models=models, **fields))


def images(count: int, path: Path) -> dict[str, np.ndarray]:
    value = onnx.load(path).graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    drawn = np.random.default_rng(5).standard_normal([count, *shape[1:]]).astype(np.float32)
    return {value.name: drawn}


@pytest.fixture(scope="session")
def int8(exported, tmp_path_factory):
    """Name -> the int8 form of the model, quantised once."""
    folder = tmp_path_factory.mktemp("int8")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            source = exported(name)
            (batch,) = images(16, source).values()
            quantize(source, path, [batch[i : i + 1] for i in range(16)])
        return path

    return path_of


# ----------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("name", [*UNICORN, pytest.param("cortex_m55", marks=qemu)])
def test_float_firmware_computes_what_onnxruntime_computes(name, local, exported) -> None:
    path = exported("separable")
    columns = images(5, path)
    outputs = run_arrays(device(name), path, describe(path), columns)
    wanted = run_arrays(local, path, describe(path), columns)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*UNICORN, pytest.param("cortex_m55", marks=qemu)])
def test_int8_firmware_computes_what_onnxruntime_computes(name, local_spec, int8) -> None:
    # Its optimised kernels saturate on x86 without VNNI; unoptimised it computes what ONNX says.
    exact = LocalDevice(local_spec.model_copy(update={"graph_optimization": "disabled"}))
    path = int8("residual")
    columns = images(40, path)
    outputs = run_arrays(device(name), path, describe(path), columns)
    step = np.diff(np.unique(outputs)).min()  # one unit of the last place
    wanted = run_arrays(exact, path, describe(path), columns)
    assert np.abs(outputs - wanted).max() <= 1.01 * step


@pytest.mark.parametrize("name", ["cortex_m4", pytest.param("cortex_m55", marks=qemu)])
def test_outputs_that_take_longer_than_a_request_are_asked_for_again(
    name, exported, monkeypatch
) -> None:
    path = exported("plain")
    columns = images(5, path)
    whole = run_arrays(device(name), path, describe(path), columns)
    answers: list[Answer] = []

    class Watched(MicrocontrollerDevice):
        def ask(self, request: Request) -> Answer:
            answers.append(super().ask(request))
            return answers[-1]

    monkeypatch.setattr(inference, "DEADLINE", 0.0)  # every sample is the last one in time
    parts = run_arrays(Watched(device(name).spec), path, describe(path), columns)
    np.testing.assert_array_equal(parts, whole)
    assert (answers[0].stopped, answers[-1].stopped) == ("time", "fixed")
    assert sum(answer.models[0].made for answer in answers) == 5
    assert len(answers) > 1


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_layers_add_up_and_two_runs_are_identical(precision, exported, int8) -> None:
    path = (exported if precision == "float32" else int8)("plain")
    one, two = (ask(device("cortex_m4"), path, task="layers").models[0] for _ in range(2))
    assert one.model_copy(update={"load_seconds": 0.0}) == two.model_copy(
        update={"load_seconds": 0.0}
    )
    assert sum(node.values[0] for node in one.nodes) == one.runs[0]
    (timed,) = ask(device("cortex_m4"), path).models
    assert timed.values == one.runs
    assert timed.nodes == ()


@pytest.mark.parametrize("name", ["cortex_m4", pytest.param("cortex_m55", marks=qemu)])
def test_joined_models_count_what_they_count_alone(name, int8) -> None:
    paths = [int8("plain"), int8("residual"), int8("separable")]
    alone = ask(device(name), *paths, task="layers").models
    joined = ask(device(name), *paths, task="layers", joined=True).models
    assert [model.name for model in joined] == [model.name for model in alone]
    for one, two in zip(alone, joined, strict=True):
        layers = one.nodes[:-1]  # without the body of the inference function
        assert [node.name for node in two.nodes] == [node.name for node in layers]
        for first, second in zip(layers, two.nodes, strict=True):
            # Addresses differ, and how a constant is loaded with them.
            assert abs(first.values[0] - second.values[0]) <= 3, first.name


def test_a_joined_model_of_reshapes_alone_costs_nothing(int8, tmp_path) -> None:
    path = tmp_path / "flat.onnx"
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1, 1]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]),
    ]
    node = helper.make_node("Flatten", ["x"], ["y"])
    graph = helper.make_graph([node], "flat", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", path, [np.ones((1, 4, 1, 1), np.float32)])
    flat, plain = ask(device("cortex_m4"), path, int8("plain"), task="layers", joined=True).models
    assert [node.values for node in flat.nodes] == [(0.0,)]
    assert plain.nodes[0].values[0] > 1000


@qemu
@pytest.mark.parametrize("name", UNICORN)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_both_emulators_count_the_same(name, precision, exported, int8) -> None:
    path = (exported if precision == "float32" else int8)("plain")
    one = ask(device(name), path, task="layers").models[0]
    two = ask(device(name, emulator="qemu"), path, task="layers").models[0]
    assert one.footprint == two.footprint
    for first, second in zip(one.nodes, two.nodes, strict=True):
        # Addresses differ between the machines, and how a constant is loaded may with them.
        assert abs(first.values[0] - second.values[0]) <= 3, first.name


@qemu
def test_vector_instructions_pay(int8) -> None:
    scalar = ask(device("cortex_m33"), int8("plain")).models[0].values[0]
    vector = ask(device("cortex_m55"), int8("plain")).models[0].values[0]
    assert vector < 0.6 * scalar


def test_the_inputs_follow_the_seed_and_the_order_of_models_does_not_matter(exported, int8) -> None:
    paths = [exported("plain"), int8("plain"), exported("mlp")]
    forward = ask(device("cortex_m4"), *paths)
    backward = ask(device("cortex_m4"), *paths[::-1])
    figures = {(m.name, m.values, m.footprint) for m in forward.models}
    assert figures == {(m.name, m.values, m.footprint) for m in backward.models}
    assert [m.name for m in forward.models] == ["plain", "plain", "mlp"]


def test_a_smaller_model_costs_less_and_takes_less(exported, int8) -> None:
    large, small = ask(device("cortex_m4"), exported("plain"), int8("plain")).models
    assert small.values[0] < large.values[0]
    assert small.footprint.flash_bytes < large.footprint.flash_bytes
    assert small.footprint.ram_bytes < large.footprint.ram_bytes
    assert small.peak_bytes == small.footprint.ram_bytes


def test_int8_footprint_is_arena_scratch_state_and_stack(int8) -> None:
    footprint = ask(device("cortex_m4"), int8("plain")).models[0].footprint
    declared = footprint.arena_bytes + footprint.scratch_bytes
    assert declared < footprint.static_bytes <= declared + 64  # canaries and alignment
    assert 0 < footprint.scratch_used_bytes <= footprint.scratch_bytes
    assert footprint.ram_bytes == footprint.static_bytes + footprint.stack_bytes


def test_every_instruction_of_the_profile_has_a_layer(exported) -> None:
    profile = profile_model(device("cortex_m4"), exported("residual"), name="residual")
    assert (profile.kind, profile.unit) == ("emulated", "instructions")
    assert profile.total == profile.total_low == profile.total_high
    assert sum(layer.cost for layer in profile.layers) + profile.layout == profile.total
    assert profile.layout < 0.001 * profile.total
    assert all(layer.cost > layer.macs for layer in profile.layers if layer.macs)


def test_both_compilers_agree_on_outputs_and_say_who_they_are(int8, local) -> None:
    gcc = device("cortex_m4", compiler="gcc")
    if obstacle_to(gcc.spec):
        pytest.skip(f"{obstacle_to(gcc.spec).why}: {obstacle_to(gcc.spec).help}")
    path, zig = int8("plain"), device("cortex_m4", compiler="zig")
    columns = images(3, path)
    np.testing.assert_array_equal(
        *(run_arrays(one, path, describe(path), columns) for one in (gcc, zig))
    )
    one, two = (ask(d, path).environment for d in (gcc, zig))
    assert {line.partition(":")[0] for line in one.differences(two)} == {"compiler", "flags"}
    assert "arm-none-eabi-gcc" in one.facts["compiler"]
    assert "-fno-ipa-icf" in one.facts["flags"].split()
    assert "zig" in two.facts["compiler"]
    assert "-mcpu=cortex_m4+vfp4d16sp" in two.facts["flags"].split()


def test_optimisation_is_that_of_the_profile(exported) -> None:
    fast = ask(device("cortex_m4"), exported("plain")).models[0]
    small = ask(device("cortex_m4", optimization="Os"), exported("plain")).models[0]
    assert fast.values[0] < small.values[0]


# --------------------------------------------------------------------------------------- bad input


def single(
    operator: str, tmp_path: Path, shape: list[object], kind: int = TensorProto.FLOAT
) -> Path:
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])], "g", values[:1], values[1:]
    )
    path = tmp_path / f"{operator}.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def test_models_that_cannot_become_firmware(tmp_path: Path) -> None:
    m4 = device("cortex_m4")
    (tmp_path / "broken.onnx").write_bytes(b"garbage")
    for path, reason in (
        (tmp_path / "broken.onnx", "is not an ONNX model"),
        (single("Relu", tmp_path, ["batch", 3]), "has no fixed shape"),
        (single("Abs", tmp_path, [1, 3], TensorProto.INT32), "is not float32"),
        (single("Atan", tmp_path, [1, 3]), r"calls atanf, which zig"),
    ):
        with pytest.raises(UnsupportedModelError, match=reason):
            ask(m4, path)
    with pytest.raises(UsageError, match="cannot be read"):
        ask(m4, tmp_path / "nowhere.onnx")


def test_inputs_that_do_not_belong_to_the_model(exported, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", wrong=np.zeros((2, 3), np.float32))
    files = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npy")}
    with pytest.raises(DataError, match=r"in\.npz has no array input"):
        ask(device("cortex_m4"), exported("plain"), task="run", **files)
    assert not (tmp_path / "out.npy").exists()


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    from edgeprune.devices.microcontroller import toolchain

    assert obstacle_to(load_spec("cortex_m4")) is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert obstacle_to(load_spec("cortex_m4")) is None
    assert obstacle_to(load_spec("cortex_m55")) == (
        "qemu-system-arm is not installed",
        "apt-get install qemu-system-arm gcc",
    )
    monkeypatch.setattr(toolchain, "_zig", lambda: None)
    assert obstacle_to(load_spec("cortex_m4")).help == "pip install 'edgeprune[microcontroller]'"
    with pytest.raises(DeviceError, match="zig is not installed"):
        device_for(load_spec("cortex_m4")).ask(Request(task="time", models=()))


def test_a_core_needs_an_emulator_that_has_it() -> None:
    assert obstacle_to(device("cortex_m55", emulator="unicorn").spec) == (
        "unicorn has no cortex-m55",
        '[microcontroller] emulator = "qemu"',
    )
    bare = load_spec("cortex_m55").model_copy(update={"microcontroller": None})
    assert "[microcontroller]" in obstacle_to(bare).why


def test_the_alias_is_the_profile_that_it_names(tmp_path: Path) -> None:
    alias, core = load_spec("microcontroller"), load_spec("cortex_m4")
    assert alias == core.model_copy(update={"name": "microcontroller"})
    (tmp_path / "own.toml").write_text('alias = "cortex_m7"\ntitle = "my board"\n')
    own = load_spec(str(tmp_path / "own.toml"))
    assert (own.title, own.microcontroller.cpu) == ("my board", "cortex-m7")
