"""Pure functions from raw samples to figures with their doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]
Processes = Sequence[Sequence[float] | Floats]
BATCH = 5  # values a batch of the rule that ends the warm-up
DRAWN = 2_000_000  # values held at once while resampling


def floor_of(values: Sequence[float], share: float = 0.1) -> float:
    """Return the mean of the smallest `share` of the values (at least two of them).

    Noise of a machine only ever adds time, so the smallest values are the price; a mean of several
    rather than the minimum, since a profiler that counts whole microseconds would bias the latter.
    """
    if not values:
        raise ValueError("no values")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[: max(2, round(share * len(ordered)))].mean())


def process_interval(
    processes: Processes, *, confidence: float = 0.95, seed: int = 0, resamples: int = 1000
) -> Interval:
    """Return (centre, low, high) of a positive figure from several fresh processes.

    Values of one process are not independent of each other, so a process counts as one observation:
    the median of its values. The centre is the geometric mean of these medians, and the interval is
    Student's for the mean of their logarithms (Georges, Buytaert and Eeckhout 2007, section 3.2, on
    logarithms because costs and ratios are positive and multiply). With six processes a percentile
    bootstrap calls two to three times as many differences as it should; this one does not
    (docs/measuring.md). One process alone only tells how its own values scatter: `median_interval`.

    Raises:
        ValueError: no values, or one that is not above 0.
    """
    arrays = _arrays(processes)
    if any((array <= 0).any() for array in arrays):
        raise ValueError("costs must be above 0")
    if len(arrays) == 1:
        return median_interval(arrays, confidence=confidence, seed=seed, resamples=resamples)
    logs = np.log([float(np.median(array)) for array in arrays])
    centre, spread = float(logs.mean()), float(logs.std(ddof=1))
    half = student_quantile(confidence, len(logs) - 1) * spread / math.sqrt(len(logs))
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def median_interval(
    processes: Processes, *, confidence: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Interval:
    """Return (median, low, high) of all values by a cluster bootstrap over processes.

    A process's tight spread says nothing about the next process, so whole processes are drawn first
    and values within them second (Davison and Hinkley 1997, section 3.8). The interval holds
    `confidence` of the bootstrap medians. With one process the values alone are drawn. Fewer than
    about 16 processes make this interval too narrow: see `process_interval`.
    """
    arrays = _arrays(processes)
    lengths = np.array([len(array) for array in arrays])
    padded = np.full((len(arrays), lengths.max()), np.nan)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = np.sort(array)
    random = np.random.default_rng(seed)
    medians = np.empty(resamples)
    rows = max(1, DRAWN // padded.size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        chosen = random.integers(0, len(arrays), (count, len(arrays)))
        places = random.integers(0, lengths[chosen][..., None], (count, *padded.shape))
        drawn = padded[chosen[..., None], places]
        drawn[np.arange(padded.shape[1]) >= lengths[chosen][..., None]] = np.nan
        flat = drawn.reshape(count, -1)
        equal = lengths.min() == lengths.max()
        medians[start : start + count] = (np.median if equal else np.nanmedian)(flat, axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    median = float(np.median(np.concatenate(arrays)))
    return median, min(float(low), median), max(float(high), median)


@lru_cache(maxsize=256)
def student_quantile(confidence: float, freedom: int) -> float:
    """Return t such that Student's distribution holds `confidence` between -t and t.

    By bisection of the finite series for whole degrees of freedom (Abramowitz and Stegun 1964,
    26.7.3 and 26.7.4).

    Raises:
        ValueError: confidence not between 0 and 1, or no degree of freedom.
    """
    if not 0 < confidence < 1 or freedom < 1:
        raise ValueError(f"no quantile for {confidence} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return the share of Student's distribution between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for k in range(1, (freedom - odd) // 2 + 1):
        total += term
        term *= cosine * cosine * (2 * k - 1 + odd) / (2 * k + odd)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def settled_from(values: Sequence[float]) -> int:
    """Return how many of the first values are warm-up.

    MSER-5 (White 1997, Simulation 69; in batches of five, Spratt 1998): leave out as many batches
    as make the mean of the rest most certain, at most half of them; batches are medians here, since
    single runs are disturbed by other programs.
    """
    batches = len(values) // BATCH
    if batches < 4:
        return 0
    array = np.asarray(values[: batches * BATCH], dtype=np.float64).reshape(batches, BATCH)
    medians = np.median(array, axis=1)
    doubts = [medians[cut:].var() / (batches - cut) for cut in range(batches // 2 + 1)]
    return BATCH * int(np.argmin(doubts))


def unrounded(values: Sequence[float], step: float = 1.0) -> Floats:
    """Return values that a coarse clock rounded to multiples of `step`, spread evenly over it.

    Without this, all medians of a short node are the same whole number and seem to be certain. The
    median of the result is that for grouped data; values that are not rounded stay as they are.
    """
    array = np.asarray(values, dtype=np.float64)
    if np.any(array != np.round(array / step) * step):
        return array
    spread_out = array.copy()
    for value in np.unique(array):
        equal = np.flatnonzero(array == value)
        spread_out[equal] += step * ((np.arange(len(equal)) + 0.5) / len(equal) - 0.5)
    return spread_out


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


def alternating_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return first / second where the order within the pair changes from round to round.

    The run that follows one of the same model finds its data in the caches, so ratios have two
    modes, some per cent on either side of the truth, and the median of them all falls into the one
    that happens to have a value more. So the median is taken of the rounds of each order, and of
    the two the geometric mean. A single round is its own ratio.

    Raises:
        ValueError: no values, different lengths, or a value that is not above 0.
    """
    logs = np.log(paired_ratios(first, second))
    orders = [logs[start::2] for start in (0, 1) if len(logs) > start]
    if not orders:
        raise ValueError("no values")
    return math.exp(float(np.mean([np.median(order) for order in orders])))


