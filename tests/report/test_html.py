import re
from html.parser import HTMLParser

import pytest

from edgeprune.records import (
    Budget,
    ChannelGroup,
    GroupList,
    Regularised,
    ScheduleHistory,
    ScheduleStep,
    ScoreSpread,
    Speedup,
    TensorInfo,
    Views,
    WeightPattern,
)
from edgeprune.report.html import ReportData, render
from tests import factories
from tests.report.counted import a_count

VOID = {"meta", "br"}  # elements of SVG close themselves
EVIL = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Checks that tags are closed in order; collects addresses, ids and text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.text = [], [], [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [
            v for k, v in attributes if k in ("src", "href", "data", "action", "srcset")
        ]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page():
    return Page(render(factories.a_document()))


def test_page_needs_neither_network_nor_script(page):
    source = render(factories.a_document())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|javascript:", source)
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)


def test_page_has_every_section(page):
    assert page.ids == [
        "gates", "compared", "layers", "widths", "prediction", "sensitivity", "recovery",
        "environment", "files", "use",
    ]  # fmt: skip
    assert page.tags.count("svg") == 7


def test_page_draws_groups_scores_and_weights_where_they_are_known():
    group = ChannelGroup(
        name="stem", width=32, outputs=("stem",), inputs=("stages.0.0.conv1",), carriers=()
    )
    pattern = WeightPattern(
        layer="stem", dense_shape=(2, 1), slim_shape=(1, 1),
        dense=((10,), (3,)), stays=((True,), (False,)), slim=((9,),),
    )  # fmt: skip
    spread = ScoreSpread(group="stem", criterion="taylor", scores=(0.5, 0.1), kept=(0,))
    views = Views(
        groups=GroupList(groups=(group,), skipped=()), spreads=(spread,), patterns=(pattern,)
    )
    page = Page(render(factories.a_document(views=views)))
    assert page.tags.count("svg") == 10
    assert "groups" in page.ids
    assert "Importance of the channels" in page.text


def test_page_draws_the_steps_of_a_schedule():
    steps = tuple(
        ScheduleStep(
            number=i, limit=1000.0 / i, cost=990.0 / i, recalibrated=0.7, metric=0.93 - 0.01 * i,
            training_steps=10, widths={},
        )
        for i in (1, 2, 3)
    )  # fmt: skip
    history = ScheduleHistory(kind="progressive", planned=3, steps=steps)
    verdict = factories.a_verdict(schedule=history)
    source = render(factories.a_document(verdict=verdict))
    assert Page(source).tags.count("svg") == 8
    assert "step 3, recovered: 0.9" in source
    assert "step 1, before training: 0.7" in source


def test_page_is_light_dark_and_printable():
    source = render(factories.a_document())
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_page_states_the_answer_and_its_doubt(page):
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "runs 2.03 times as fast as the dense model (95 % interval 2.019 to 2.036)" in text
    assert "985.3 µs [979.0, 992.8]" in text
    assert "measured on the device" in text
    assert "92 % of the profiled run belongs to named layers" in text
    assert "its channels are the outputs of the model" in text
    assert "0" * 64 in text


def evil_layers():
    changed = {"name": EVIL, "operator": EVIL}
    return tuple(layer.model_copy(update=changed) for layer in factories.a_profile().layers)


def evil_gates():
    changed = {"name": EVIL, "note": EVIL}
    return tuple(gate.model_copy(update=changed) for gate in factories.a_failure().gates)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": EVIL},
        {"verdict": factories.a_verdict(job=EVIL, device=EVIL, metric=EVIL)},
        {"verdict": factories.a_verdict(environment=factories.an_environment(facts={EVIL: EVIL}))},
        {"verdict": factories.a_failure(gates=evil_gates())},
        {"dense_profile": factories.a_profile(layers=evil_layers())},
        {"plan": factories.a_plan(groups={EVIL: factories.a_plan().groups["stem"]})},
        {"versions": {EVIL: EVIL}, "files": {EVIL: EVIL}, "licence": EVIL},
        {
            "artifact": factories.an_artifact(
                inputs=(TensorInfo(name=EVIL, dtype="float32", shape=()),)
            )
        },
    ],
)
def test_text_of_others_is_escaped(changes):
    source = render(factories.a_document(**changes))
    assert "<script" not in source.lower()
    assert "&lt;script&gt;" in source
    Page(source)


