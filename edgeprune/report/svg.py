"""Elements of charts as SVG text, in the colours of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape, quoteattr

Scale = Callable[[float], float]
WIDTH = 680
FONT = 12
CHARACTER = 7.2
DENSE, SLIM, LIMIT = (
    "var(--chart-dense,currentColor)",
    "var(--chart-slim,currentColor)",
    "var(--chart-limit,currentColor)",
)
GRID, TRACK = "var(--chart-grid,currentColor)", "var(--chart-track,none)"
TEXT, PAGE = "currentColor", "var(--page,none)"
DASHES = ("", "5 3", "1.5 3", "8 3 2 3", "14 4", "2 7", "8 3 2 3 2 3", "6 9")


def chart(title: str, height: float, parts: Sequence[str]) -> str:
    """Return one `<svg>` element that names itself."""
    title = printable(title)
    name = quoteattr(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label={name} font-size="{FONT}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def text(
    x: float, y: float, text: str, anchor: str = "start", *, bold: bool = False, full: str = ""
) -> str:
    """Return a text; `full` is shown on hovering where it is shortened."""
    weight = ' font-weight="600"' if bold else ""
    hover = f"<title>{escape(printable(full))}</title>" if full and full != text else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} style="fill:{TEXT}">'
        f"{hover}{escape(printable(text))}</text>"
    )


def label(x: float, y: float, name: str, room: float) -> str:
    """Return a text that ends at `x`, shortened to the `room` it has."""
    return text(x, y, shortened(name, room), "end", full=name)


def rect(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    """Return a rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'style="fill:{fill};stroke:{stroke}"/>'
    )


def hinted(drawn: str, hint: str) -> str:
    """Return elements as a group that names itself on hovering and to screen readers."""
    return f"<g><title>{escape(printable(hint))}</title>{drawn}</g>"


def line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, thick: float = 1, dash: str = ""
) -> str:
    """Return a straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke-width="{thick}"{dashes} style="stroke:{colour}"/>'
    )


def path(points: Sequence[tuple[float, float]], colour: str, dash: str = "") -> str:
    """Return a line through points."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{joined}" stroke-width="2" stroke-linejoin="round"{dashes} '
        f'style="fill:none;stroke:{colour}"/>'
    )


def label_width(labels: Sequence[str]) -> float:
    """Return the room that labels take, in the units of the chart."""
    return min(220.0, 16 + CHARACTER * max(map(len, labels), default=0))


def shortened(text: str, room: float) -> str:
    """Return `text`, with its middle left out where it is wider than `room`."""
    most = max(8, int(room / CHARACTER))
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 1]}…{text[len(text) - (most - most // 2) :]}"


def centre(x: float, text: str) -> float:
    """Return where the middle of a text at `x` has to be so that it stays within the chart."""
    half = CHARACTER * len(text) / 2
    return max(4 + half, min(x, WIDTH - 4 - half))


def printable(text: str) -> str:
    """Return `text` without what XML does not allow."""
    return "".join(c if c.isprintable() else "?" for c in text)


def circle(x: float, y: float, radius: float, colour: str, hint: str) -> str:
    """Return a translucent circle that names itself on hovering."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill-opacity="0.45" '
        f'style="fill:{colour};stroke:{colour}"><title>{escape(printable(hint))}</title></circle>'
    )


def cell(
    x: float, y: float, width: float, height: float, fill: str, opacity: float, hint: str = ""
) -> str:
    """Return a rectangle of a heat map, thin gaps around it, that names itself on hovering."""
    hover = f"<title>{escape(printable(hint))}</title>" if hint else ""
    return (
        f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(0.5, width - 1):.1f}" '
        f'height="{height:.1f}" fill-opacity="{opacity:.2f}" style="fill:{fill}">{hover}</rect>'
    )


def frame(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return the outline of a rectangle."""
    return (
        f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(0.5, width - 1):.1f}" '
        f'height="{height:.1f}" stroke-width="1.6" style="fill:none;stroke:{colour}"/>'
    )


def disc(x: float, y: float, radius: float, colour: str, *, hollow: bool = False) -> str:
    """Return a small mark: filled, or hollow on the colour of the page."""
    fill = PAGE if hollow else colour
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" stroke-width="1.6" '
        f'style="fill:{fill};stroke:{colour}"/>'
    )


def squares(cells: Sequence[tuple[float, float, float, float]], colour: str, opacity: float) -> str:
    """Return many rectangles (x, y, width, height) of one shade as a single path."""
    joined = "".join(f"M{x:.2f} {y:.2f}h{w:.2f}v{h:.2f}h-{w:.2f}z" for x, y, w, h in cells)
    return f'<path d="{joined}" fill-opacity="{opacity:.2f}" style="fill:{colour}"/>'


def mark(form: int, x: float, y: float, colour: str, hint: str) -> str:
    """Return a small mark that names itself: disc, square, triangle, diamond, ring by turns."""
    hover = f"<title>{escape(printable(hint))}</title>"
    corners = {
        1: ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        2: ((0, -5), (5, 4), (-5, 4)),
        3: ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }.get(form % 5)
    if corners is None:
        fill = PAGE if form % 5 == 4 else colour
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke-width="1.6" '
            f'style="fill:{fill};stroke:{colour}">{hover}</circle>'
        )
    joined = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{joined}" style="fill:{colour}">{hover}</polygon>'


def arrow(x: float, y: float, colour: str, *, back: bool = False) -> str:
    """Return the head of an arrow that points to (x, y) from the left, or from the right."""
    away = 6 if back else -6
    return (
        f'<polygon points="{x:.1f},{y:.1f} {x + away:.1f},{y - 4:.1f} {x + away:.1f},{y + 4:.1f}" '
        f'style="fill:{colour}"/>'
    )
