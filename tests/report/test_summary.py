import html

import pytest

from edgeprune.records import (
    Gate,
    OtherAttempt,
    ScheduleHistory,
    ScheduleStep,
    SkippedGroup,
    Speedup,
)
from edgeprune.report import summary
from edgeprune.report.card import card
from edgeprune.report.console import Console
from edgeprune.report.html import render
from tests import factories


def a_ratio(median, low, high, pairs=900):
    return Speedup(median=median, low=low, high=high, confidence=0.95, pairs=pairs)


def test_answer_of_a_measured_verdict():
    assert summary.answer(factories.a_verdict()) == (
        "On mobile_cpu, fashion_resnet runs 2.03 times as fast as the dense model "
        "(95 % interval 2.019 to 2.036); test top-1 accuracy goes from 0.9312 to 0.9281 "
        "(95 % interval of the change -0.0058 to -0.0004, 10,000 samples)."
    )


def test_answer_claims_nothing_when_the_interval_holds_one():
    text = summary.answer(factories.a_verdict(speedup=a_ratio(1.01, 0.97, 1.05)))
    assert "no speed-up of fashion_resnet is proven" in text
    assert "as fast" not in text


def test_answer_of_a_slower_model():
    text = summary.answer(factories.a_verdict(speedup=a_ratio(0.9, 0.88, 0.93)))
    assert "is no cheaper than the dense model" in text


def test_answer_of_an_emulated_verdict_speaks_of_instructions():
    verdict = factories.a_verdict(
        kind="emulated", unit="instructions", speedup=a_ratio(2.0, 2.0, 2.0, pairs=1)
    )
    text = summary.answer(verdict)
    assert "needs 50 % of the dense model's instructions (exact)" in text
    assert "fast" not in text


def test_answer_of_an_estimate_says_so():
    text = summary.answer(factories.an_estimate())
    assert text.startswith("By a formula and not by measurement")
    assert "speed" not in text


def test_unmet_gates_are_named():
    assert summary.outcome(factories.a_failure()) == (
        "Not passed: accuracy and budget not met; not measured: ram."
    )


def test_passed_with_a_gate_that_nobody_measured():
    assert summary.outcome(factories.an_estimate()) == (
        "Passed: every gate that was measured is met; not measured: estimated ratio."
    )


def test_unmeasured_gate_shows_no_value():
    ram = summary.gates(factories.a_failure())[-1]
    assert (ram.state, ram.value, ram.limit) == ("not measured", "-", "at most 256.0 KiB")


def test_cost_changes_by_the_reciprocal_of_the_ratio():
    cost, accuracy, *sizes = summary.compared(factories.a_verdict())
    assert cost.change == f"{1 / 2.027:.3f}\N{MULTIPLICATION SIGN}"
    assert cost.doubt == "95 % interval of the change 0.491 to 0.495, 900 pairs"
    assert accuracy.change == "-0.0031"
    assert [row.doubt for row in sizes] == ["exact"] * 4


@pytest.mark.parametrize(
    ("count", "told"), [(1, "1 disturbed process"), (5, "5 disturbed processes")]
)
def test_processes_that_do_not_count_are_told(count, told):
    verdict = factories.a_verdict()
    speedup = verdict.speedup.model_copy(update={"disturbed": count})
    verdict = verdict.model_copy(update={"speedup": speedup})
    assert summary.pairs(verdict) == f"900 pairs, without {told}"
    assert told in render(factories.a_document(verdict=verdict))


def test_interval_of_a_change_that_is_none_has_no_negative_zero():
    verdict = factories.a_verdict(accuracy_drop_interval=(0.0, 0.002))
    assert "-0.0020 to +0.0000" in summary.accuracy_doubt(verdict)


