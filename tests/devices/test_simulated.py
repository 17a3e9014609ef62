from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.devices.protocol import Request, file_of
from edgeprune.devices.simulated import segment_cost
from edgeprune.errors import DeviceError
from edgeprune.export.segments import Segment, read_graph
from edgeprune.records import Simulation


def convolution(width_in: int, width_out: int, pixels: int = 16) -> Segment:
    return Segment(
        name="c", operator="Conv", nodes=[], inputs=["x"], output="y",
        input_shape=(1, width_in, 4, 4), output_shape=(1, width_out, 4, 4), macs=9 * pixels * width_in * width_out,
    )  # fmt: skip


def ask(device, *paths, **fields):
    models = tuple(file_of(path.stem, path) for path in paths)
    return device.ask(Request(**{"task": "time", "models": models, **fields}))


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 12, 16]))
def test_cost_is_that_of_both_widths_rounded_up(width_in: int, width_out: int, step: int) -> None:
    simulation = Simulation(step=step, macs_per_us=100.0, overhead_us=3.0)
    up_in, up_out = (-(-w // step) * step for w in (width_in, width_out))
    wanted = 3.0 + 9 * 16 * up_in * up_out / 100.0
    assert segment_cost(convolution(width_in, width_out), simulation) == pytest.approx(wanted)


@given(st.integers(1, 70), st.sampled_from([8, 12, 16]))
def test_a_cliff_stands_beside_every_step(width: int, step: int) -> None:
    flat = segment_cost(convolution(8, width), Simulation(step=step))
    steep = segment_cost(convolution(8, width), Simulation(step=step, cliff=1.5))
    assert steep == pytest.approx(flat * (1.5 if width % step and width > step else 1.0))


def test_an_exact_device_repeats_itself(simulated, exported) -> None:
    device = simulated()
    answer = ask(device, exported("plain"), exported("mlp"), rounds=5, inner=2)
    again = ask(device, exported("plain"), exported("mlp"), rounds=5, inner=2, seed=3)
    assert answer.models == again.models
    for model, name in zip(answer.models, ("plain", "mlp"), strict=True):
        wanted = sum(
            segment_cost(s, device.spec.simulation) for s in read_graph(exported(name)).segments
        )
        assert model.values == pytest.approx([wanted] * 10)
        assert (model.name, model.nodes, model.runs) == (name, (), ())


def test_layers_add_up_to_the_run(simulated, exported) -> None:
    (model,) = ask(simulated(), exported("residual"), task="layers", rounds=2).models
    assert sum(node.values[0] for node in model.nodes) == pytest.approx(model.runs[0])
    assert len(model.nodes) == len(read_graph(exported("residual")).segments)


def test_noise_only_adds_is_seeded_and_differs_between_calls(simulated, exported) -> None:
    exact = ask(simulated(), exported("plain")).models[0].values[0]
    first, same, other = (simulated(noise=0.1, seed=s) for s in (1, 1, 2))
    one, two = (ask(first, exported("plain"), rounds=50).models[0].values for _ in range(2))
    assert min(one) >= exact
    assert 1.01 * exact < sum(one) / 50 < 1.2 * exact
    assert one != two
    assert ask(same, exported("plain"), rounds=50).models[0].values == one
    assert ask(other, exported("plain"), rounds=50).models[0].values != one


def test_it_computes_no_outputs(simulated, exported) -> None:
    with pytest.raises(DeviceError, match="is simulated"):
        ask(simulated(), exported("plain"), task="run")


def test_two_simulations_are_not_comparable(simulated, exported) -> None:
    one, two = (ask(simulated(step=s), exported("mlp")).environment for s in (8, 16))
    assert one.differences(two) == ["step: 8 against 16"]


def test_a_file_that_was_rewritten_is_read_again(simulated, exported, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(exported("plain").read_bytes())
    device = simulated()
    before = ask(device, path).models[0].values
    path.write_bytes(exported("mlp").read_bytes())
    assert ask(device, path).models[0].values != before


def test_speed_falls_and_recovers_for_all_models_alike(simulated, exported) -> None:
    device = simulated(regime=1.6, regime_runs=20.0)
    models = tuple(file_of(name, exported(name)) for name in ("plain", "mlp"))
    first, second = device.ask(Request(task="time", models=models, rounds=400)).models
    fast, slow = min(first.values), max(first.values)
    assert slow == pytest.approx(1.6 * fast)
    assert {round(v / fast, 6) for v in first.values} == {1.0, 1.6}
    ratios = {round(a / b, 9) for a, b in zip(first.values, second.values, strict=True)}
    assert len(ratios) == 1


def test_each_process_draws_a_factor_of_its_own(simulated, exported) -> None:
    device = simulated(process_noise=0.1)
    request = Request(task="time", models=(file_of("m", exported("mlp")),), rounds=3)
    answers = [device.ask(request).models[0].values for _ in range(5)]
    assert all(len(set(values)) == 1 for values in answers)
    assert len({values[0] for values in answers}) == 5


def test_the_devices_own_clock_advances_and_it_gets_slower(simulated, exported) -> None:
    device = simulated(drift=0.5)
    request = Request(task="time", models=(file_of("m", exported("mlp")),), rounds=3)
    first = device.ask(request).models[0].values[0]
    assert device.elapsed == pytest.approx(0.4 + 3 * first / 1e6)
    later = device.ask(request).models[0].values[0]
    assert later == pytest.approx(first * (1 + 0.5 * (0.4 + 3 * first / 1e6)))
