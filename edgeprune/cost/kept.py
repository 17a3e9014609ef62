"""Prices kept from job to job: they hold until the environment of the device changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edgeprune.errors import DeviceError
from edgeprune.records import Environment, KeptPrices, ProbeCost
from edgeprune.store import cache_folder, keep_text

FORM = 3  # of the measurement: raised when the same layer gives another price
FOLDER = "EDGEPRUNE_PRICES"
Effort = Literal["stairs", "prices"]


def default_folder() -> Path:
    """Return where prices are kept: $EDGEPRUNE_PRICES, else in the user's cache."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER])
    return cache_folder() / "prices"


@dataclass(frozen=True)
class PriceStore:
    """The prices that one device gave in one environment, in a file of `folder`/<device>/.

    A price lies under a hash of what was run: operators, attributes, shapes, widths. The file's
    name is a hash of the facts that must agree (runtime, its version, instruction set, threads),
    the precision and the form of the measurement, so that prices of another environment are never
    found; the file states the environment, and one that was moved is refused.

    Args:
        folder: holds a folder a device.
        device: its name.
        precision: in which layers were run.
        environment: in which they were run.
        warn: told where prices cannot be kept; the job goes on without.
    """

    folder: Path
    device: str
    precision: str
    environment: Environment
    warn: Callable[[str], None] = lambda _: None

    @property
    def path(self) -> Path:
        """The file of this environment."""
        facts = {name: self.environment.facts.get(name) for name in self.environment.comparable}
        text = json.dumps([FORM, self.precision, facts], sort_keys=True)
        name = re.sub(r"[^\w.-]", "_", self.device)
        return self.folder / name / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

    def load(self, effort: Effort) -> dict[str, ProbeCost]:
        """Return hash -> price of what was measured with this effort.

        Raises:
            DeviceError: the file was recorded in another environment; names the differences.
        """
        try:
            kept = KeptPrices.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return {}  # not there, or of another version: measured again
        found = kept.environment.differences(self.environment)
        if found:
            raise DeviceError(
                f"{self.path} was recorded in another environment:\n  - " + "\n  - ".join(found),
                "delete the file, or measure in the environment that it names",
            )
        prices = kept.prices if effort == "prices" else kept.stairs
        # A cost of 0 was edited in, or is below the device's clock: no speed can be told from it.
        return {key: price for key, price in prices.items() if price.cost}

    def save(self, effort: Effort, prices: dict[str, ProbeCost]) -> None:
        """Add `prices` to the file; a hash that is there already gets the new price."""
        stairs, pairs = self.load("stairs"), self.load("prices")
        (pairs if effort == "prices" else stairs).update(prices)
        kept = KeptPrices(
            device=self.device,
            precision=self.precision,
            environment=self.environment,
            stairs=stairs,
            prices=pairs,
        )
        keep_text(self.path, kept.model_dump_json(), FOLDER, self.warn)
