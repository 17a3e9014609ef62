from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from edgeprune.devices.protocol import Answer
from edgeprune.devices.simulated import segment_cost
from edgeprune.errors import DeviceError, UnstableError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.timing import (
    FEWEST,
    QUIET,
    compare,
    compare_in_quiet,
    cost_of_second,
    sample,
)
from edgeprune.records import Environment


def cost(device, path) -> float:
    return sum(segment_cost(s, device.spec.simulation) for s in read_graph(path).segments)


class Recording:
    """Passes requests on and remembers them; the environment may change on the way."""

    def __init__(self, device, changes: bool = False) -> None:
        self.device, self.spec, self.requests, self.changes = device, device.spec, [], changes

    def ask(self, request) -> Answer:
        self.requests.append(request)
        answer = self.device.ask(request)
        if not self.changes:
            return answer
        facts = {"processor": f"number {len(self.requests)}"}
        return answer.model_copy(
            update={"environment": Environment(facts=facts, comparable=("processor",))}
        )


def test_samples_of_an_exact_device(simulated, exported) -> None:
    device = Recording(simulated())
    samples, environment = sample(device, exported("plain"), processes=3, rounds=7, seed=5)
    assert samples.name == "plain.onnx"
    assert (samples.unit, samples.stopped) == ("us", "fixed")
    assert [len(process) for process in samples.processes] == [7, 7, 7]
    assert samples.values == pytest.approx([cost(device, exported("plain"))] * 21, rel=1e-12)
    assert environment.facts["device"] == "simulated"
    assert len({request.seed for request in device.requests}) == 3


def test_comparison_on_an_exact_device(simulated, exported) -> None:
    device = Recording(simulated())
    first, second = exported("residual"), exported("plain")
    result, _ = compare(device, first, second, seconds=0.0)
    ratio = cost(device, first) / cost(device, second)
    assert (result.median, result.low, result.high) == pytest.approx((ratio,) * 3, rel=1e-9)
    assert result.first_cost == pytest.approx(cost(device, first))
    assert result.second_cost == pytest.approx(cost(device, second))
    assert result.minimum_ratio == pytest.approx(ratio)
    assert result.pairs == sum(request.rounds * request.openings for request in device.requests)
    assert result.processes == len(device.requests) >= 4
    assert all(request.paired and len(request.models) == 2 for request in device.requests)
    assert len({request.seed for request in device.requests}) == len(device.requests)


def test_comparison_the_other_way_round_is_the_inverse(simulated, exported) -> None:
    there, _ = compare(simulated(), exported("residual"), exported("mlp"), seconds=5.0)
    back, _ = compare(simulated(), exported("mlp"), exported("residual"), seconds=5.0)
    assert there.median * back.median == pytest.approx(1.0)
    assert there.stopped == "enough"
    assert there.median > 1 > back.median


def test_noise_widens_the_interval_and_the_truth_stays_inside(simulated, exported) -> None:
    result, _ = compare(
        simulated(noise=0.05, seed=2), exported("plain"), exported("plain"),
        seconds=0.0, half_width=1e-9,
    )  # fmt: skip
    assert result.low < result.median < result.high
    assert result.low <= 1.0 <= result.high
    assert result.stopped == "time"


