from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from edgeprune.errors import UsageError
from edgeprune.records import Bandwidth, Peaks, Slice
from edgeprune.report.profile_page import of_limit, render
from edgeprune.report.roofline import roofline
from edgeprune.report.trace import chrome_trace
from tests import factories

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