def test_an_interval_that_is_not_known_is_no_interval_of_width_nought():
    verdict = factories.a_verdict(accuracy_drop_interval=None)
    told = summary.accuracy_doubt(verdict)
    assert told.startswith("interval of the change not known from so few batches, ")
    assert told.endswith(f"{verdict.accuracy_samples:,} samples")
    assert summary.compared(verdict)[1].doubt == told
    assert told in summary.answer(verdict)
    assert told in card(factories.a_document(verdict=verdict))
    assert told in render(factories.a_document(verdict=verdict))
    assert '"accuracy_drop_interval":null' in verdict.model_dump_json()


def test_layers_are_parts_of_the_profiled_run():
    profile = factories.a_profile()
    assert sum(layer.cost for layer in profile.layers) == pytest.approx(
        profile.coverage * summary.profiled_run(profile)
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")],
)
def test_listed(names, text):
    assert summary.listed(names) == text


def test_an_estimate_and_times_that_mean_nothing_claim_no_speed_up():
    gates = tuple(
        gate.model_copy(update={"met": None, "note": "not measured", "command": "edgeprune verify"})
        if gate.name == "speedup"
        else gate
        for gate in factories.a_verdict().gates
    )
    measured = factories.a_verdict()
    assert summary.ratio_name(measured) == "speed-up"
    assert summary.commands(measured) == ()
    meaningless = measured.model_copy(update={"gates": gates})
    estimated = meaningless.model_copy(update={"kind": "estimated"})
    assert summary.ratio_name(meaningless) == "ratio without meaning"
    assert summary.ratio_name(estimated) == "estimated ratio"
    for verdict in (meaningless, estimated):
        sentences = summary.answer(verdict) + summary.outcome(verdict)
        assert "speed-up" not in sentences
        assert "times as fast" not in sentences
        assert summary.commands(verdict) == ("edgeprune verify",)
    assert "whose times mean nothing" in summary.answer(meaningless)


def test_steps_of_a_schedule_are_told_with_cost_and_limit():
    step = ScheduleStep(
        number=1, limit=700.0, cost=690.0, recalibrated=0.81, metric=0.92, training_steps=200,
        widths={"conv": 16},
    )  # fmt: skip
    schedule = ScheduleHistory(kind="progressive", planned=2, steps=(step, step), stopped="")
    (first, _) = summary.steps(factories.a_verdict(schedule=schedule))
    assert first == ("1 of 2", "690 µs", "700 µs", "0.8100", "0.9200 after 200 steps")
    assert summary.steps(factories.a_verdict()) == ()
    once = schedule.model_copy(update={"planned": 1})
    assert summary.steps(factories.a_verdict(schedule=once)) == ()


def test_gates_with_a_lower_limit_say_so():
    gate = Gate(
        name="class_floor", met=False, limit=0.8, value=0.71, note="under it: class 6: 0.71"
    )
    row = summary.gates(factories.a_verdict(gates=(gate,)))[0]
    assert (row.name, row.value, row.limit) == ("class floor", "0.7100", "at least 0.8000")
    gate = Gate(name="schedule", met=False, limit=3, value=1)
    assert summary.gates(factories.a_verdict(gates=(gate,)))[0].limit == "at least 3 steps"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1, "that of a second attempt: the first one's cost 101.9 % of the budget in its verdict"),
        (2, "that of the first attempt: it missed the budget, and a second attempt, for a tighter"),
    ],
)
def test_of_two_attempts_the_other_one_is_told(number, told, capsys):
    verdict = factories.a_verdict(other_attempt=OtherAttempt(number=number, share=1.0193))
    text = summary.attempts(verdict)
    assert told in text
    assert "101.9 %" in text
    document = factories.a_document(verdict=verdict)
    shown = [card(document), render(document)]
    Console().verdict(verdict)
    shown.append(capsys.readouterr().err)
    for one in shown:
        assert text in html.unescape(one).replace("\N{NO-BREAK SPACE}", " ")
    assert "attempt" not in card(factories.a_document())
    assert summary.attempts(factories.a_verdict()) == ""


