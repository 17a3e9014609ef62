"""A profile as one HTML file that needs no network and no script."""

from __future__ import annotations

from edgeprune.records import Kind, LayerProfile, ModelProfile
from edgeprune.report import charts, figures, summary
from edgeprune.report.html import template
from edgeprune.report.roofline import roofline

MOST_BARS = 32


def render(profile: ModelProfile) -> str:
    """Return the page as the text of an HTML file."""
    from markupsafe import Markup

    layers = sorted(profile.layers, key=lambda layer: -layer.cost)
    bars = charts.bars(
        [
            charts.Pair(
                layer.name,
                charts.Bar(
                    layer.cost, layer.low, layer.high, figures.cost(layer.cost, profile.unit)
                ),
                None,
            )
            for layer in layers[:MOST_BARS]
            if layer.cost > 0
        ],
        title=f"Cost of the layers ({profile.kind})",
    )
    roof = roofline(profile, title="Roofline of the device with the layers below it")
    page = template("profile.html.j2").render(
        p=profile,
        layers=layers,
        whole=summary.profiled_run(profile),
        covered=covered(profile),
        free=free(profile.kind),
        facts=facts(profile),
        bars=Markup(bars) if profile.total else "",
        bars_note=summary.bars_note(layers, profile.kind),
        roofline=Markup(roof),
        rate=rate,
        of_limit=of_limit,
    )
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def covered(profile: ModelProfile) -> str:
    """Return which share of a run belongs to named layers; a run that costs nothing has none."""
    if not profile.total:
        return "no layer costs anything"
    return f"{figures.percent(profile.coverage)} of a run belongs to named layers"


def free(kind: Kind) -> str:
    """Return why layers cost nothing: by formula, or because the runtime has no node for them."""
    return "free by formula" if kind == "estimated" else "removed by the runtime"


def rate(layer: LayerProfile) -> str:
    """Return what a layer achieves: operations a second, or else bytes a second."""
    if layer.flops_per_second:
        return f"{figures.number(layer.flops_per_second / 1e9)} GFLOP/s"
    if layer.bytes_per_second:
        return f"{figures.number(layer.bytes_per_second / 1e9)} GB/s"
    return ""


def of_limit(layer: LayerProfile) -> str:
    """Return the share of what the device's peaks allow, and which of them sets it."""
    if not layer.limit_cost or not layer.cost:
        return ""
    return f"{figures.percent(layer.limit_cost / layer.cost)} of {layer.bound}"


def facts(profile: ModelProfile) -> list[tuple[str, str]]:
    """Return what holds for the whole model, as (name, text)."""
    p = profile
    total = figures.cost_interval(p.total, p.total_low, p.total_high, p.unit, p.kind)
    runs = f"{p.runs} runs in {p.processes} processes" if p.processes > 1 else "one process"
    how = f"; without the profiler, {runs}" if p.kind == "measured" else ""
    against = (
        f", {figures.signed_percent(p.sum_of_layers / p.total - 1)} against the total"
        if p.total
        else ""
    )
    rows = [
        ("total", f"{total}, {p.kind}{how}"),
        ("coverage", covered(p)),
        ("sum of the layers", f"{figures.cost(p.sum_of_layers, p.unit)}{against}"),
        ("parameters", f"{figures.count(p.parameters)} (exact, of the ONNX file)"),
        ("MACs", f"{figures.count(p.macs)} (exact)"),
        ("peak of activations", f"{figures.size(p.peak_activation_bytes)} (exact, from shapes)"),
        ("reported by the runtime", figures.size(p.runtime_peak_bytes)),
        ("file", figures.size(p.file_bytes)),
    ]
    if p.sub_graphs:
        compiled = figures.cost(p.sub_graphs, p.unit)
        rows.insert(3, ("run in one piece", f"{compiled}, not covered"))
    if p.call:
        rest = f"{figures.cost(p.call, p.unit)} for a run without nodes, {p.kind}"
        rows.insert(3, ("into the runtime and out", rest))
    if p.resident_peak_bytes is not None:
        opening = figures.size(p.loading_peak_bytes)
        running = figures.size(p.resident_peak_bytes)
        rows.append(
            ("resident memory", f"{running} more while it runs, {opening} while it is opened")
        )
    if p.load_seconds is not None:
        rows.append(("time to open", f"{1e3 * p.load_seconds:.3g} ms (median)"))
    if p.peaks:
        rows.append(("peaks of the device", _peaks(p)))
    if p.node_overhead:
        rows.append(
            (
                "cost of the profiler",
                f"{figures.cost(p.node_overhead, p.unit)} a node, taken off the layers",
            )
        )
    return rows


def _peaks(profile: ModelProfile) -> str:
    assert profile.peaks is not None
    copies = ", ".join(
        f"{b.bytes_per_second / 1e9:.0f} GB/s within {figures.size(b.working_set_bytes)}"
        for b in profile.peaks.bandwidths
    )
    return f"{profile.peaks.flops_per_second / 1e9:.0f} GFLOP/s; copies {copies} ({profile.kind})"
