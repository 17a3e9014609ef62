"""edgeprune: make a PyTorch model meet a budget on a device, and prove it there.

import edgeprune

data = edgeprune.Data(example_inputs, train, calibration, validation)
result = edgeprune.slim(model, data, device="mobile_cpu", latency="50%")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.data import Data
    from edgeprune.errors import EdgepruneError
    from edgeprune.library import slim
    from edgeprune.pipeline import Result
    from edgeprune.records import Verdict, WidthPlan

__all__ = ["Data", "EdgepruneError", "Result", "Verdict", "WidthPlan", "slim"]

_HOMES = {
    "Data": "data",
    "EdgepruneError": "errors",
    "Result": "pipeline",
    "Verdict": "records",
    "WidthPlan": "records",
    "slim": "library",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds."""
    if name == "__version__":
        from importlib.metadata import version

        return version("edgeprune")
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"edgeprune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
