from __future__ import annotations

import pytest

from edgeprune.devices.protocol import Answer, ModelAnswer, NodeCosts
from edgeprune.devices.spec import load_spec
from edgeprune.errors import DeviceError
from edgeprune.profiler.calibration import COPIES, SIZE, calibrate, calibrate_counts, limit
from edgeprune.records import Bandwidth, Environment, Peaks


class Known:
    """A device whose nodes cost what they are told, and whose profiler adds 3 to each."""

    def __init__(self, local_spec, product: float = 1000.0) -> None:
        self.spec, self.product, self.request = local_spec, product, None

    def ask(self, request) -> Answer:
        self.request = request
        costs = {"short": (8, "Sin", 0.5), "long": (64, "Sin", 0.5)}
        costs |= {"product": (1, "MatMul", self.product), "convolutions": (4, "Conv", 5000.0)}
        costs |= {f"copy{size}": (count, "Neg", size / 1e4) for size, count in COPIES.items()}
        models = []
        for model in request.models:
            count, operator, cost = costs[model.name]
            nodes = [
                NodeCosts(name=f"n{i}", operator=operator, provider="p", values=(cost + 3.0,) * 9)
                for i in range(count)
            ]
            nodes.append(
                NodeCosts(name="r", operator="ReorderInput", provider="p", values=(0.1,) * 9)
            )
            seen = nodes[:-1] if operator == "Sin" else nodes
            models.append(
                ModelAnswer(
                    name=model.name, load_seconds=0.0, values=(20.0 + count * cost,) * 9,
                    nodes=tuple(seen),
                )
            )  # fmt: skip
        environment = Environment(facts={}, comparable=())
        return Answer(stopped="fixed", models=tuple(models), environment=environment)


def test_overhead_and_peaks_come_out_as_they_were_put_in(local_spec) -> None:
    device = Known(local_spec)
    found = calibrate(device)
    assert (found.overhead, found.empty, found.call) == pytest.approx((3.0, 0.5, 20.0))
    assert found.peaks.flops_per_second == pytest.approx(2 * SIZE**3 / 1000.0 * 1e6)
    for bandwidth, size in zip(found.peaks.bandwidths, COPIES, strict=True):
        assert bandwidth.working_set_bytes == 2 * size
        assert bandwidth.bytes_per_second == pytest.approx(2e4 * 1e6)
    assert device.request.unprofiled


class Counting:
    """A runtime whose instructions are counted: 5 a node, 7 of its profiler, 100 a call."""

    def __init__(self, spec) -> None:
        self.spec = spec

    def ask(self, request) -> Answer:
        models = []
        for model in request.models:
            count = int(model.name)
            node = NodeCosts(name="n", operator="Conv", provider="p", values=(12.0,))
            costs = {"nodes": (node,) * count} if request.task == "layers" else {}
            values = (100.0 + 5.0 * count,)
            models.append(ModelAnswer(name=model.name, load_seconds=0.0, values=values, **costs))
        environment = Environment(facts={}, comparable=())
        return Answer(stopped="fixed", models=tuple(models), environment=environment)


def test_what_an_exact_runtime_does_beside_computing() -> None:
    device = Counting(load_spec("arm64_emulated"))
    assert calibrate_counts(device) == pytest.approx((7.0, 100.0))
    firmware = Counting(load_spec("microcontroller"))
    assert calibrate_counts(firmware) == (0.0, 0.0)  # it counts functions, and nothing else


def test_a_probe_without_time_is_an_error(local_spec) -> None:
    with pytest.raises(DeviceError, match="probe product took no time"):
        calibrate(Known(local_spec, product=-3.0))


def test_the_roofline_worked_out_by_hand() -> None:
    peaks = Peaks(
        flops_per_second=100e9,
        bandwidths=(
            Bandwidth(working_set_bytes=1000, bytes_per_second=50e9),
            Bandwidth(working_set_bytes=10_000, bytes_per_second=10e9),
        ),
    )
    assert limit(peaks, 1_000_000, 1000) == pytest.approx((20.0, "compute"))
    assert limit(peaks, 0, 1000)[0] == pytest.approx(0.02)
    assert limit(peaks, 10, 5000) == pytest.approx((0.5, "memory"))
    assert limit(peaks, 10, 100_000) == pytest.approx((10.0, "memory"))  # beyond all probes
