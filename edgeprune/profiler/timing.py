"""Costs of whole models, and of one model against another, from several fresh processes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices.protocol import Answer, Device, Request, file_of
from edgeprune.errors import DeviceError, UnstableError, UnsupportedModelError
from edgeprune.profiler.stats import (
    Interval,
    QuietPairs,
    alternating_ratio,
    floor_of,
    process_interval,
    quiet_ratio,
    relative_half_width,
)
from edgeprune.records import Comparison, Environment, Samples

FEWEST = 8  # processes in a comparison
LOOKS = 0.7  # of the error allowed: who looks after each process stops where values lie close
QUIET, LEVEL = 4, 1.06  # fewest quiet processes; cost over the least that disturbed ones exceed
PATIENCE = 4  # times the seconds allowed, where too little of them was quiet
OPENINGS = 3  # of the sessions in one process
OPENING_US = 150_000.0  # of pairs, each time the sessions are opened
Note = Callable[[str], None]
Pairs = tuple[tuple[float, ...], tuple[float, ...]]  # costs of both models in one process


def sample(
    device: Device, path: Path, *, processes: int = 3, rounds: int = 100, seed: int = 0
) -> tuple[Samples, Environment]:
    """Return the cost of whole runs of the model at `path`, in the device's unit."""
    if device.spec.exact:
        processes, rounds = 1, 1
    values, warmup, environment = [], 0, None
    for index in range(processes):
        request = Request(
            task="time", models=(file_of("model", path),), rounds=rounds, seed=seed + index
        )
        answer = device.ask(request)
        environment = _same(environment, answer)
        values.append(answer.models[0].values)
        warmup = max(warmup, answer.models[0].warmup)
    assert environment is not None
    samples = Samples(
        name=path.name,
        unit=device.spec.unit,
        processes=tuple(values),
        warmup=warmup,
        stopped="fixed",
    )
    return samples, environment


def compare(
    device: Device,
    first: Path,
    second: Path,
    *,
    half_width: float = 0.005,
    seconds: float = 30.0,
    settle: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
    note: Note = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Comparison, Environment]:
    """Compare the cost of two models in interleaved pairs: first / second.

    Fresh processes are added until the interval's relative half width is at most `half_width` or
    `seconds` have passed on `clock`. Each opens the sessions several times for a short while: where
    memory lies moves the ratio more than the noise of the runs does. Of a process all pairs count,
    or none: those in which the first model costs over 6 % more than at best do not, where eight
    others are left (`_undisturbed`). The interval is Student's over
    the processes' ratios (`alternating_ratio`), for 0.7 of the error that `confidence` allows:
    looking after each process whether it is narrow enough makes up to 6.6 % errors of 5 %
    (docs/measuring.md).

    Raises:
        UnstableError: time is up and the half width is still above `settle`.
        DeviceError: the device fails or changes while it is measured.
    """
    if device.spec.exact:
        return _compare_exactly(device, first, second, confidence, seed)
    if device.spec.functional_only:  # there is nothing to settle
        seconds, settle = 0.0, math.inf
    started = clock()
    seen: list[Pairs] = []
    counted: list[Pairs] = []
    interval, stopped = (1.0, 0.0, 2.0), "time"
    for a, b, environment in _pairs(device, first, second, seed):  # noqa: B007
        seen.append((a, b))
        counted = _undisturbed(seen)
        interval = _interval(counted, confidence, seed)
        doubt = 100 * relative_half_width(interval)
        pairs = sum(len(a) for a, _ in counted)
        note(f"{pairs} pairs, ratio {interval[0]:.3f} ± {doubt:.1f} %")
        if len(counted) >= FEWEST and relative_half_width(interval) <= half_width:
            stopped = "enough"
            break
        if len(seen) >= FEWEST and clock() - started >= seconds:
            break
    _require_settled(device, interval, settle, clock() - started)
    flat_first = [v for process, _ in counted for v in process]
    flat_second = [v for _, process in counted for v in process]
    comparison = Comparison(
        median=interval[0],
        low=interval[1],
        high=interval[2],
        confidence=confidence,
        pairs=len(flat_first),
        processes=len(counted),
        disturbed=len(seen) - len(counted),
        first_cost=_middle(tuple(flat_first)),
        second_cost=_middle(tuple(flat_second)),
        minimum_ratio=floor_of(flat_first) / floor_of(flat_second),
        stopped="enough" if stopped == "enough" else "time",
    )
    return comparison, environment


