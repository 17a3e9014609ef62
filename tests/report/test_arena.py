import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from edgeprune.records import Lifetime
from edgeprune.report import arena
from edgeprune.report.html import render
from tests import factories

TITLE = "The arena"


def drawn(code, footprint=None):
    """Return the names on hovering and the rectangle (x, y, width, height) of each."""
    root = ET.fromstring(arena.timeline(code, footprint, title=TITLE))
    found = {}
    for group in root.iter("g"):
        rect = group.find("rect").attrib
        found[group.find("title").text] = [float(rect[k]) for k in ("x", "y", "width", "height")]
    return found


def test_a_tensor_covers_its_bytes_in_its_steps():
    shapes = drawn(factories.a_code())
    x, stem, y = (next(v for k, v in shapes.items() if k.startswith(f"{n}: ")) for n in "123")
    assert x[2] * 2 == stem[2] == pytest.approx(y[2] * 2)  # one step, two steps, one step
    assert x[0] == stem[0] < y[0] == pytest.approx(x[0] + x[2])
    assert x[3] / stem[3] == pytest.approx(100 / 60, rel=0.01)
    assert stem[1] + stem[3] == pytest.approx(x[1], abs=0.2)  # it lies on the input
    assert x[1] + x[3] == pytest.approx(y[1] + y[3], abs=0.2)  # both begin at offset 0
    assert "2: stem, bytes 100 to 159, steps 0 to 1" in shapes


def test_the_ram_is_the_sum_of_its_parts():
    code, footprint = factories.a_code(), factories.a_footprint()
    parts = arena.parts(code, footprint)
    assert parts == (
        ("arena", 160),
        ("scratch", 16),
        ("checks", 32),
        ("alignment", 8),
        ("stack", 40),
    )
    assert sum(size for _, size in parts) == footprint.ram_bytes
    shapes = drawn(code, footprint)
    assert {f"{name}: {size} bytes" for name, size in parts} <= set(shapes)
    bar = [shapes[f"{name}: {size} bytes"][3] for name, size in parts]
    assert bar[0] / bar[4] == pytest.approx(160 / 40, rel=0.02)


def test_without_an_emulation_the_stack_is_left_out():
    assert arena.parts(factories.a_code(), None)[-1] == ("checks", 32)


def test_labels_of_the_bar_do_not_touch():
    root = ET.fromstring(arena.timeline(factories.a_code(), factories.a_footprint(), title=TITLE))
    labels = [
        t for t in root.iter("text") if re.match(r"(arena|scratch|checks|alignment|stack) ", t.text)
    ]
    heights = sorted(float(t.attrib["y"]) for t in labels)
    assert len(heights) == 5
    assert min(b - a for a, b in itertools.pairwise(heights)) >= arena.ROW - 0.1


def test_steps_tell_what_is_alive():
    first, second = arena.steps(factories.a_code())
    assert (first.layer, first.alive_bytes, first.scratch_bytes) == ("stem", 160, 0)
    assert (second.layer, second.alive_bytes, second.scratch_bytes) == ("head", 80, 16)


def test_the_bound_is_drawn_and_named():
    root = ET.fromstring(arena.timeline(factories.a_code(), None, title=TITLE))
    assert root.attrib["aria-label"] == TITLE
    (dashed,) = [line for line in root.iter("line") if "stroke-dasharray" in line.attrib]
    (top,) = {v[1] for k, v in drawn(factories.a_code()).items() if k.startswith("2: ")}
    assert float(dashed.attrib["y1"]) == pytest.approx(top, abs=0.2)
    assert "liveness bound 160 B" in [t.text for t in root.iter("text")]


def test_names_are_those_of_the_model_and_escaped():
    life = Lifetime(tensor="a:0_QuantizeLinear_Output + <b>", bytes=4, offset=0, first=0, last=0)
    assert arena.tensor_name(life) == "a + <b>"
    text = arena.timeline(factories.a_code(lifetimes=(life,)), None, title=TITLE)
    assert "<b>" not in text
    assert ET.fromstring(text) is not None


def test_the_report_of_firmware_shows_its_memory_as_a_chart_and_as_tables():
    verdict = factories.a_verdict()
    slim = verdict.slim.model_copy(update={"footprint": factories.a_footprint()})
    firmware = verdict.model_copy(update={"slim": slim})
    page = render(factories.a_document(code=factories.a_code(), verdict=firmware))
    section = page[page.index('<section id="memory">') : page.index('<section id="environment">')]
    assert "The arena, step by step" in section
    assert "256 B of RAM in all" in section
    for row in (("checks", "32"), ("1", "x", "100", "0", "0", "0"), ("1", "head", "Conv", "80")):
        cells = r"</t[hd]>\s*<t[hd][^>]*>".join(map(re.escape, row))
        assert re.search(rf"<t[hd][^>]*>{cells}</t[hd]>", section), row
    assert '<a href="#memory">' in page
    assert 'id="memory"' not in render(factories.a_document())
