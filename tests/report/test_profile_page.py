from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from edgeprune.errors import UsageError
from edgeprune.records import Bandwidth, Peaks, Slice
from edgeprune.report.console import Console
from edgeprune.report.profile_page import facts, of_limit, render
from edgeprune.report.roofline import roofline
from edgeprune.report.trace import chrome_trace
from tests import factories
from tests.report.counted import a_count
from tests.trace_format import check_trace

PEAKS = Peaks(
    flops_per_second=90e9,
    bandwidths=(
        Bandwidth(working_set_bytes=262_144, bytes_per_second=80e9),
        Bandwidth(working_set_bytes=67_108_864, bytes_per_second=18e9),
    ),
)


@pytest.fixture
def profile():
    plain = factories.a_profile()
    layers = tuple(
        layer.model_copy(
            update={
                "moved_bytes": 237_568, "flops_per_second": 2e6 * layer.macs / layer.cost,
                "limit_cost": layer.cost / 2, "bound": "compute",
            }
        )
        for layer in plain.layers
    )  # fmt: skip
    names = [layer.name for layer in layers[:2]]
    timeline = (
        Slice(name="a_nchwc", operator="Conv", layer=names[0], start=4.0, duration=30.0),
        Slice(name="ReorderOutput", operator="ReorderOutput", layer=None, start=35.0, duration=2.0),
        Slice(name="b_nchwc", operator="Conv", layer=names[1], start=38.0, duration=60.0),
    )
    return plain.model_copy(
        update={
            "layers": layers, "peaks": PEAKS, "timeline": timeline,
            "sum_of_layers": sum(layer.cost for layer in layers),
            "warnings": ("a <warning> of the machine",),
        }
    )  # fmt: skip


def test_the_trace_holds_layers_nodes_and_layout(profile) -> None:
    document = json.loads(chrome_trace(profile))
    check_trace(document)
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    layers = [event for event in slices if event["tid"] == 1]
    assert [(e["name"], e["cat"], e["ts"], e["dur"]) for e in layers] == [
        (profile.layers[0].name, "layer", 4.0, 30.0),
        ("change of layout", "layout", 35.0, 2.0),
        (profile.layers[1].name, "layer", 38.0, 60.0),
    ]
    assert layers[0]["args"]["macs"] == profile.layers[0].macs
    nodes = [event["name"] for event in slices if event["tid"] == 2]
    assert nodes == ["a_nchwc", "ReorderOutput", "b_nchwc"]
    named = {e["args"]["name"] for e in document["traceEvents"] if e["ph"] == "M"}
    assert {"layers", "nodes of the runtime"} < named
    assert document["otherData"] == profile.environment.facts


def test_a_trace_is_in_the_order_of_time_whatever_that_of_the_nodes(profile) -> None:
    turned = profile.model_copy(update={"timeline": profile.timeline[::-1]})
    assert chrome_trace(turned) == chrome_trace(profile)


def test_a_strict_reader_refuses_what_is_no_trace(profile) -> None:
    document = json.loads(chrome_trace(profile))
    events = document["traceEvents"]
    overlapping = {**events[-1], "ts": events[-1]["ts"] + 1}
    for wrong in (
        events[::-1],  # rows are named after their use
        [event for event in events if event["name"] != "thread_name"],
        [*events, {**events[-1], "ts": 0.0}],
        [*events, {**events[-1], "tid": 9}],
        [*events, overlapping],
    ):
        with pytest.raises(AssertionError):
            check_trace({**document, "traceEvents": wrong})


def test_counts_are_never_drawn_as_time(profile) -> None:
    counted = profile.model_copy(update={"unit": "instructions", "kind": "emulated"})
    with pytest.raises(UsageError, match="a trace shows times"):
        chrome_trace(counted)


def test_the_roofline_places_every_layer_below_its_roof(profile) -> None:
    svg = ElementTree.fromstring(roofline(profile, title="Roofline"))
    circles = [e for e in svg.iter() if e.tag.endswith("circle")]
    assert len(circles) == len(profile.layers)
    texts = " ".join(e.text or "" for e in svg.iter() if e.tag.endswith("text"))
    assert "90 GFLOP/s" in texts
    assert "18 GB/s (64.0 MiB)" in texts
    areas = [float(circle.get("r")) ** 2 for circle in circles]
    assert areas == sorted(areas, reverse=True)
    for circle in circles:
        assert 0 < float(circle.get("cx")) < 680
        assert 0 < float(circle.get("cy")) < 330


