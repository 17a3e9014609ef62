"""The Trace Event Format as far as `profile --trace` uses it, checked strictly.

Source: "Trace Event Format" (Duca, Sinclair), the sections on the JSON object format, complete
events ("X") and metadata events ("M"); timestamps and durations are microseconds.
"""

from __future__ import annotations

from typing import Any

COMPLETE = {"ph", "pid", "tid", "ts", "dur", "name", "cat", "args"}
METADATA = {"ph", "pid", "tid", "name", "args"}


def check_trace(document: dict[str, Any]) -> None:
    """Fail where the document is not what Perfetto and chrome://tracing read without loss."""
    assert document.keys() == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    events = document["traceEvents"]
    phases = [event["ph"] for event in events]
    assert phases == sorted(phases, key=["M", "X"].index)  # rows are named before they are used
    metadata = [event for event in events if event["ph"] == "M"]
    slices = [event for event in events if event["ph"] == "X"]
    assert slices
    for event in events:
        assert event.keys() == (METADATA if event["ph"] == "M" else COMPLETE)
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["args"], dict)
    for event in metadata:
        assert event["name"] in ("process_name", "thread_name")
        assert event["args"].keys() == {"name"}
    for kind, keys in (("process_name", ("pid",)), ("thread_name", ("pid", "tid"))):
        named = [tuple(e[key] for key in keys) for e in metadata if e["name"] == kind]
        assert len(named) == len(set(named))
        assert {tuple(event[key] for key in keys) for event in slices} <= set(named)
    for event in slices:
        assert isinstance(event["ts"], int | float)
        assert isinstance(event["dur"], int | float)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
    starts = [event["ts"] for event in slices]
    assert starts == sorted(starts)
    for row in {(event["pid"], event["tid"]) for event in slices}:
        _nested([event for event in slices if (event["pid"], event["tid"]) == row])


def _nested(slices: list[dict[str, Any]]) -> None:
    """Slices of one row may lie in one another or apart, but never overlap in part."""
    open_until: list[float] = []
    for event in slices:
        while open_until and open_until[-1] <= event["ts"]:
            open_until.pop()
        end = event["ts"] + event["dur"]
        assert not open_until or end <= open_until[-1] + 1e-6, event
        open_until.append(end)