def test_failed_gates_are_named():
    text = Page(render(factories.a_document(verdict=factories.a_failure()))).text
    assert "Not passed: accuracy and budget not met; not measured: ram." in text
    assert text.count("not met") >= 3


def test_estimates_are_never_called_a_speed_up():
    source = render(
        factories.a_document(
            verdict=factories.an_estimate(),
            dense_profile=factories.a_profile(kind="estimated"),
            slim_profile=factories.a_profile(slim=True, kind="estimated"),
            table=factories.a_table(kind="estimated"),
        )
    )
    assert not re.search(r"speed.?up|measured on the device|times as fast", source, re.IGNORECASE)
    assert "estimated ratio" in source
    assert "estimated by a formula, not measured" in source


def test_page_of_a_run_with_little_to_show():
    bare = factories.a_document(
        slim_profile=None, curves=(), history=(), skipped=(), licence=None,
        plan=factories.a_plan(groups={}, rounds=()),
        dense_profile=factories.a_profile(layers=(), coverage=0.0),
    )  # fmt: skip
    text = Page(render(bare)).text
    assert "No group was cut." in text
    assert "No fine-tuning" in text
    assert "not stated" in text


def test_page_tells_the_loss_of_the_whole_plan_and_the_limits():
    plan = factories.a_plan(
        loss=0.25, whole_loss=0.75, allocation="uniform", unheeded=("macs", "ram")
    )
    text = " ".join(Page(render(factories.a_document(plan=plan))).text.split())
    assert "0.7500 measured on the whole plan, 0.2500 summed over groups" in text
    assert "macs and ram: allocation uniform knows the budget alone" in text


def test_document_survives_json():
    document = factories.a_document()
    assert ReportData.model_validate_json(document.model_dump_json(by_alias=True)) == document


def test_a_schedule_that_stopped_is_told_with_its_steps():
    step = ScheduleStep(
        number=1, limit=700.0, cost=690.0, recalibrated=0.81, metric=0.92, training_steps=200,
        widths={"conv": 16},
    )  # fmt: skip
    trained = Regularised(kind="growing", before=0.931, after=0.924, history=())
    schedule = ScheduleHistory(
        kind="progressive", planned=3, steps=(step, step), stopped=EVIL, regularised=trained
    )
    verdict = factories.a_verdict(schedule=schedule)
    found = Page(render(factories.a_document(verdict=verdict)))
    text = " ".join(found.text.split())
    assert "growing took the validation metric from 0.9310 to 0.9240" in text
    assert "Schedule progressive, 3 steps planned; it never reached the budget" in text
    assert "1 of 3" in text
    assert "script" not in found.tags


@pytest.mark.parametrize(
    ("before", "kept"),
    [(0.8127, "The best state was kept."), (0.95, "The state before fine-tuning was kept")],
)
def test_the_caption_of_the_history_names_the_state_that_was_kept(before, kept):
    verdict = factories.a_verdict(recalibrated_accuracy=before)
    text = Page(render(factories.a_document(verdict=verdict))).text
    captions = [line for line in text.splitlines() if "over the steps of fine-tuning" in line]
    assert len(captions) == 1
    assert kept in captions[0]


def test_an_int8_model_is_named_with_its_precision_and_its_c_code():
    files = {"model.onnx": "0" * 64, "model.int8.onnx": "1" * 64}
    document = factories.a_document(files=files, code=factories.a_code())
    text = " ".join(Page(render(document)).text.split())
    assert "measured on the device int8 fashion_resnet" in text
    assert "cost (measured, int8)" in text
    use = text[text.index("Use the model") :]
    assert '"model.int8.onnx", options' in use
    assert "c/README.md says how to compile" in use


def test_a_float_model_is_the_file_to_use(page):
    assert '"model.onnx", options' in page.text
    assert "cost (measured, float32)" in page.text
    assert "int8" not in page.text


def text_without_intervals(kind, unit):
    exact = Speedup(median=2.0, low=2.0, high=2.0, confidence=0.95, pairs=1)
    document = factories.a_document(
        verdict=factories.a_verdict(kind=kind, unit=unit, speedup=exact),
        dense_profile=a_count(kind=kind, unit=unit),
        slim_profile=a_count(slim=True, kind=kind, unit=unit),
    )
    return " ".join(Page(render(document)).text.split())