@pytest.mark.parametrize("count", [1, 7, 40])
def test_names_stand_beside_their_circles_and_touch_nothing(profile, count) -> None:
    """Layers of one shape lie in a heap: as in a network of many equal blocks."""
    layers = tuple(
        layer.model_copy(
            update={
                "name": f"stages.{index}.conv", "cost": 100.0 - index,
                "flops_per_second": 4e10 + 2e8 * index, "moved_bytes": 237_568 + 500 * index,
            }
        )
        for index in range(count)
        for layer in profile.layers[:1]
    )  # fmt: skip
    heap = profile.model_copy(update={"layers": layers})
    svg = ElementTree.fromstring(roofline(heap, title="Roofline"))
    circles = [
        tuple(float(e.get(key)) for key in ("cx", "cy", "r"))
        for e in svg.iter()
        if e.tag.endswith("circle")
    ]
    texts = [e for e in svg.iter() if e.tag.endswith("text")]
    boxes = [(e.text, box_of(e)) for e in texts if float(e.get("y")) < 324]  # above the axis
    named = [(text, box) for text, box in boxes if (text or "").startswith("stages")]
    assert [text for text, _ in named] == [f"stages.{i}.conv" for i in range(min(count, 6))]
    for index, (text, box) in enumerate(named):
        x, y, radius = circles[index]
        across = max(box[0] - x, x - box[2])
        assert across == pytest.approx(radius + 4, abs=0.2), text
        assert abs((box[1] + box[3]) / 2 - y) <= 14 * 6, text
        for other, taken in boxes:
            assert other == text or not meet(box, taken), (text, other)
    assert all(box[0] >= 0 and box[2] <= 680 for _, box in boxes)  # nothing leaves the picture
    first = named[0][1]
    assert abs((first[1] + first[3]) / 2 - circles[0][1]) <= circles[0][2] + 3


def box_of(text) -> tuple[float, float, float, float]:
    """What a text takes at 6.5 a character, of 12 units height."""
    x, y, width = float(text.get("x")), float(text.get("y")), 6.5 * len(text.text or "")
    left = {"end": x - width, "start": x, "middle": x - width / 2}[text.get("text-anchor")]
    return left, y - 10, left + width, y + 2


def meet(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_without_peaks_there_is_no_roofline(profile) -> None:
    bare = profile.model_copy(update={"peaks": None})
    assert roofline(bare, title="Roofline") == ""
    assert 'id="roofline"' not in render(bare)


def test_the_page_is_whole_and_needs_nothing_else(profile) -> None:
    page = render(profile)
    assert page.count("<svg") == 2
    assert "a &lt;warning&gt; of the machine" in page
    assert not re.search(r"(src|href)=.?https?:|<script|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    for layer in profile.layers:
        assert layer.name in page
    assert page.count("of compute") == len(profile.layers)


def test_an_unstable_profile_says_so(profile) -> None:
    page = render(profile.model_copy(update={"stopped": "unstable", "processes": 4}))
    assert "unstable: fashion_resnet on mobile_cpu: after 4 processes" in page


def test_a_layer_without_limit_says_nothing(profile) -> None:
    assert of_limit(factories.a_profile().layers[0]) == ""
    assert of_limit(profile.layers[0]) == "50 % of compute"


@pytest.mark.parametrize(
    ("kind", "unit", "bars", "layout"),
    [
        ("emulated", "instructions", "counts are exact", "14 instructions, exact"),
        ("estimated", "us", "costs are by formula", "14.2 µs, by formula"),
    ],
)
def test_counts_and_formulas_are_not_told_as_times(kind, unit, bars, layout, capsys) -> None:
    counted = a_count(kind=kind, unit=unit)
    page = render(counted)
    assert f"The most expensive layers; {bars}." in page
    assert layout in page
    Console().profile(counted)
    shown = capsys.readouterr()
    assert layout in shown.out + shown.err
    for told in (page, shown.out + shown.err):
        assert not re.search(r"median|95.% interval|without the profiler", told)


def test_times_are_told_with_their_intervals(profile, capsys) -> None:
    page = render(profile)
    assert "is the 95\N{NO-BREAK SPACE}% interval of the median." in page
    assert "14.2 µs (median)" in page
    assert "without the profiler" in page
    Console().profile(profile)
    shown = capsys.readouterr()
    assert "14.2 µs (median)" in shown.out + shown.err


def test_parameters_are_said_to_be_those_of_the_file(profile):
    count = f"{profile.parameters:,}"  # BatchNorm is folded there: torch models have more
    assert dict(facts(profile))["parameters"] == f"{count} (exact, of the ONNX file)"


@pytest.mark.parametrize("kind", ["measured", "emulated", "estimated"])
def test_a_run_without_nodes_and_peaks_are_told_as_what_they_are(profile, kind) -> None:
    told = dict(facts(profile.model_copy(update={"kind": kind, "call": 12.0})))
    others = {"measured", "emulated", "estimated"} - {kind}
    for row in ("into the runtime and out", "peaks of the device"):
        assert kind in told[row]
        assert not [word for word in others if word in told[row]]
