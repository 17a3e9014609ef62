"""Base of all records, and the kinds and units of figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["measured", "emulated", "estimated"]
Unit = Literal["us", "instructions"]
Shape = tuple[int, ...]
# Others come from no device but from files that were edited. A layer may be free, a model is not.
Cost = Annotated[float, Field(ge=0.0, le=1e15)]
Whole = Annotated[float, Field(gt=0.0)]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN in their JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
