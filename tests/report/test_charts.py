import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from edgeprune.report import charts, svg


def a_bar(value, half=1.0):
    return charts.Bar(value, value - half, value + half, f"{value:g} µs")


def numbers(svg, tag, *names):
    return [
        tuple(float(element.get(name)) for name in names)
        for element in ElementTree.fromstring(svg).iter(tag)
    ]


def texts(svg):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("text")]


EVERY = {
    "bars": lambda name: charts.bars(
        [charts.Pair(name, a_bar(40), a_bar(20)), charts.Pair("gone", a_bar(10), None)], title=name
    ),
    "bars of nothing": lambda name: charts.bars([], title=name),
    "widths": lambda name: charts.widths([(name, 64, 32), ("removed", 16, 0)], title=name),
    "curves": lambda name: charts.curves(
        [charts.Panel(name, (charts.Line(name, ((0.5, 0.2), (1.0, 0.0))),), 0.5, "32")], title=name
    ),
    "curves of nothing": lambda name: charts.curves([], title=name),
    "interval": lambda name: charts.interval(
        2.0, 1.9, 2.1, limits=[(1.0, "dense"), (2.0, name)], text=name, title=name
    ),
    "exact interval": lambda name: charts.interval(
        1.0, 1.0, 1.0, limits=[(1.0, "dense")], text=name, title=name
    ),
    "history": lambda name: charts.history(
        [(0, 1.0, 0.5), (10, 0.5, 0.9)], metric=name, title=name
    ),
    "history of one point": lambda name: charts.history([(0, 1.0, 0.5)], metric=name, title=name),
    "history of nothing": lambda name: charts.history([], metric=name, title=name),
}


@pytest.mark.parametrize("name", ["layer", "<script>\"&'</script>", "a" * 300, "bell \x07"])
@pytest.mark.parametrize("chart", EVERY)
def test_chart_is_well_formed_and_names_itself(chart, name):
    svg = EVERY[chart](name)
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    shown = name.replace("\x07", "?")
    assert root.get("aria-label") == root.findtext("title") == shown
    assert "nan" not in svg
    assert "<script" not in svg


@pytest.mark.parametrize("chart", EVERY)
def test_chart_takes_its_colours_from_the_page(chart):
    svg = EVERY[chart]("layer")
    assert not re.search(r"#[0-9a-fA-F]{3}|rgb", svg)
    assert all(
        "currentColor" in style or "none" in style for style in re.findall(r'style="(.*?)"', svg)
    )


def test_bars_are_as_long_as_their_figures():
    svg = charts.bars([charts.Pair("a", a_bar(40), a_bar(20))], title="t")
    (dense,), (slim,) = numbers(svg, "rect", "width")
    assert dense == pytest.approx(2 * slim, abs=0.2)
    assert {"40 µs", "20 µs"} <= set(texts(svg))


def test_bars_show_intervals_but_not_of_exact_figures():
    svg = charts.bars([charts.Pair("a", a_bar(40, 4), a_bar(20, 0))], title="t")
    ((left, right),) = numbers(svg, "line", "x1", "x2")
    ((width,), _) = numbers(svg, "rect", "width")
    assert right - left == pytest.approx(width * 8 / 40, abs=0.3)


def test_widths_fill_the_share_that_stays():
    svg = charts.widths([("a", 128, 32), ("b", 64, 64)], title="t")
    full_a, kept_a, full_b, kept_b = (width for (width,) in numbers(svg, "rect", "width"))
    assert kept_a == pytest.approx(full_a / 4, abs=0.1)
    assert full_b == kept_b == pytest.approx(full_a / 2, abs=0.1)


def test_curves_share_one_axis():
    panels = [
        charts.Panel("steep", (charts.Line("l2", ((0.0, 1.0), (1.0, 0.0))),)),
        charts.Panel("flat", (charts.Line("l2", ((0.0, 0.25), (1.0, 0.0))),)),
    ]
    lines = [
        [float(pair.split(",")[1]) for pair in element.get("points").split()]
        for element in ElementTree.fromstring(charts.curves(panels, title="t")).iter("polyline")
    ]
    rises = [line[1] - line[0] for line in lines]
    assert rises[1] == pytest.approx(rises[0] / 2, abs=0.2)


def test_curves_of_several_criteria_have_a_legend():
    lines = tuple(charts.Line(name, ((0.0, 1.0), (1.0, 0.0))) for name in ("l2", "taylor"))
    svg = charts.curves([charts.Panel("a", lines)], title="t")
    assert {"l2", "taylor"} <= set(texts(svg))
    dashes = [e.get("stroke-dasharray") for e in ElementTree.fromstring(svg).iter("polyline")]
    assert len(set(dashes)) == 2


def test_interval_places_ratio_and_limits_on_one_axis():
    svg = charts.interval(
        2.0, 1.5, 2.5, limits=[(1.0, "dense"), (2.0, "budget")], text="ratio", title="t"
    )
    ((centre,),) = numbers(svg, "circle", "cx")
    dashed = [
        float(e.get("x1"))
        for e in ElementTree.fromstring(svg).iter("line")
        if e.get("stroke-dasharray")
    ]
    assert dashed[1] == centre
    assert dashed[0] < centre
    assert {"dense", "budget", "ratio"} <= set(texts(svg))


