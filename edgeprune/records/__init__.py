"""The frozen records that cross stages, with units in their field names.

Every record reads and writes JSON (`model_dump_json`, `model_validate_json`) and refuses unknown
fields. Three kinds of figure never mix: *measured* (on a device, in time), *emulated* (exact counts
of an emulator) and *estimated* (from a formula).
"""

from __future__ import annotations

from edgeprune.records.base import Kind, Record, Shape, Unit
from edgeprune.records.device import (
    Comparison,
    Environment,
    LayerProfile,
    ModelProfile,
    Samples,
)
from edgeprune.records.plan import (
    ChannelGroup,
    CostTable,
    GroupList,
    PlannedGroup,
    Price,
    PricedLayer,
    Recovered,
    Round,
    Sensitivity,
    SensitivityCurve,
    Shrunk,
    SkippedGroup,
    WidthPlan,
)
from edgeprune.records.spec import DeviceSpec, Roofline, Simulation
from edgeprune.records.verdict import (
    Artifact,
    Budget,
    Figures,
    Gate,
    Parity,
    PlanSummary,
    Prediction,
    Speedup,
    TensorInfo,
    Verdict,
    Verification,
)

__all__ = [
    "Artifact",
    "Budget",
    "ChannelGroup",
    "Comparison",
    "CostTable",
    "DeviceSpec",
    "Environment",
    "Figures",
    "Gate",
    "GroupList",
    "Kind",
    "LayerProfile",
    "ModelProfile",
    "Parity",
    "PlanSummary",
    "PlannedGroup",
    "Prediction",
    "Price",
    "PricedLayer",
    "Record",
    "Recovered",
    "Roofline",
    "Round",
    "Samples",
    "Sensitivity",
    "SensitivityCurve",
    "Shape",
    "Shrunk",
    "Simulation",
    "SkippedGroup",
    "Speedup",
    "TensorInfo",
    "Unit",
    "Verdict",
    "Verification",
    "WidthPlan",
]
