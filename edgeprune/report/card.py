"""The model card: README.md with YAML front matter."""

from __future__ import annotations

import re

from edgeprune.report.html import ReportData, fill

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def card(document: ReportData) -> str:
    """Return the model card as Markdown.

    Texts in the front matter are written as JSON strings, which YAML reads; a licence that is not
    an identifier becomes `other` with a name.
    """
    licence = document.licence
    known = licence if licence and IDENTIFIER.fullmatch(licence) else None
    return fill("card.md.j2", document, licence=known.lower() if known else None)
