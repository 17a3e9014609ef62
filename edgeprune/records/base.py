"""Base of all records, and the kinds and units of figures."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["measured", "emulated", "estimated"]
Unit = Literal["us", "instructions"]
Shape = tuple[int, ...]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN in their JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