class QuietPairs(NamedTuple):
    """Cost of one model over another's in quiet rounds, and both costs there."""

    ratio: float
    first: float
    second: float


def quiet_ratio(first: Sequence[float], second: Sequence[float], share: float = 0.25) -> QuietPairs:
    """Return first / second, and both costs, in the quietest `share` of the rounds of each order.

    As `alternating_ratio`, but of the rounds in which both together cost least, each relatively to
    its own least: what else runs on the machine, or beside a virtual one, slows one model more than
    the other, and comes and goes within a process. Which rounds count depends on their sum, not on
    their ratio, and at least two of each order do.

    Raises:
        ValueError: no values, different lengths, or a value that is not above 0.
    """
    logs = np.log(paired_ratios(first, second))
    if not len(logs):
        raise ValueError("no values")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    load = np.log(a / a.min()) + np.log(b / b.min())
    ratios, chosen = [], []
    for start in (0, 1):
        rounds = np.arange(start, len(logs), 2)
        if len(rounds):
            quiet = rounds[np.argsort(load[rounds])[: max(2, round(share * len(rounds)))]]
            ratios.append(float(np.median(logs[quiet])))
            chosen.append(quiet)
    taken = np.concatenate(chosen)
    ratio = math.exp(float(np.mean(ratios)))
    return QuietPairs(ratio, float(np.median(a[taken])), float(np.median(b[taken])))


def relative_half_width(interval: Interval) -> float:
    """Return half the interval's width over its median; 0 where there is no width at all."""
    median, low, high = interval
    return _over((high - low) / 2, median)


def drift(values: Sequence[float] | Floats) -> float:
    """Return by how much the second half of the values costs more than the first, relatively."""
    half = len(values) // 2
    if not half:
        return 0.0
    first, second = np.median(values[:half]), np.median(values[len(values) - half :])
    return _over(float(second - first), float(first))


def spread(processes: Processes) -> float:
    """Return by how much the slowest process's median lies above the fastest's, relatively."""
    medians = [float(np.median(array)) for array in _arrays(processes)]
    return _over(max(medians) - min(medians), min(medians))


def _over(difference: float, reference: float) -> float:
    """Return `difference` over `reference`; a formula may say that a model costs 0."""
    if not reference:
        return 0.0 if not difference else math.copysign(math.inf, difference)
    return difference / reference


def _arrays(processes: Processes) -> list[Floats]:
    arrays = [np.asarray(process, dtype=np.float64) for process in processes if len(process)]
    if not arrays:
        raise ValueError("no values")
    return arrays