@dataclass(frozen=True)
class QuietRatio:
    """Cost of one model over another's in quiet moments, with its 95 % interval, and both costs."""

    ratio: float
    low: float
    high: float
    first_cost: float
    second_cost: float

    @property
    def relative_half_width(self) -> float:
        """Half the interval over the ratio."""
        return relative_half_width((self.ratio, self.low, self.high))


def compare_in_quiet(
    device: Device,
    first: Path,
    others: Sequence[Path],
    *,
    half_width: float,
    seconds: float,
    settle: float = math.inf,
    seed: int = 0,
    report: Callable[[int], None] = lambda settled: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[QuietRatio]:
    """Compare one model with several, by what they cost in moments when nothing disturbs.

    They take turns, a process each, so that a disturbance of some seconds meets all of them and
    the same one again later. A process counts with its quiet pairs (`quiet_ratio`), and is quiet
    itself where both models together cost at most 3 % more than at best, the first one over all
    comparisons. Turns go on until each model has four such processes and its interval's relative
    half width is at most `half_width`, or `seconds` have passed for each (four times that where an
    interval is wider than `settle`); then the quieter half of the processes counts. Processes in
    which the first model costs over 6 % more than at best do not count where four others are left:
    what slowed it slowed the other one too, and more or less than it. This is for prices, which are
    floors as well, and for plans of the closed loop; a verdict counts all
    pairs of a process (`compare`).

    Args:
        device: where to measure.
        first: first model of all comparisons.
        others: the second ones.
        half_width: relative, of the interval.
        seconds: for each of the others, after the four processes.
        settle: largest relative half width of an interval in the end.
        seed: of the order of runs.
        report: receives the number of models that have settled, after each turn.
        clock: counts seconds.

    Raises:
        UnstableError: time is up and a half width is still above `settle`.
        DeviceError: the device fails or changes while it is measured.
    """
    if device.spec.exact:
        return [_exactly(device, first, other, seed) for other in others]
    if device.spec.functional_only:
        seconds, settle = 0.0, math.inf
    started = clock()
    turns = [_pairs(device, first, other, seed) for other in others]
    seen: list[list[QuietPairs]] = [[] for _ in others]
    found: list[QuietRatio] = []
    waiting = list(range(len(others)))
    while waiting:
        for number in waiting:
            a, b, _ = next(turns[number])
            seen[number].append(quiet_ratio(a, b))
        least = min(one.first for processes in seen for one in processes)
        judged = [_quietest(processes, least, seed) for processes in seen]
        found = [ratio for ratio, _ in judged]
        done = [quiet and ratio.relative_half_width <= half_width for ratio, quiet in judged]
        report(sum(done))
        spent = (clock() - started) / len(others)
        allowed = [
            seconds * (1 if ratio.relative_half_width <= settle else PATIENCE) for ratio in found
        ]
        waiting = [
            number
            for number, processes in enumerate(seen)
            if len(processes) < QUIET or not (done[number] or spent >= allowed[number])
        ]
    for one in found:
        _require_settled(device, (one.ratio, one.low, one.high), settle, clock() - started)
    return found


def cost_of_second(found: Comparison | QuietRatio, base: float) -> Interval:
    """Return the cost of the second model with its interval, where the first one's is `base`.

    An exact count is the one that was counted: what a ratio gives back is no whole number.
    """
    if found.low == found.high and found.first_cost == base:
        return found.second_cost, found.second_cost, found.second_cost
    ratio = found.median if isinstance(found, Comparison) else found.ratio
    return base / ratio, base / found.high, base / found.low


def _exactly(device: Device, first: Path, second: Path, seed: int) -> QuietRatio:
    found, _ = _compare_exactly(device, first, second, 0.95, seed)
    return QuietRatio(found.median, found.low, found.high, found.first_cost, found.second_cost)


def _require_settled(device: Device, interval: Interval, settle: float, seconds: float) -> None:
    if relative_half_width(interval) > settle:
        raise UnstableError(
            f"device {device.spec.name}: after {seconds:.0f} s the ratio is "
            f"only known to lie between {interval[1]:.3f} and {interval[2]:.3f}",
            "close other programs and run again; edgeprune run --resume keeps what is finished",
        )


def _quietest(processes: Sequence[QuietPairs], least: float, seed: int) -> tuple[QuietRatio, bool]:
    """Return what the quietest processes say, and whether enough of them are quiet."""
    second = min(one.second for one in processes)
    calm = [one for one in processes if one.first <= LEVEL * least]
    among = calm if len(calm) >= QUIET else processes
    ordered = sorted(among, key=lambda one: one.first * one.second)
    count = sum(one.first * one.second <= LEVEL * least * second for one in ordered)
    quiet = ordered[: max(QUIET, count, len(ordered) // 2)]
    ratio, low, high = process_interval([(one.ratio,) for one in quiet], seed=seed)
    firsts, seconds = tuple(one.first for one in quiet), tuple(one.second for one in quiet)
    return QuietRatio(ratio, low, high, _middle(firsts), _middle(seconds)), count >= QUIET


def _pairs(
    device: Device, first: Path, second: Path, seed: int
) -> Iterator[tuple[tuple[float, ...], tuple[float, ...], Environment]]:
    """Yield the costs of both models in interleaved pairs, from one fresh process after another."""
    environment: Environment | None = None
    rounds, openings = 20, 2
    for number in itertools.count():
        models = (file_of("first", first), file_of("second", second))
        swapped = number % 2 == 1  # whatever favours the one that is named first cancels
        request = Request(
            task="time",
            models=models[::-1] if swapped else models,
            rounds=rounds,
            openings=openings,
            paired=True,
            warmup_seconds=0.1,
            seed=seed + number,
        )
        answer = device.ask(request)
        environment = _same(environment, answer)
        a, b = (model.values for model in answer.models[:: -1 if swapped else 1])
        if not number:  # the first process tells how many pairs fit
            both = _middle(a) + _middle(b)
            rounds = 2 * int(min(50, max(5, OPENING_US / both / 2)))
            openings = int(min(OPENINGS, max(1, OPENINGS * OPENING_US / (rounds * both))))
        yield a, b, environment


def _compare_exactly(
    device: Device, first: Path, second: Path, confidence: float, seed: int
) -> tuple[Comparison, Environment]:
    """Compare two models on a device whose figures repeat: once is enough."""
    models = (file_of("first", first), file_of("second", second))
    answer = device.ask(Request(task="time", models=models, seed=seed))
    a, b = (model.values[0] for model in answer.models)
    if not a or not b:
        free = (first if not a else second).name
        raise UnsupportedModelError(
            f"{free} costs nothing on {device.spec.name}: a formula gives it 0, which has no ratio",
            "compare on a device that measures or counts",
        )
    comparison = Comparison(
        median=a / b, low=a / b, high=a / b, confidence=confidence, pairs=1, processes=1,
        first_cost=a, second_cost=b, minimum_ratio=a / b, stopped="exact",
    )  # fmt: skip
    return comparison, answer.environment


def _undisturbed(processes: list[Pairs]) -> list[Pairs]:
    """Return the processes in which nothing slowed the first model, if there are enough of them.

    What slows it for seconds slows the second one more or less than it. The first model alone
    decides: neither the ratio nor the second model's cost does.
    """
    costs = [_middle(first) for first, _ in processes]
    calm = [one for one, cost in zip(processes, costs, strict=True) if cost <= LEVEL * min(costs)]
    return calm if len(calm) >= FEWEST else processes


def _interval(processes: list[Pairs], confidence: float, seed: int) -> Interval:
    ratios = [(alternating_ratio(first, second),) for first, second in processes]
    level = 1 - LOOKS * (1 - confidence)
    return process_interval(ratios, confidence=level, seed=seed)


def _middle(values: tuple[float, ...]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _same(before: Environment | None, answer: Answer) -> Environment:
    """Return the answer's environment; it must be comparable with that of earlier processes."""
    if before is not None and (differences := before.differences(answer.environment)):
        raise DeviceError("the device changed while it was measured: " + "; ".join(differences))
    return answer.environment
