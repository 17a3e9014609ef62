"""Foreign texts in Markdown: nothing in them is markup, and what is none stays readable."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from edgeprune.family import Family, page
from edgeprune.pipeline import Result
from edgeprune.report.card import card
from edgeprune.report.markdown import cell
from tests import factories


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a*b*c", r"a\*b\*c"),
        ("**bold**", r"\*\*bold\*\*"),
        ("__init__", r"\_\_init\_\_"),
        ("refit_error of stage_1", "refit_error of stage_1"),
        ("3 * 4", "3 * 4"),
        ("`rm`", r"\`rm\`"),
        (r"a\*b", r"a\\\*b"),
        (r"C:\data", r"C:\data"),
        ("[here](http://x)", r"\[here](http://x)"),
        ("0.9 [0.8, 1.0]", "0.9 [0.8, 1.0]"),
        ("<b>", "&lt;b>"),
        ("a < b", "a < b"),
        ("a|b", "a/b"),
    ],
)
def test_what_would_be_markup_is_told_as_it_is(text: str, safe: str) -> None:
    assert cell(text) == safe


def test_the_index_of_a_family_escapes_as_the_card_does() -> None:
    name, device, metric = "a|b*c*_d_<b>`e`", "chip|`x`*y*", "top|1_<i>*m*"
    verdict = factories.a_failure(job=name, device=device, metric=metric)

    member = Result(
        nn.Identity(), factories.an_artifact(), verdict, factories.a_plan(), Path("out/50%")
    )
    index = page(Family((member, member)))
    title, *lines = index.splitlines()
    assert title == f"# {cell(name)} on `` {device} ``"
    assert f"{cell(metric)} {verdict.dense.accuracy:.4f}" in lines[1]
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert f"| {cell(metric)} |" in table[0]
    shown = card(factories.a_document(verdict=verdict, title=name))
    assert f"\n# {cell(name)}\n" in shown
    assert f"`` {device} ``" in shown
