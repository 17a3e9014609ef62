"""Pure functions from raw samples to figures with their doubt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]


def floor_of(values: Sequence[float], share: float = 0.1) -> float:
    """Return the mean of the smallest `share` of the values (at least two of them).

    Noise of a machine only ever adds time, so the smallest values are the price; a mean of several
    rather than the minimum, since a profiler that counts whole microseconds would bias the latter.
    """
    if not values:
        raise ValueError("no values")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[: max(2, round(share * len(ordered)))].mean())


def median_interval(
    processes: Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Return (median, low, high) of all values by a cluster bootstrap over processes.

    A process's tight spread says nothing about the next process, so whole processes are drawn first
    and values within them second (Davison and Hinkley 1997, section 3.8). The interval holds
    `confidence` of the bootstrap medians. With one process the values alone are drawn.
    """
    arrays = [np.sort(np.asarray(p, dtype=np.float64)) for p in processes if len(p)]
    if not arrays:
        raise ValueError("no values")
    random = np.random.default_rng(seed)
    medians = np.empty(resamples)
    for index in range(resamples):
        chosen = random.integers(0, len(arrays), len(arrays))
        drawn = [arrays[k][random.integers(0, len(arrays[k]), len(arrays[k]))] for k in chosen]
        medians[index] = np.median(np.concatenate(drawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    median = float(np.median(np.concatenate(arrays)))
    return median, min(float(low), median), max(float(high), median)


def paired_ratios(first: Sequence[float], second: Sequence[float]) -> Floats:
    """Return first[i] / second[i] for values taken in the same round.

    Raises:
        ValueError: different lengths, or a value that is not above 0.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values cannot be paired with {len(b)}")
    if (a <= 0).any() or (b <= 0).any():
        raise ValueError("costs must be above 0")
    ratios: Floats = a / b
    return ratios


def relative_half_width(interval: Interval) -> float:
    """Return half the interval's width over its median."""
    median, low, high = interval
    return (high - low) / 2 / median