def test_the_same_seed_gives_the_same_comparison(simulated, exported) -> None:
    results = [
        compare(
            simulated(noise=0.05, seed=2), exported("plain"), exported("mlp"), seconds=0.0, seed=s
        )[0]
        for s in (1, 1, 2)
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_ratio_that_does_not_settle_is_an_error_with_exit_code_4(simulated, exported) -> None:
    with pytest.raises(UnstableError, match=r"device simulated: .*the ratio is") as caught:
        compare(
            simulated(noise=0.4),
            exported("plain"),
            exported("mlp"),
            seconds=0.0,
            settle=1e-4,
            half_width=1e-6,
        )
    assert caught.value.exit_code == 4
    assert "--resume" in caught.value.hint


def test_a_device_that_changes_is_an_error(simulated, exported) -> None:
    for measure in (
        lambda d: sample(d, exported("mlp"), processes=2),
        lambda d: compare(d, exported("mlp"), exported("plain"), seconds=0.0),
    ):
        with pytest.raises(
            DeviceError, match="changed while it was measured: processor: number 1 against number 2"
        ):
            measure(Recording(simulated(), changes=True))


def test_progress_is_told(simulated, exported) -> None:
    notes: list[str] = []
    compare(simulated(), exported("mlp"), exported("plain"), seconds=0.0, note=notes.append)
    assert notes
    assert all("pairs" in note for note in notes)


def test_this_machine_finds_the_far_larger_model_slower(local, exported, build) -> None:
    result, environment = compare(
        local, exported("residual"), exported("mlp"), seconds=0.0, half_width=9.0, settle=9.0
    )
    assert result.median > 2
    assert 0 < result.low <= result.median <= result.high
    assert result.first_cost > result.second_cost > 0
    assert environment.facts["threads"] == "1"


NOISY = {"noise": 0.03, "process_noise": 0.01, "regime": 1.6, "regime_runs": 300.0}


def test_a_device_that_changes_its_speed_does_not_change_the_ratio(simulated, exported) -> None:
    """Absolute costs move by 60 %, the paired ratio stays where it belongs."""
    first, second = exported("residual"), exported("plain")
    truth, holds = cost(simulated(), first) / cost(simulated(), second), 0
    for seed in range(20):
        device = simulated(**NOISY, seed=seed)
        result, _ = compare(
            device, first, second,
            seconds=5.0, half_width=0.02, seed=seed, clock=lambda device=device: device.elapsed,
        )  # fmt: skip
        holds += result.low <= truth <= result.high
        assert result.median == pytest.approx(truth, rel=0.04)
    assert holds >= 17


def test_sampling_goes_on_until_the_interval_is_narrow_enough_or_time_is_up(
    simulated, exported
) -> None:
    found = {}
    for half_width in (0.03, 0.01, 1e-6):
        device = simulated(**NOISY, seed=1)
        found[half_width], _ = compare(
            device, exported("plain"), exported("plain"),
            half_width=half_width, seconds=15.0, clock=lambda device=device: device.elapsed,
        )  # fmt: skip
        assert device.elapsed < 17.0
    assert [result.stopped for result in found.values()] == ["enough", "enough", "time"]
    assert found[0.03].processes < found[0.01].processes < found[1e-6].processes


class Neighboured:
    """A neighbour slows the first model by 16 % and the others by 43 %, in processes `when` it does."""

    def __init__(self, device, when) -> None:
        self.device, self.spec, self.when, self.asked = device, device.spec, when, []

    def ask(self, request) -> Answer:
        self.asked.append({model.name: model.file for model in request.models}["second"])
        answer = self.device.ask(request)
        if not self.when(len(self.asked)):
            return answer
        factor = {"first": 1.16, "second": 1.43}
        slower = [
            m.model_copy(update={"values": tuple(factor[m.name] * v for v in m.values)})
            for m in answer.models
        ]
        return answer.model_copy(update={"models": tuple(slower)})


@pytest.mark.parametrize("loud", [range(0), range(1, 7), range(5, 16), range(1, 40, 2)])
def test_in_quiet_moments_the_ratio_is_that_of_a_quiet_machine(simulated, exported, loud) -> None:
    """Pairs do not cancel what slows one model more: seconds of it are waited for."""
    first, others = exported("residual"), [exported("plain"), exported("mlp")]
    device = simulated(noise=0.01, process_noise=0.001, seed=1)
    machine, told = Neighboured(device, lambda asked: asked in loud), []
    found = compare_in_quiet(
        machine, first, others, half_width=0.01, seconds=60.0, report=told.append,
        clock=lambda: device.elapsed,
    )  # fmt: skip
    for other, ratio in zip(others, found, strict=True):
        truth = cost(device, first) / cost(device, other)
        assert ratio.ratio == pytest.approx(truth, rel=0.01)
        assert ratio.low <= ratio.ratio <= ratio.high
        assert ratio.relative_half_width <= 0.01
        assert ratio.first_cost == pytest.approx(cost(device, first), rel=0.03)
        assert ratio.second_cost == pytest.approx(cost(device, other), rel=0.03)
    assert told[-1] == 2
    assert machine.asked[0] != machine.asked[1], "they take turns"
    quiet = [number for number in range(1, len(machine.asked) + 1) if number not in loud]
    assert len(quiet) >= 2 * QUIET


@pytest.mark.parametrize("seconds", [3.0, 20.0])
def test_a_neighbour_that_is_mostly_there_neither_counts_nor_ends_the_comparison(
    simulated, exported, seconds
) -> None:
    """Three processes of four are loud; four quiet ones are waited for, and they alone count."""
    first, other = exported("residual"), exported("plain")
    device = simulated(noise=0.01, process_noise=0.001, seed=1)
    machine = Neighboured(device, lambda asked: asked % 4 > 0)
    (found,) = compare_in_quiet(
        machine, first, [other], half_width=0.01, seconds=seconds, settle=0.02,
        clock=lambda: device.elapsed,
    )  # fmt: skip
    assert found.ratio == pytest.approx(cost(device, first) / cost(device, other), rel=0.005)
    assert found.relative_half_width <= 0.02
    assert len(machine.asked) < 40


@pytest.mark.parametrize("loud", [range(0), range(1, 7), range(5, 30), range(1, 80, 2)])
def test_a_verdict_leaves_out_processes_in_which_the_first_model_is_slowed(
    simulated, exported, loud
) -> None:
    first, second = exported("residual"), exported("plain")
    device = simulated(noise=0.01, process_noise=0.003, seed=1)
    machine = Neighboured(device, lambda asked: asked in loud)
    found, _ = compare(machine, first, second, seconds=60.0, clock=lambda: device.elapsed)
    truth = cost(device, first) / cost(device, second)
    assert found.median == pytest.approx(truth, rel=0.005)
    assert found.stopped == "enough"
    assert found.disturbed == sum(number in loud for number in range(1, len(machine.asked) + 1))
    assert found.processes + found.disturbed == len(machine.asked)
    assert found.processes >= FEWEST
    assert found.first_cost == pytest.approx(cost(device, first), rel=0.02)


def test_where_few_processes_are_quiet_a_verdict_counts_all(simulated, exported) -> None:
    device = simulated(noise=0.01, seed=1)
    machine = Neighboured(device, lambda asked: asked % 4 > 0)
    found, _ = compare(
        machine, exported("residual"), exported("plain"),
        seconds=6.0, settle=math.inf, clock=lambda: device.elapsed,
    )  # fmt: skip
    assert found.stopped == "time"
    assert found.disturbed == 0
    assert found.processes == len(machine.asked) > FEWEST


def test_where_it_is_never_quiet_time_ends_the_comparison(simulated, exported) -> None:
    device = simulated(noise=0.01, seed=2)
    machine = Neighboured(device, lambda asked: asked % 5 > 1)
    others = [exported("plain"), exported("mlp")]
    compare_in_quiet(
        machine, exported("residual"), others,
        half_width=1e-9, seconds=5.0, clock=lambda: device.elapsed,
    )  # fmt: skip
    assert 10.0 <= device.elapsed < 12.0
    device = simulated(noise=0.01, seed=2)
    compare_in_quiet(
        device, exported("residual"), others,
        half_width=1e-9, seconds=0.0, clock=lambda: device.elapsed,
    )  # fmt: skip
    assert device.calls == 2 * QUIET, "so many there are at least"
    with pytest.raises(UnstableError, match="the ratio is only known to lie between"):
        compare_in_quiet(
            simulated(process_noise=0.2), exported("residual"), others,
            half_width=1e-9, seconds=0.0, settle=0.01,
        )  # fmt: skip


def test_on_an_exact_device_one_run_is_enough(simulated, exported) -> None:
    device = simulated()
    exact = Recording(device)
    exact.spec = SimpleNamespace(exact=True)  # as an emulator's
    first, others = exported("residual"), [exported("plain"), exported("mlp")]
    found = compare_in_quiet(exact, first, others, half_width=0.01, seconds=9.0)
    assert len(exact.requests) == 2
    for one, other in zip(found, others, strict=True):
        truth = cost(device, first) / cost(device, other)
        assert (one.ratio, one.low, one.high) == pytest.approx((truth,) * 3)


class Counting:
    """An emulator that counts what it is told; only their number tells models apart."""

    spec = SimpleNamespace(exact=True, name="counting", figure="emulated", runtime="onnxruntime")

    def __init__(self, *counts: float) -> None:
        self.counts = counts

    def ask(self, request) -> SimpleNamespace:
        models = [SimpleNamespace(values=(count,)) for count in self.counts]
        return SimpleNamespace(models=models, environment=Environment(facts={}, comparable=()))


def test_an_exact_count_stays_the_whole_number_that_was_counted(exported) -> None:
    device, first, second = Counting(2489148.0, 1730232.0), exported("residual"), exported("plain")
    found, _ = compare(device, first, second)
    assert 2489148.0 / found.median != 1730232.0  # what a ratio gives back
    assert cost_of_second(found, found.first_cost) == (1730232.0,) * 3
    (quiet,) = compare_in_quiet(device, first, [second], half_width=0.01, seconds=9.0)
    assert cost_of_second(quiet, 2489148.0) == (1730232.0,) * 3
    assert cost_of_second(quiet, 4978296.0) == pytest.approx((3460464.0,) * 3)  # another base


@pytest.mark.slow
def test_a_model_against_itself_differs_in_at_most_five_of_a_hundred_comparisons(
    simulated, exported
) -> None:
    wrong = 0
    for seed in range(500):
        device = simulated(**NOISY, seed=seed)
        result, _ = compare(
            device, exported("plain"), exported("plain"),
            seconds=10.0, seed=seed, clock=lambda device=device: device.elapsed,
        )  # fmt: skip
        wrong += not result.low <= 1.0 <= result.high
    assert wrong <= 25