def test_widths_that_changed_are_told():
    verdict = factories.a_verdict()
    many = {"stem": (16, 16)} | {f"conv{n}": (32, 24) for n in range(14)}
    plan = verdict.plan.model_copy(update={"widths": many})
    text = summary.widths(verdict.model_copy(update={"plan": plan}))
    assert text.startswith("conv0 32 -> 24, conv1 32 -> 24, ")
    assert text.endswith("conv11 32 -> 24 and 2 more, all in the report")
    plan = verdict.plan.model_copy(update={"widths": {"stem": (16, 16)}})
    assert summary.widths(verdict.model_copy(update={"plan": plan})) == ""


def test_fine_tuning_compares_like_with_like():
    verdict = factories.a_verdict(recalibrated_accuracy=0.9012)
    assert summary.fine_tuning(verdict, [(0, 0.5, 0.91), (20, 0.4, 0.94), (40, 0.3, 0.93)]) == (
        "Top-1 accuracy on validation data: 0.9012 before fine-tuning, 0.9400 in its best state, "
        "which was kept; the exported file on 10,000 samples of the test data: 0.9281."
    )


@pytest.mark.parametrize("reached", [0.92, 0.93])
def test_the_state_before_fine_tuning_is_named_where_none_was_better(reached):
    verdict = factories.a_verdict(recalibrated_accuracy=0.93, metric="mAP@50")
    text = summary.fine_tuning(verdict, [(0, 0.5, 0.91), (20, 0.4, reached)])
    assert text.startswith(
        "MAP@50 on validation data: 0.9300 before fine-tuning, the state that was kept, since "
        f"fine-tuning reached {reached:.4f} at best; the exported file on"
    )


def test_memory_of_the_firmware_is_told_without_a_limit_on_it():
    verdict = factories.a_verdict()
    assert not any("firmware" in row.what for row in summary.compared(verdict))
    memory = factories.a_footprint(flash_bytes=50_000, ram_bytes=4096)
    dense = verdict.dense.model_copy(update={"footprint": memory})
    less = factories.a_footprint(flash_bytes=25_000, ram_bytes=3072)
    slim = verdict.slim.model_copy(update={"footprint": less})
    rows = summary.compared(factories.a_verdict(dense=dense, slim=slim))
    assert [(row.what, row.dense, row.slim, row.change) for row in rows[-2:]] == [
        ("flash of the firmware", "48.8 KiB", "24.4 KiB", "0.500\N{MULTIPLICATION SIGN}"),
        ("RAM of the firmware", "4.0 KiB", "3.0 KiB", "0.750\N{MULTIPLICATION SIGN}"),
    ]


@pytest.mark.parametrize(
    ("ratio", "value", "limit"), [(2.0449, "2.04", "1.00"), (1.003, "1.003", "1.000")]
)
def test_an_exact_ratio_has_no_low_end_and_one_rounding(ratio, value, limit):
    gate = Gate(name="speedup", met=True, limit=1.0, value=ratio)
    verdict = factories.a_verdict(gates=(gate,), speedup=a_ratio(ratio, ratio, ratio, pairs=1))
    (row,) = summary.gates(verdict)
    sign = "\N{MULTIPLICATION SIGN}"
    assert (row.value, row.limit) == (f"{value}{sign}", f"above {limit}{sign}")


def test_the_gate_of_a_ratio_with_an_interval_is_about_its_low_end():
    found = {row.name: row.value for row in summary.gates(factories.a_verdict())}
    assert found["speed-up"] == "2.019\N{MULTIPLICATION SIGN}, low end"


def test_groups_left_alone_share_a_reason_and_the_first_are_named():
    groups = [SkippedGroup(name=f"g{i}", width=4, reason=f"why {i % 2}") for i in range(14)]
    assert summary.left_alone(groups[:3]) == "g0, g2: why 0; g1: why 1"
    assert summary.left_alone(groups).endswith("g11: why 1; and 2 more, all in the report")
    assert summary.left_alone(()) == ""
