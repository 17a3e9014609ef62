"""Charts of groups, sensitivity, scores, weights and experiments: marks counted and placed."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from edgeprune.records import ChannelGroup, ScoreSpread, SensitivityCurve, WeightPattern
from edgeprune.report import svg
from edgeprune.report.graph import ALONE, LANE, STYLES, arrange, dependency_graph
from edgeprune.report.heatmap import RIGHT, heatmap
from edgeprune.report.histograms import counts, histograms
from edgeprune.report.patterns import SIDE, patterns
from edgeprune.report.scatter import HEIGHT, LEFT, TOP, Dot, scatter
from edgeprune.report.scatter import RIGHT as NAMES
from edgeprune.report.strip import strip

RESIDUAL = (
    ChannelGroup(name="stem", width=32, outputs=("stem", "b"), inputs=("a", "head"), carriers=("n",)),
    ChannelGroup(name="a", width=16, outputs=("a",), inputs=("b",)),
)  # fmt: skip
LAYERS = ("stem", "n", "a", "b", "pool", "head")


def elements(picture: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture).iter(tag))


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in elements(picture, "text") if element.text] + [
        child.tail for element in elements(picture, "text") for child in element if child.tail
    ]


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def a_curve(group: str = "a", criterion: str = "l2", scale: float = 1.0) -> SensitivityCurve:
    return SensitivityCurve(
        group=group, criterion=criterion, widths=(4, 8, 16), increases=(scale, 0.25 * scale, 0.0)
    )


def a_pattern(layer: str = "a") -> WeightPattern:
    return WeightPattern(
        layer=layer,
        dense_shape=(4, 2),
        slim_shape=(2, 2),
        dense=((10, 10), (0, 0), (5, 5), (5, 5)),
        stays=((True, True), (False, False), (True, True), (False, False)),
        slim=((10, 10), (5, 5)),
    )


SPREAD = ScoreSpread(group="a", criterion="l2", scores=(0.0, 1.0, 1.1, 4.0), kept=(2, 3))
EVERY = {
    "graph": lambda name: dependency_graph(
        [ChannelGroup(name=name, width=4, outputs=(name,), inputs=("end",))],
        [name, "end"],
        {},
        title=name,
    ),
    "graph of nothing": lambda name: dependency_graph([], [], {}, title=name),
    "heat map": lambda name: heatmap([a_curve(name)], {name: 8}, title=name),
    "heat map of nothing": lambda name: heatmap([], {}, title=name),
    "histograms": lambda name: histograms([SPREAD.model_copy(update={"group": name})], title=name),
    "histogram of equal scores": lambda name: histograms(
        [ScoreSpread(group=name, criterion="l1", scores=(2.0, 2.0), kept=(0,))], title=name
    ),
    "patterns": lambda name: patterns([a_pattern(name)], title=name),
    "patterns of nothing": lambda name: patterns([], title=name),
    "scatter": lambda name: scatter(
        [Dot(name, 0.5, 0.9, name), Dot("b", 0.5, 0.8)], across=name, up=name, title=name
    ),
    "scatter of nothing": lambda name: scatter([], across="x", up="y", title=name),
    "strip": lambda name: strip({name: [0.5, 0.6], "b": [0.55]}, across=name, title=name),
    "strip of nothing": lambda name: strip({}, across="x", title=name),
}


@pytest.mark.parametrize("name", ["layer", "<script>\"&'</script>", "a" * 300, "bell \x07"])
@pytest.mark.parametrize("chart", EVERY)
def test_chart_is_well_formed_and_names_itself(chart, name) -> None:
    picture = EVERY[chart](name)
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.findtext("title") == name.replace("\x07", "?")
    assert "nan" not in picture
    assert "<script" not in picture


def test_a_group_spans_from_its_first_layer_to_its_last() -> None:
    lanes, rows = arrange(RESIDUAL, LAYERS)
    assert rows == ("stem", "n", "a", "b", "head")  # pool touches no group
    assert {lane.group.name: (lane.column, lane.first, lane.last) for lane in lanes} == {
        "stem": (0, 0, 4),
        "a": (1, 2, 3),
    }


def test_a_column_is_used_again_once_its_lane_has_ended() -> None:
    chain = [
        ChannelGroup(name=f"l{i}", width=4, outputs=(f"l{i}",), inputs=(f"l{i + 1}",))
        for i in range(4)
    ]
    lanes, _ = arrange(chain, [f"l{i}" for i in range(5)])
    assert [lane.column for lane in lanes] == [0, 1, 0, 1]


def test_the_graph_draws_a_ring_for_each_reader_and_an_arrow_for_each_writer() -> None:
    picture = dependency_graph(RESIDUAL, LAYERS, {"stem": 16, "a": 16}, title="groups")
    hollow = [c for c in elements(picture, "circle") if "--page" in (c.get("style") or "")]
    assert len(hollow) == 3  # a and head read stem, b reads a
    assert len(elements(picture, "circle")) == 4  # and the carrier n
    assert len(elements(picture, "polygon")) == 4  # stem, a, b and head; n only passes on
    assert "stem: 32 → 16" in texts(picture)
    thick = [line for line in elements(picture, "line") if line.get("stroke-width") == "3"]
    thick = thick[:2]  # behind them the legend
    assert ["--chart-slim" in (line.get("style") or "") for line in thick] == [True, False]
    assert number(thick[1], "x1") - number(thick[0], "x1") == pytest.approx(LANE, abs=0.1)


def test_the_graph_tells_groups_that_are_cut_kept_whole_and_left_alone_apart() -> None:
    groups = [ChannelGroup(name=name, width=8, outputs=(name,), inputs=("end",)) for name in "abc"]
    picture = dependency_graph(
        groups, [*"abc", "end"], {"a": 4, "b": 8}, title="groups", alone=["c"]
    )
    thick = [line for line in elements(picture, "line") if line.get("stroke-width") == "3"]
    looks = [(line.get("style"), line.get("stroke-dasharray")) for line in thick]
    assert len(set(looks)) == 3
    assert looks[:3] == looks[3:], "the legend draws lines as the groups have them"
    assert [text for text in texts(picture) if text in STYLES] == [*STYLES]
    assert {"a: 8 → 4", "b: 8 → 8", "c: 8 left alone"} <= set(texts(picture))
    without = dependency_graph(groups[:2], [*"ab", "end"], {"a": 4, "b": 8}, title="groups")
    assert ALONE not in texts(without)


def test_the_heat_map_has_a_cell_for_each_width_and_outlines_the_plan() -> None:
    picture = heatmap([a_curve("a"), a_curve("b", scale=4.0)], {"a": 8}, title="heat")
    cells = [r for r in elements(picture, "rect") if r.get("fill-opacity")]
    frames = [r for r in elements(picture, "rect") if "fill:none" in (r.get("style") or "")]
    assert len(cells) == 6
    shades = [number(cell, "fill-opacity") for cell in cells]
    assert shades == pytest.approx([0.54, 0.31, 0.08, 1.0, 0.54, 0.08], abs=0.006)
    left = svg.label_width(["a", "b"])
    span = svg.WIDTH - left - RIGHT
    assert number(cells[1], "x") == pytest.approx(left + span * 4 / 16 + 0.5, abs=0.06)
    assert number(cells[1], "width") == pytest.approx(span * 4 / 16 - 1, abs=0.06)
    assert len(frames) == 1
    assert number(frames[0], "x") == number(cells[1], "x")
    assert "a at 8 of 16: loss +0.25" in [cell.findtext("title") for cell in cells]


def test_rows_of_one_group_by_several_criteria_are_told_apart() -> None:
    picture = heatmap([a_curve(), a_curve(criterion="taylor")], {}, title="heat")
    assert {"a, l2", "a, taylor"} <= set(texts(picture))


def test_scores_are_counted_in_equal_ranges() -> None:
    # [0, 4] in four ranges: 0 | 1, 1.1 | nothing | 4; channels 2 and 3 stay
    assert counts(SPREAD, 4) == [(0, 1), (1, 1), (0, 0), (1, 0)]


def test_a_histogram_stacks_what_goes_on_what_stays() -> None:
    picture = histograms([SPREAD], title="scores")
    bars = elements(picture, "rect")[2:]  # after the key
    assert sum("--chart-slim" in (bar.get("style") or "") for bar in bars) == 2
    assert sum("--chart-track" in (bar.get("style") or "") for bar in bars) == 2
    assert {"a, l2", "0", "4", "up to 2 channels"} <= set(texts(picture))


def test_a_pattern_joins_equal_neighbours_and_greys_what_goes() -> None:
    picture = patterns([a_pattern()], title="weights")
    paths = elements(picture, "path")
    looks = [(p.get("fill-opacity"), "--chart-slim" in (p.get("style") or "")) for p in paths]
    assert looks == [("0.09", False), ("0.55", False), ("0.55", True), ("1.00", True),
                     ("0.55", True), ("1.00", True)]  # fmt: skip
    widths = [re.findall(r"h([\d.]+)v", p.get("d") or "") for p in paths]
    assert widths == [[f"{SIDE / 2:.2f}"]] * 6  # two cells joined, each a quarter of the side
    assert {"a: 4 \N{MULTIPLICATION SIGN} 2"} <= set(texts(picture))


def test_a_scatter_places_its_marks_and_joins_means() -> None:
    dots = [Dot("l2", 0.0, 0.8), Dot("l2", 0.0, 0.9), Dot("l2", 1.0, 0.6), Dot("l1", 0.0, 1.0)]
    picture = scatter(dots, across="cost", up="accuracy", title="t", percent=True)
    (joined,) = elements(picture, "polyline")
    points = [tuple(map(float, p.split(","))) for p in (joined.get("points") or "").split()]
    span = svg.WIDTH - LEFT - NAMES
    assert points == [
        pytest.approx((LEFT, TOP + HEIGHT * (1 - 0.25 / 0.4)), abs=0.06),  # mean 0.85 in 0.6 to 1
        pytest.approx((LEFT + span, TOP + HEIGHT), abs=0.06),
    ]
    assert len(elements(picture, "circle")) == 4 + 2  # the dots, and a mark before each name
    assert {"l2", "l1", "0 %", "100 %", "accuracy", "cost"} <= set(texts(picture))


def test_names_of_methods_do_not_touch() -> None:
    dots = [Dot(f"method {i}", 0.5, 0.9) for i in range(12)]
    picture = scatter(dots, across="x", up="y", title="t")
    named = [t for t in elements(picture, "text") if (t.text or "").startswith("method")]
    heights = sorted(number(t, "y") for t in named)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 13
    assert heights[-1] <= TOP + HEIGHT + 10


def test_a_strip_has_a_ring_for_each_result_and_a_stroke_at_the_mean() -> None:
    picture = strip({"fused": [0.90, 0.92], "hessian": [0.94]}, across="accuracy", title="t")
    assert len(elements(picture, "circle")) == 3
    strokes = [line for line in elements(picture, "line") if line.get("stroke-width") == "2"]
    rings = [number(c, "cx") for c in elements(picture, "circle")]
    assert number(strokes[0], "x1") == pytest.approx((rings[0] + rings[1]) / 2, abs=0.11)
    assert number(strokes[1], "x1") == pytest.approx(rings[2], abs=0.11)
    assert {"mean 0.91", "mean 0.94"} <= set(texts(picture))


def test_results_that_differ_in_their_last_bits_are_drawn() -> None:
    nearly = math.nextafter(0.93, 1)
    picture = scatter([Dot("a", 0.5, 0.93), Dot("a", 0.5, nearly)], across="x", up="y", title="t")
    heights = [number(c, "cy") for c in elements(picture, "circle")]
    assert all(TOP <= height <= TOP + HEIGHT for height in heights)
    picture = strip({"a": [0.93, nearly]}, across="x", title="t")
    assert all(0 <= number(c, "cx") <= svg.WIDTH for c in elements(picture, "circle"))