def test_long_labels_keep_both_ends_and_the_full_name():
    name = "features.denseblock3." + "x" * 60 + ".conv2"
    svg = charts.widths([(name, 8, 4)], title="t")
    (label, *_) = ElementTree.fromstring(svg).iter("text")
    assert label.findtext("title") == name
    shown = label[0].tail
    assert shown.startswith("features")
    assert shown.endswith(".conv2")
    assert len(shown) < 40


LAST_BIT = math.nextafter(0.93, 1)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((0.13, 0.98), (0.0, 1e-6), (5.0, 5.0), (-3.0, 120.0), (0, 0)),
        *((0.93, LAST_BIT), (-LAST_BIT, -0.93), (1.0, 1 + 1e-11), (1e6, 1e6 + 1e-4)),
    ],
)
def test_ticks_enclose_the_values(low, high):
    ticks = charts.ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_values_that_differ_in_their_last_bits_are_drawn_inside_the_chart():
    points = [(0, 0.5, 0.93), (10, 0.5, LAST_BIT)]
    drawn = charts.history(points, metric="accuracy", title="t")
    assert "nan" not in drawn
    for left, top in numbers(drawn, "circle", "cx", "cy"):
        assert 0 <= left <= svg.WIDTH
        assert 20 <= top <= 170


def test_an_interval_of_ratios_that_differ_in_their_last_bits_has_its_ticks_on_the_axis():
    drawn = charts.interval(1.0, 1.0, 1 + 2**-52, limits=[(1.0, "dense")], text="ratio", title="t")
    places = [left for left, _ in numbers(drawn, "text", "x", "y")]
    assert all(0 <= left <= svg.WIDTH for left in places)
    assert len(places) == len(set(texts(drawn)))


def boxes(drawn):
    """What each text takes at the width that charts reckon with: (text, left, right, baseline)."""
    found = []
    for element in ElementTree.fromstring(drawn).iter("text"):
        name, x, width = element.text, float(element.get("x")), svg.CHARACTER * len(element.text)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[element.get("text-anchor")]
        found.append((name, left, left + width, float(element.get("y"))))
    return found


@pytest.mark.parametrize("limit", [1.0, 1.02, 1.5, 1.9, 5.0])
@pytest.mark.parametrize("median", [1.0, 1.9, 2.3])
def test_names_of_limits_do_not_meet_and_stay_inside(limit, median):
    drawn = charts.interval(
        median,
        median - 0.01,
        median + 0.01,
        limits=[(1.0, "dense model"), (limit, "cost limit")],
        text="speed-up 2.300\N{MULTIPLICATION SIGN}, 95 % interval 2.290 to 2.310",
        title="t",
    )
    found = boxes(drawn)
    height = float(ElementTree.fromstring(drawn).get("viewBox").split()[3])
    assert {"dense model", "cost limit"} <= {name for name, *_ in found}
    for name, left, right, y in found:
        assert left >= 0, name
        assert right <= svg.WIDTH, name
        assert 12 <= y <= height, name
    for one, other in itertools.combinations(found, 2):
        apart = one[2] <= other[1] or other[2] <= one[1] or abs(one[3] - other[3]) >= 12
        assert apart, (one, other)


def test_limits_keep_their_colours_whichever_is_larger():
    drawn = charts.interval(
        1.0, 0.9, 1.1, limits=[(1.0, "dense"), (0.8, "limit")], text="ratio", title="t"
    )
    dashed = [e for e in ElementTree.fromstring(drawn).iter("line") if e.get("stroke-dasharray")]
    colours = [line.get("style") for line in sorted(dashed, key=lambda e: float(e.get("x1")))]
    assert ["--chart-limit" in c for c in colours] == [True, False]


def curves_of(names):
    lines = tuple(charts.Line(name, ((0.0, 1.0), (1.0, 0.0))) for name in names)
    return charts.curves([charts.Panel("a", lines)], title="t")


@pytest.mark.parametrize("count", [5, 8, 20])
def test_lines_of_many_criteria_look_different(count):
    root = ElementTree.fromstring(curves_of([f"criterion {n}" for n in range(count)]))
    looks = [(e.get("stroke-dasharray"), e.get("style")) for e in root.iter("polyline")]
    assert len(looks) == len(set(looks)) == count
    dashes = {dash for dash, _ in looks}
    assert len(dashes) == min(count, 8)  # print has no colours
    shown = [
        (e.get("stroke-dasharray"), e.get("style").replace("stroke:", ""))
        for e in root.iter("line")
        if e.get("stroke-width") == "2"
    ]
    assert shown == [(dash, style.split("stroke:")[1].rstrip(";")) for dash, style in looks]


@pytest.mark.parametrize("count", [1, 5, 19])
def test_the_legend_stays_inside_and_above_the_panels(count):
    drawn = curves_of([f"output_error_{n}" for n in range(count)])
    found = boxes(drawn)
    (title,) = [y for name, *_, y in found if name == "a"]
    named = [box for box in found if box[0].startswith("output_error")]
    assert len(named) == (count if count > 1 else 0)
    for name, _, right, y in named:
        assert right <= svg.WIDTH, name
        assert y <= title - 12, name
    for one, other in itertools.combinations(named, 2):
        assert one[2] <= other[1] or other[2] <= one[1] or one[3] != other[3]
