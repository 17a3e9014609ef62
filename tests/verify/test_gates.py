"""Every gate decides, and the verdict follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeprune.job import Job
from edgeprune.records import (
    Comparison,
    Environment,
    Figures,
    Microcontroller,
    Parity,
    PlannedGroup,
    Verdict,
    WidthPlan,
)
from edgeprune.verify import accuracy
from edgeprune.verify.accuracy import Accuracy, drop_interval
from edgeprune.verify.gates import Evidence, judge, speed_gate

PLAN = WidthPlan(
    groups={"conv": PlannedGroup(before=4, after=2, kept=(0, 3), criterion="l2")},
    budget=500.0, unit="us", predicted=490.0, predicted_error=0.02, corrected=492.0, gap=0.0, loss=0.1,
)  # fmt: skip


def verdict(kind: str = "measured", **changes: Any) -> Verdict:
    settings = {
        "dense_accuracy": 0.93, "slim_accuracy": 0.925, "slim_cost": 490.0, "low": 1.98,
        "parity": True, "budget": {"latency": "50%"}, "measured_by": None, "chip": None,
    } | changes  # fmt: skip
    job = Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "m:b"},
            "data": {"factory": "d:l"},
            "budget": settings["budget"],
            "export": settings.get("export", {}),
        }
    )
    dense = Figures(
        cost=1000.0, parameters=100, macs=1000, accuracy=settings["dense_accuracy"],
        file_bytes=4096, peak_activation_bytes=8192,
    )  # fmt: skip
    slim = dense.model_copy(
        update={"cost": settings["slim_cost"], "accuracy": settings["slim_accuracy"]}
    )
    comparison = Comparison(
        median=1000.0 / settings["slim_cost"], low=settings["low"], high=2.1, confidence=0.95, pairs=500,
        processes=5, disturbed=2, first_cost=1000.0, second_cost=490.0, minimum_ratio=2.0, stopped="enough",
    )  # fmt: skip
    evidence = Evidence(
        dense=dense,
        slim=slim,
        comparison=comparison,
        parity=Parity(max_abs=1e-6, max_rel=1e-5, samples=8, passed=settings["parity"]),
        dense_accuracy=Accuracy(settings["dense_accuracy"], ((0.95, 10), (0.91, 10))),
        slim_accuracy=Accuracy(settings["slim_accuracy"], ((0.94, 10), (0.91, 10))),
        recalibrated_accuracy=0.8,
        environment=Environment(facts={}, comparable=()),
    )
    return judge(
        job,
        PLAN,
        evidence,
        device="d",
        kind=kind,
        unit="us",
        metric="top-1 accuracy",
        on_test=True,  # type: ignore[arg-type]
        measured_by=settings["measured_by"],
        chip=settings["chip"],
    )


def met(document: Verdict) -> dict[str, bool | None]:
    return {gate.name: gate.met for gate in document.gates}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_precision_of_the_costs_is_told(precision: str) -> None:
    found = verdict(export={"precision": precision})
    assert found.precision == precision
    older = found.model_dump(by_alias=True, exclude={"precision"})
    assert Verdict.model_validate(older).precision is None


def test_all_met() -> None:
    document = verdict()
    assert document.passed
    assert met(document) == {"parity": True, "accuracy": True, "budget": True, "speedup": True}
    assert document.speedup.disturbed == 2
    assert document.budget.limit == 500.0
    assert document.plan.widths == {"conv": (4, 2)}


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("parity", {"parity": False}),
        ("accuracy", {"slim_accuracy": 0.9199}),
        ("budget", {"slim_cost": 500.1}),
        ("speedup", {"low": 0.99}),
        ("ram", {"budget": {"latency": "50%", "ram_kb": 7.9}}),
        ("flash", {"budget": {"latency": "50%", "flash_kb": 3.9}}),
    ],
)
def test_one_gate_fails_alone(gate: str, changes: dict[str, Any]) -> None:
    document = verdict(**changes)
    assert not document.passed
    assert [name for name, value in met(document).items() if value is False] == [gate]


def test_limits_are_inclusive() -> None:
    assert verdict(slim_accuracy=0.92).passed
    assert verdict(slim_cost=500.0).passed
    assert verdict(budget={"latency": "50%", "ram_kb": 8.0, "flash_kb": 4.0}).passed


@pytest.mark.parametrize(("name", "own"), [("ram", 7), ("flash", 3)])
def test_the_memory_of_a_board_is_a_limit_like_the_job_s(name: str, own: int) -> None:
    roomy = Microcontroller(cpu="cortex-m4", machine="mps2-an386", ram_kb=64, flash_kb=64)
    found = {g.name: g for g in verdict(chip=roomy).gates}
    assert (found["ram"].limit, found["flash"].limit) == (64, 64)
    small = roomy.model_copy(update={f"{name}_kb": own})
    found = {g.name: g for g in verdict(budget={"latency": "50%", "ram_kb": 32}, chip=small).gates}
    assert found[name].met is False
    assert found[name].limit == own
    assert found["ram"].limit == min(32, small.ram_kb)


def test_an_estimate_never_proves_a_speedup() -> None:
    document = verdict(kind="estimated")
    assert met(document)["speedup"] is None
    assert document.passed
    assert "not measured" in next(g.note for g in document.gates if g.name == "speedup")


def test_times_that_mean_nothing_never_prove_a_speedup() -> None:
    comparison = Comparison(
        median=2.0, low=1.9, high=2.1, confidence=0.95, pairs=10, processes=1, first_cost=2.0,
        second_cost=1.0, minimum_ratio=2.0, stopped="enough",
    )  # fmt: skip
    gate = speed_gate(comparison, "measured", functional_only=True, command="prove it")
    assert (gate.met, gate.command) == (None, "prove it")
    assert "mean nothing" in gate.note
    gate = speed_gate(comparison, "measured", command="prove it")
    assert (gate.met, gate.command, gate.note) == (True, "", "")


def test_the_device_that_can_prove_it_is_named() -> None:
    gates = {g.name: g for g in verdict(kind="estimated", measured_by="board").gates}
    assert gates["speedup"].command == "edgeprune verify .run/dense.onnx model.onnx --device board"
    assert {g.command for name, g in gates.items() if name != "speedup"} == {""}


def test_absolute_budget() -> None:
    assert verdict(budget={"latency": "0.5ms"}).budget.limit == 500.0
    assert not verdict(budget={"latency": "480us"}).passed


def test_drop_interval_pairs_batches() -> None:
    dense = Accuracy(0.9, tuple((0.5 + 0.004 * k, 10) for k in range(100)))
    slim = Accuracy(0.88, tuple((0.48 + 0.004 * k, 10) for k in range(100)))
    low, high = drop_interval(dense, slim)
    assert (low, high) == pytest.approx((0.02, 0.02))
    noisy = Accuracy(
        0.88, tuple((0.48 + 0.008 * (k % 2) + 0.004 * k - 0.004, 10) for k in range(100))
    )
    low, high = drop_interval(dense, noisy)
    assert low < 0.02 < high
    with pytest.raises(ValueError, match="different batches"):
        drop_interval(dense, Accuracy(0.9, ((0.9, 1000),)))


def shared(right: np.ndarray, sizes: list[int]) -> Accuracy:
    parts = np.split(right, np.cumsum(sizes)[:-1])
    rows = tuple((float(part.mean()), len(part)) for part in parts)
    return Accuracy(float(right.mean()), rows, shares=right)


@pytest.mark.parametrize("sizes", [[1000], [500, 500], [40] * 25])
def test_drop_interval_is_over_samples_however_they_are_batched(sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    dense = (random.random(1000) < 0.9).astype(np.float64)
    slim = np.where(random.random(1000) < 0.1, 1 - dense, dense)  # 1 in 10 answers changes
    interval = drop_interval(shared(dense, sizes), shared(slim, sizes))
    assert interval is not None
    drop, deviation = (dense - slim).mean(), (dense - slim).std() / 1000**0.5
    # The normal approximation, of which 2000 resamples of 1000 samples come within some per cent.
    assert interval == pytest.approx((drop - 1.96 * deviation, drop + 1.96 * deviation), abs=2e-3)
    assert deviation > 5e-3


def test_drop_interval_is_not_known_from_few_batches_or_samples() -> None:
    def batched(value: float, count: int) -> Accuracy:
        return Accuracy(value, tuple((value + 0.01 * k, 100) for k in range(count)))

    for count in (1, 2, 9):
        assert drop_interval(batched(0.9, count), batched(0.8, count)) is None
    assert drop_interval(batched(0.9, 10), batched(0.8, 10)) == pytest.approx((0.1, 0.1))
    assert drop_interval(shared(np.ones(9), [9]), shared(np.zeros(9), [9])) is None
    assert verdict().accuracy_drop_interval is None


def test_drop_interval_draws_in_parts_what_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "DRAWN_AT_ONCE", 7000)
    dense, slim = np.ones(1000), (np.arange(1000) % 20 > 0).astype(np.float64)
    found = drop_interval(shared(dense, [1000]), shared(slim, [1000]))
    assert found == pytest.approx((0.0365, 0.0635), abs=2e-3)


@pytest.mark.parametrize(
    ("gate", "exact", "over", "budget"),
    [
        ("budget", {"slim_cost": 500.0 * (1 + 5e-10)}, {"slim_cost": 500.0 * (1 + 1e-8)}, {}),
        ("ram", {}, {}, {"ram_kb": 8.0 * (1 - 5e-10)}),
        ("flash", {}, {}, {"flash_kb": 4.0 * (1 - 5e-10)}),
        ("macs", {}, {}, {"macs": f"{1000 * (1 - 5e-10):.10f}"}),
        ("parameters", {}, {}, {"parameters": f"{100 * (1 - 5e-10):.10f}"}),
    ],
)
def test_what_reaches_a_limit_within_rounding_keeps_to_it(
    gate: str, exact: dict[str, float], over: dict[str, float], budget: dict[str, Any]
) -> None:
    asked = {"latency": "50%", **budget}
    for kind in ("measured", "emulated"):
        assert met(verdict(kind, budget=asked, **exact))[gate] is True
        if over:
            document = verdict(kind, budget=asked, **over)
            assert met(document)[gate] is False
            assert not document.budget.met
