"""Budgets as asked for: "50%", "2x", "0.8ms", "1.2Minsn"."""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeprune.errors import UsageError

BUDGET = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%|x|us|ms|s|insn|kinsn|Minsn|Ginsn)\s*")
AMOUNT = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%|x|k|M|G|)\s*")
AMOUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
FACTORS = {"us": 1.0, "ms": 1e3, "s": 1e6, "insn": 1.0, "kinsn": 1e3, "Minsn": 1e6, "Ginsn": 1e9}

ROUNDING = 1e-9  # share: the same sums in another order are the same cost


def keeps_to(value: float, limit: float) -> bool:
    """Return whether `value` keeps to `limit`, but for rounding: what is meant wherever limits are.

    The closed loop, the gates of the verdict and comparisons ask this function. Searches that look
    for plans on the way may be stricter.
    """
    return value <= limit * (1 + ROUNDING)


class BudgetRequest(BaseModel):
    """A budget as asked: `share` of the dense cost, or `absolute` in `unit`."""

    model_config = ConfigDict(frozen=True)
    text: str
    share: float | None = None
    absolute: float | None = None
    unit: Literal["us", "instructions"] | None = None

    def limit(self, dense_cost: float, unit: str) -> float:
        """Return the limit in the device's unit.

        Raises:
            UsageError: the budget is in another unit than the device's.
        """
        if self.share is not None:
            return self.share * dense_cost
        if self.unit != unit or self.absolute is None:
            raise UsageError(
                f"budget {self.text!r}: this device's unit is {unit}",
                'give a share such as "50%" or "2x", or a figure in the unit of the device',
            )
        return self.absolute


def parse_budget(text: str) -> BudgetRequest:
    """Return the budget that `text` asks for: "50%", "2x", "0.8ms", "1.2Minsn".

    Raises:
        UsageError: not a budget, or a share outside (0, 100] % or (1, ...) x.
    """
    form = 'a budget is a share ("50%", "2x") or a figure ("0.8ms", "900us", "1.2Minsn")'
    match = BUDGET.fullmatch(text)
    if match is None:
        raise UsageError(f"budget {text!r} cannot be read", form)
    value, unit = float(match[1]), match[2]
    if not math.isfinite(value * FACTORS.get(unit, 1.0)):
        raise UsageError(f"budget {text!r} is too large a number", form)
    if unit == "%":
        if not 0 < value <= 100:
            raise UsageError(f"budget {text!r} is not between 0 % and 100 %", form)
        return BudgetRequest(text=text.strip(), share=value / 100)
    if unit == "x":
        if value < 1:
            raise UsageError(f"budget {text!r} asks for a slower model than the dense one", form)
        if 1 / value == 0:
            raise UsageError(f"budget {text!r} is too large a number", form)
        return BudgetRequest(text=text.strip(), share=1 / value)
    if value <= 0:
        raise UsageError(f"budget {text!r} is not above 0", form)
    kind: Literal["us", "instructions"] = "instructions" if unit.endswith("insn") else "us"
    return BudgetRequest(text=text.strip(), absolute=value * FACTORS[unit], unit=kind)


def same_budget(one: BudgetRequest, other: BudgetRequest) -> bool:
    """Return whether two budgets are the same, whatever the words: "50%" and "2x"."""
    if one.share is not None and other.share is not None:
        return math.isclose(one.share, other.share)
    if one.absolute is None or other.absolute is None:
        return False  # a share and a figure: only the dense cost tells
    return one.unit == other.unit and math.isclose(one.absolute, other.absolute)


def parse_amount(text: str) -> BudgetRequest:
    """Return the limit of a count that `text` asks for: "50%", "2x", "12M", "350k", "120000".

    Raises:
        UsageError: not such a limit, or a share outside (0, 100] % or (1, ...) x.
    """
    match = AMOUNT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} cannot be read", 'a share ("50%", "2x") or a count ("12M", "350k", 120000)'
        )
    if match[2] in ("%", "x"):
        return parse_budget(text)
    value = float(match[1]) * AMOUNTS[match[2]]
    if not 0 < value < math.inf:
        raise UsageError(f"{text!r} is not a count above 0")
    return BudgetRequest(text=text.strip(), absolute=value)
