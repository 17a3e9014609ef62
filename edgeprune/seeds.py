"""The seeds that every generator of random numbers used here takes."""

from __future__ import annotations

SEEDS = 2**31  # they are at least 0 and below this: numpy, torch and random agree on these
