"""What a verdict says, in rows and sentences shared by screen, page and model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.report import figures

if TYPE_CHECKING:
    from edgeprune.records import (
        Artifact,
        Comparison,
        Environment,
        Gate,
        Kind,
        LayerProfile,
        ModelProfile,
        SkippedGroup,
        Speedup,
        Verdict,
    )

AT_LEAST = (
    "schedule",
    "class_floor",
    "agreement",
    "layers_kept",
)  # gates whose limit is a lower one
COUNTS = {"schedule": "steps", "layers_kept": "layers"}
NAMED = 12  # groups whose widths a screen shows
SHARES = ("accuracy", "class_floor", "agreement")


@dataclass(frozen=True)
class Row:
    """One property of the dense model and of the slim one; `doubt` is an interval or 'exact'."""

    what: str
    dense: str
    slim: str
    change: str
    doubt: str


@dataclass(frozen=True)
class GateRow:
    """A gate as shown; `state` is 'met', 'not met' or 'not measured'."""

    name: str
    state: str
    value: str
    limit: str
    note: str


def compared(verdict: Verdict, precision: str = "") -> tuple[Row, ...]:
    """Return dense against slim: cost, accuracy, parameters, MACs, file, activations, firmware.

    Args:
        verdict: of the job.
        precision: what the costs are of, where it is known: float32 or int8.
    """
    dense, slim, ratio = verdict.dense, verdict.slim, verdict.speedup
    change = figures.span(1 / ratio.high, 1 / ratio.low)
    level = figures.percent(ratio.confidence)
    sure = f"{level} interval of the change {change}, {pairs(verdict)}"
    rows = [
        Row(
            f"cost ({verdict.kind}{f', {precision}' if precision else ''})",
            figures.cost(dense.cost, verdict.unit),
            figures.cost(slim.cost, verdict.unit),
            figures.ratio(1 / ratio.median, 0.01),
            ratio_doubt(verdict) if ratio.low == ratio.high else sure,
        ),
        Row(
            f"{verdict.metric} ({verdict.accuracy_on})",
            f"{dense.accuracy:.4f}",
            f"{slim.accuracy:.4f}",
            f"{slim.accuracy - dense.accuracy:+.4f}",
            accuracy_doubt(verdict),
        ),
    ]
    counted: list[tuple[str, int, int, Callable[[int], str]]] = [
        ("parameters", dense.parameters, slim.parameters, figures.count),
        ("MACs", dense.macs, slim.macs, figures.count),
        ("file", dense.file_bytes, slim.file_bytes, figures.size),
        (
            "peak of activations",
            dense.peak_activation_bytes,
            slim.peak_activation_bytes,
            figures.size,
        ),
    ]
    if dense.footprint and slim.footprint:
        before, after = dense.footprint, slim.footprint
        counted += [
            ("flash of the firmware", before.flash_bytes, after.flash_bytes, figures.size),
            ("RAM of the firmware", before.ram_bytes, after.ram_bytes, figures.size),
        ]
    for what, first, second, text in counted:
        change = figures.ratio(second / first, 0.01) if first else "-"
        rows.append(Row(what, text(first), text(second), change, "exact"))
    return tuple(rows)


def gates(verdict: Verdict) -> tuple[GateRow, ...]:
    """Return every gate of the verdict as shown."""
    return tuple(
        GateRow(
            name=gate_name(gate, verdict),
            state={True: "met", False: "not met", None: "not measured"}[gate.met],
            value="-" if gate.met is None else _gate_value(gate, verdict),
            limit=_gate_limit(gate, verdict),
            note=gate.note,
        )
        for gate in verdict.gates
    )


def gate_name(gate: Gate, verdict: Verdict) -> str:
    """Return the name of a gate in words that its kind of figure allows."""
    if is_ratio(gate):
        return ratio_name(verdict)
    return gate.name.replace("_", " ")


def ratio_name(verdict: Verdict) -> str:
    """Return what the ratio of costs may be called, from the kind of figure and its gate."""
    unmeasured = any(gate.met is None for gate in verdict.gates if is_ratio(gate))
    return figures.ratio_name(verdict.kind, proves=not unmeasured)


def ratio_doubt(verdict: Verdict) -> str:
    """Return how sure the ratio of costs is."""
    ratio = verdict.speedup
    return figures.doubt(ratio.low, ratio.high, ratio.confidence, verdict.kind)


def pairs(verdict: Verdict) -> str:
    """Return how many pairs of runs were compared: '900 pairs'."""
    ratio = verdict.speedup
    return (f"{ratio.pairs} pairs" if ratio.pairs > 1 else "1 pair") + left_out(ratio)


def left_out(ratio: Comparison | Speedup) -> str:
    """Return which processes do not count: ', without 3 disturbed processes', or nothing."""
    count = ratio.disturbed
    return f", without {count} disturbed process{'es' if count > 1 else ''}" if count else ""


def both_costs(verdict: Verdict) -> str:
    """Return what the costs of dense and slim model are, in one sentence."""
    return {
        "measured": "Both costs are medians over the same pairs of runs.",
        "emulated": "Both costs are exact counts of the emulator.",
        "estimated": "Both costs come from the same formula.",
    }[verdict.kind]


def bars_note(layers: Sequence[LayerProfile], kind: Kind) -> str:
    """Return how sure the bars of layers are."""
    if kind == "measured" or any(layer.low < layer.high for layer in layers):
        return "the line across the end of a bar is the 95 % interval of the median"
    return "counts are exact" if kind == "emulated" else "costs are by formula"


def commands(verdict: Verdict) -> tuple[str, ...]:
    """Return the commands that would settle the gates that were not measured."""
    return tuple(gate.command for gate in verdict.gates if gate.met is None and gate.command)


def is_ratio(gate: Gate) -> bool:
    """Whether this is the gate of the speed-up."""
    return gate.name.lower().replace("-", "").replace("_", "") == "speedup"


def _gate_value(gate: Gate, verdict: Verdict) -> str:
    text = _gate_figure(gate, gate.value, verdict)
    if is_ratio(gate):  # an exact ratio has no interval, hence no low end
        return text if verdict.speedup.low == verdict.speedup.high else f"{text}, low end"
    return f"drop {text}" if gate.name == "accuracy" else text


def _gate_limit(gate: Gate, verdict: Verdict) -> str:
    direction = "above" if is_ratio(gate) else "at least" if gate.name in AT_LEAST else "at most"
    return f"{direction} {_gate_figure(gate, gate.limit, verdict)}"


def _gate_figure(gate: Gate, value: float, verdict: Verdict) -> str:
    if is_ratio(gate):  # an exact one as the ratio itself is told, unless its limit is too near
        exact = verdict.speedup.low == verdict.speedup.high
        far = abs(gate.value - gate.limit) >= 0.01
        return figures.ratio(value, 0.0 if exact and far else 0.01)
    if gate.name == "budget":
        return figures.cost(value, verdict.unit)
    if gate.name in ("ram", "flash"):
        return f"{value:,.1f} KiB"
    if gate.name in ("macs", "parameters"):
        return figures.count(round(value))
    if gate.name in COUNTS:
        return f"{value:.0f} {COUNTS[gate.name]}"
    return f"{value:.4f}" if gate.name in SHARES else f"{value:.2g}"


def unmet(verdict: Verdict) -> tuple[str, ...]:
    """Return the names of the gates that were measured and not met."""
    return tuple(gate_name(gate, verdict) for gate in verdict.gates if gate.met is False)


def unknown(verdict: Verdict) -> tuple[str, ...]:
    """Return the names of the gates that could not be measured."""
    return tuple(gate_name(gate, verdict) for gate in verdict.gates if gate.met is None)


def outcome(verdict: Verdict) -> str:
    """Return one sentence: passed, or which gates were not met."""
    failed, unmeasured = unmet(verdict), unknown(verdict)
    if verdict.passed:
        text = f"Passed: every gate {'that was measured ' if unmeasured else ''}is met"
    elif failed:
        text = f"Not passed: {listed(failed)} not met"
    else:
        text = "Not passed"
    return f"{text}; not measured: {listed(unmeasured)}." if unmeasured else f"{text}."


def answer(verdict: Verdict) -> str:
    """Return what became of the model, in one sentence that its kind of figure supports."""
    metric = f"{verdict.accuracy_on} {verdict.metric}"
    return (
        f"{_cost_sentence(verdict)}; {metric} goes from {verdict.dense.accuracy:.4f} "
        f"to {verdict.slim.accuracy:.4f} ({accuracy_doubt(verdict)})."
    )


def accuracy_doubt(verdict: Verdict) -> str:
    """Return how sure the change of accuracy is: its interval, and over how many samples."""
    if verdict.accuracy_drop_interval is None:
        return (
            f"interval of the change not known from so few batches, "
            f"{verdict.accuracy_samples:,} samples"
        )
    low, high = verdict.accuracy_drop_interval
    change = f"{0.0 - high:+.4f} to {0.0 - low:+.4f}"
    return f"95 % interval of the change {change}, {verdict.accuracy_samples:,} samples"


def start_kept(verdict: Verdict, history: Sequence[tuple[int, float, float]]) -> bool:
    """Whether no state of fine-tuning was better than the one before it, which then was kept."""
    return all(metric <= verdict.recalibrated_accuracy for _, _, metric in history)


def fine_tuning(verdict: Verdict, history: Sequence[tuple[int, float, float]]) -> str:
    """Return what fine-tuning did to the metric, in one sentence.

    Args:
        verdict: of the job.
        history: (step, training loss, validation metric), at least one.
    """
    best = f"{max(metric for _, _, metric in history):.4f}"
    before = f"{verdict.recalibrated_accuracy:.4f} before fine-tuning"
    states = (
        f"{before}, the state that was kept, since fine-tuning reached {best} at best"
        if start_kept(verdict, history)
        else f"{before}, {best} in its best state, which was kept"
    )
    return (
        f"{figures.capital(verdict.metric)} on validation data: {states}; the exported file on "
        f"{verdict.accuracy_samples:,} samples of the {verdict.accuracy_on} data: "
        f"{verdict.slim.accuracy:.4f}."
    )


def _cost_sentence(verdict: Verdict) -> str:
    ratio, job, device = verdict.speedup, verdict.job, verdict.device
    how_sure = ratio_doubt(verdict)
    times = f"{ratio.median:.2f}"
    share = figures.percent(1 / ratio.median)
    if verdict.kind == "estimated":
        return (
            f"By a formula and not by measurement, {job} costs {share} of the dense model "
            f"on {device} (estimated ratio {times}, {how_sure})"
        )
    if "speed-up" not in ratio_name(verdict):
        return (
            f"On {device}, whose times mean nothing, {job} takes {share} of the dense model's "
            f"time (ratio {times}, {how_sure})"
        )
    if ratio.low <= 1 <= ratio.high and ratio.low != ratio.high:
        return f"On {device}, no speed-up of {job} is proven (ratio {times}, {how_sure})"
    if ratio.high <= 1:
        return f"On {device}, {job} is no cheaper than the dense model (ratio {times}, {how_sure})"
    if verdict.kind == "emulated":
        return f"On {device}, {job} needs {share} of the dense model's instructions ({how_sure})"
    return f"On {device}, {job} runs {times} times as fast as the dense model ({how_sure})"


def steps(verdict: Verdict) -> tuple[tuple[str, str, str, str, str], ...]:
    """Return the steps of the schedule: number, cost, limit, metric recalibrated and recovered."""
    schedule = verdict.schedule
    if schedule is None or schedule.planned < 2:
        return ()
    return tuple(
        (
            f"{step.number} of {schedule.planned}",
            figures.cost(step.cost, verdict.unit),
            figures.cost(step.limit, verdict.unit),
            f"{step.recalibrated:.4f}",
            f"{step.metric:.4f} after {step.training_steps} steps",
        )
        for step in schedule.steps
    )


def attempts(verdict: Verdict) -> str:
    """Return what became of two attempts, in one sentence; '' where there was only one."""
    other = verdict.other_attempt
    if other is None:
        return ""
    cost = f"{100 * other.share:.1f} % of the budget"
    if other.number == 1:
        return (
            f"This model is that of a second attempt: the first one's cost {cost} in its verdict, "
            "so widths were chosen once more, for a tighter one."
        )
    return (
        "This model is that of the first attempt: it missed the budget, and a second attempt, for "
        f"a tighter one, came to {cost}."
    )


def widths(verdict: Verdict) -> str:
    """Return the groups that were cut, with their widths before and after; '' where none was."""
    changed = [f"{n} {a} -> {b}" for n, (a, b) in verdict.plan.widths.items() if a != b]
    more = len(changed) - NAMED
    return ", ".join(changed[:NAMED]) + (f" and {more} more, all in the report" if more > 0 else "")


def left_alone(groups: Sequence[SkippedGroup]) -> str:
    """Return groups that have no prices, with the reasons; '' where there is none."""
    named = groups[:NAMED]
    reasons = dict.fromkeys(group.reason for group in named)
    texts = [
        f"{', '.join(g.name for g in named if g.reason == reason)}: {reason}" for reason in reasons
    ]
    more = len(groups) - len(named)
    return "; ".join(texts) + (f"; and {more} more, all in the report" if more else "")


def profiled_run(profile: ModelProfile) -> float:
    """Return the cost of the profiled run, of which the layers' costs and `layout` are parts."""
    return max(profile.total, sum(layer.cost for layer in profile.layers) + profile.layout)


def listed(names: tuple[str, ...]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def usage(artifact: Artifact, environment: Environment, model: str) -> str:
    """Return a Python program that runs the shipped file `model` in plain onnxruntime.

    All shipped forms of a model have the inputs and outputs of the `artifact`.
    """
    threads = environment.facts.get("threads", "")
    providers = json.dumps(environment.facts.get("providers", "CPUExecutionProvider").split(","))
    shown = ", ".join(
        f"{tensor.name!r}: np.zeros({tensor.shape!r}, dtype={tensor.dtype!r})"
        for tensor in artifact.inputs
    )
    setting = f"options.intra_op_num_threads = {threads}\n" if threads.isdecimal() else ""
    return (
        "import numpy as np\n"
        "import onnxruntime\n"
        "\n"
        "options = onnxruntime.SessionOptions()\n"
        f"{setting}"
        "session = onnxruntime.InferenceSession(\n"
        f"    {json.dumps(model)}, options, providers={providers}\n"
        ")\n"
        f"inputs = {{{shown}}}\n"
        "outputs = session.run(None, inputs)\n"
        "print([output.shape for output in outputs])"
    )
