"""One run of a model in the Trace Event Format that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.records import ModelProfile

LAYERS, NODES = 1, 2  # rows of the drawing


def require_times(device: str, unit: str) -> None:
    """Raise UsageError if the figures of `device` are counts, which a trace cannot show."""
    if unit != "us":
        raise UsageError(
            f"device {device} yields {unit}: a trace shows times",
            "leave --trace away; the table and --html show counts",
        )


def chrome_trace(profile: ModelProfile) -> str:
    """Return the profiled run of median length as JSON: a row of layers and one of nodes.

    Times are those of the profiled run, in microseconds.

    Raises:
        UsageError: the figures of the device are counts, which a trace would show as time.
    """
    require_times(profile.device, profile.unit)
    layers = {layer.name: layer for layer in profile.layers}
    events = [
        _name("process_name", f"{profile.model} on {profile.device}, {profile.kind}", 0),
        _name("thread_name", "layers", LAYERS),
        _name("thread_name", "nodes of the runtime", NODES),
    ]
    for part in sorted(profile.timeline, key=lambda part: (part.start, -part.duration)):
        event = {"ph": "X", "pid": 1, "ts": part.start, "dur": part.duration}
        operator = {"operator": part.operator}
        events.append({**event, "tid": NODES, "name": part.name, "cat": "node", "args": operator})
        layer = layers.get(part.layer) if part.layer else None
        about: dict[str, Any] = operator
        if layer:
            about = {
                "operator": layer.operator,
                "cost_us": [layer.low, layer.cost, layer.high],
                "macs": layer.macs,
                "input_shape": layer.input_shape,
                "output_shape": layer.output_shape,
            }
        events.append(
            {
                **event,
                "tid": LAYERS,
                "name": layer.name if layer else "change of layout",
                "cat": "layer" if layer else "layout",
                "args": about,
            }
        )
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": profile.environment.facts,
    }
    return json.dumps(document, allow_nan=False)


def _name(kind: str, name: str, row: int) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": row, "name": kind, "args": {"name": name}}