@pytest.mark.parametrize(
    ("kind", "unit", "both", "bars", "layout"),
    [
        (
            *("emulated", "instructions", "Both costs are exact counts of the emulator."),
            *("The costliest layers; counts are exact.", "14 instructions, exact"),
        ),
        (
            *("estimated", "us", "Both costs come from the same formula."),
            *("The costliest layers; costs are by formula.", "14.2 µs, by formula"),
        ),
    ],
)
def test_counts_and_formulas_are_not_told_as_times(kind, unit, both, bars, layout):
    text = text_without_intervals(kind, unit)
    assert both in text
    assert bars in text
    assert f"changes of layoutno layer{layout}" in text.replace(" no layer ", "no layer")
    assert ", 1 pair)." in text
    assert "over cost of the slim one, " + kind + ". Dashed" in text
    for wrong in ("median", "with its interval", "without the profiler", "1 pairs"):
        assert wrong not in text


def test_times_are_told_with_their_intervals(page):
    text = " ".join(page.text.split())
    assert "Both costs are medians over the same pairs of runs." in text
    assert "the line across the end of a bar is the 95" in text
    assert "14.2 µs (median)" in text
    assert "900 pairs)." in text


def test_the_limit_of_cost_stands_apart_from_what_was_asked():
    budget = Budget(asked="macs 50%, ram_kb 256.0", limit=985.3, reached=486.0, met=True)
    text = Page(render(factories.a_document(verdict=factories.a_verdict(budget=budget)))).text
    assert "Budget macs 50%, ram_kb 256.0; cost at most 985 µs." in text
    assert "that is 985" not in text
    assert "cost limit" in text
    assert "budget macs" not in text


def test_costs_of_the_profile_and_of_the_verdict_are_told_apart():
    verdict = factories.a_verdict()
    dense = verdict.dense.model_copy(update={"cost": 855.8})
    budget = verdict.budget.model_copy(update={"limit": 427.9})
    faster = factories.a_verdict(dense=dense, budget=budget)
    profile = factories.a_profile()
    text = " ".join(Page(render(factories.a_document(verdict=faster))).text.split())
    assert (
        "cost at most 428 µs. That is the limit in the verdict, where the dense model costs 856 µs. "
        f"Widths were chosen for at most 493 µs, at the speed of its profile, where it cost "
        f"{profile.total:.0f} µs"
    ) in text
    assert "to cost 489 µs, 99.3 % of the budget, which was off by" in text
    same = " ".join(Page(render(factories.a_document())).text.split())
    assert "That is the limit in the verdict" not in same
    assert "to cost 489 µs, 99.3 % of the budget, which was off by" in same


def a_wide_model(count):
    """A dense model of `count` layers with weights, and a slim one without the second of them."""
    plain = factories.a_profile()
    layers = tuple(
        plain.layers[0].model_copy(update={"name": f"conv{n}", "parameter_bytes": 1000 + n})
        for n in range(count)
    )
    spreads = tuple(
        ScoreSpread(group=f"conv{n}", criterion="taylor", scores=(0.5, 0.1), kept=(0,))
        for n in range(count)
    )
    source = render(
        factories.a_document(
            dense_profile=plain.model_copy(update={"layers": layers}),
            slim_profile=plain.model_copy(update={"layers": layers[:1] + layers[2:]}),
            views=Views(spreads=spreads),
        )
    )
    start = source.index('aria-label="Parameters of the layers')
    return source[start : source.index("</svg>", start)], " ".join(Page(source).text.split())


def test_a_removed_layer_is_in_the_chart_of_parameters():
    chart, text = a_wide_model(4)
    assert all(f">conv{n}</text>" in chart for n in range(4))
    assert chart.count("<rect") == 2 * 4 - 1
    assert "Bytes of weights of each layer, before and after. A layer without a second" in text
    assert "which score; each group by the criterion" in text


def test_captions_tell_what_charts_leave_out():
    chart, text = a_wide_model(30)
    assert chart.count("<rect") == 2 * 24  # conv1 is not among the largest
    assert "Bytes of weights of the 24 largest of 30 layers, before and after. Importance" in text
    assert "which score; the first 12 of 30 groups, each by the criterion" in text
