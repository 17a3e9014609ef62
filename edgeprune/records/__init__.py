"""The frozen records that cross stages, with units in their field names.

Every record reads and writes JSON (`model_dump_json`, `model_validate_json`) and refuses unknown
fields. Three kinds of figure never mix: *measured* (on a device, in time), *emulated* (exact counts
of an emulator) and *estimated* (from a formula).
"""

from __future__ import annotations

from edgeprune.records.base import Kind, Record, Shape, Unit
from edgeprune.records.device import (
    Bandwidth,
    Comparison,
    Environment,
    LayerDifference,
    LayerProfile,
    ModelProfile,
    Peaks,
    ProfileDifference,
    Samples,
    Slice,
)
from edgeprune.records.firmware import (
    CSource,
    LayerFunction,
    Lifetime,
    QuantizedTensor,
    Target,
)
from edgeprune.records.footprint import Footprint
from edgeprune.records.plan import (
    ChannelGroup,
    CostTable,
    GroupList,
    PlannedGroup,
    Price,
    PricedLayer,
    Recovered,
    ResourceUse,
    Round,
    Sensitivity,
    SensitivityCurve,
    Shrunk,
    SkippedGroup,
    WidthPlan,
)
from edgeprune.records.spec import (
    Adb,
    DeviceSpec,
    Microcontroller,
    Remote,
    Roofline,
    Simulation,
    Ssh,
)
from edgeprune.records.trials import Trial, Trials
from edgeprune.records.verdict import (
    Artifact,
    Budget,
    Figures,
    FirmwareParity,
    Gate,
    Parity,
    PlanSummary,
    Prediction,
    Speedup,
    TensorInfo,
    Verdict,
    Verification,
)
from edgeprune.records.views import ScoreSpread, Views, WeightPattern

__all__ = [
    "Adb",
    "Artifact",
    "Bandwidth",
    "Budget",
    "CSource",
    "ChannelGroup",
    "Comparison",
    "CostTable",
    "DeviceSpec",
    "Environment",
    "Figures",
    "FirmwareParity",
    "Footprint",
    "Gate",
    "GroupList",
    "Kind",
    "LayerDifference",
    "LayerFunction",
    "LayerProfile",
    "Lifetime",
    "Microcontroller",
    "ModelProfile",
    "Parity",
    "Peaks",
    "PlanSummary",
    "PlannedGroup",
    "Prediction",
    "Price",
    "PricedLayer",
    "ProfileDifference",
    "QuantizedTensor",
    "Record",
    "Recovered",
    "Remote",
    "ResourceUse",
    "Roofline",
    "Round",
    "Samples",
    "ScoreSpread",
    "Sensitivity",
    "SensitivityCurve",
    "Shape",
    "Shrunk",
    "Simulation",
    "SkippedGroup",
    "Slice",
    "Speedup",
    "Ssh",
    "Target",
    "TensorInfo",
    "Trial",
    "Trials",
    "Unit",
    "Verdict",
    "Verification",
    "Views",
    "WeightPattern",
    "WidthPlan",
]
