"""Costs of whole models, and of one model against another, from several fresh processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from edgeprune.devices.protocol import Answer, Device, Request, file_of
from edgeprune.errors import DeviceError, UnstableError
from edgeprune.profiler.stats import (
    Interval,
    alternating_ratio,
    floor_of,
    process_interval,
    relative_half_width,
)
from edgeprune.records import Comparison, Environment, Samples

FEWEST = 8  # processes in a comparison
LOOKS = 0.7  # of the error allowed: who looks after each process stops where values lie close
OPENINGS = 3  # of the sessions in one process
OPENING_US = 150_000.0  # of pairs, each time the sessions are opened
Note = Callable[[str], None]


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
    memory lies moves the ratio more than the noise of the runs does. The interval is Student's over
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
    firsts: list[tuple[float, ...]] = []
    seconds_: list[tuple[float, ...]] = []
    environment: Environment | None = None
    rounds, openings, interval, stopped = 20, 2, (1.0, 0.0, 2.0), "time"
    while len(firsts) < FEWEST or clock() - started < seconds:
        models = (file_of("first", first), file_of("second", second))
        swapped = len(firsts) % 2 == 1  # whatever favours the one that is named first cancels
        request = Request(
            task="time",
            models=models[::-1] if swapped else models,
            rounds=rounds,
            openings=openings,
            paired=True,
            warmup_seconds=0.1,
            seed=seed + len(firsts),
        )
        answer = device.ask(request)
        environment = _same(environment, answer)
        a, b = (model.values for model in answer.models[:: -1 if swapped else 1])
        if not firsts:  # the first process tells how many pairs fit
            both = _middle(a) + _middle(b)
            rounds = 2 * int(min(50, max(5, OPENING_US / both / 2)))
            openings = int(min(OPENINGS, max(1, OPENINGS * OPENING_US / (rounds * both))))
        firsts.append(a)
        seconds_.append(b)
        interval = _interval(firsts, seconds_, confidence, seed)
        doubt = 100 * relative_half_width(interval)
        note(f"{sum(map(len, firsts))} pairs, ratio {interval[0]:.3f} ± {doubt:.1f} %")
        if len(firsts) >= FEWEST and relative_half_width(interval) <= half_width:
            stopped = "enough"
            break
    if relative_half_width(interval) > settle:
        raise UnstableError(
            f"device {device.spec.name}: after {clock() - started:.0f} s the ratio is "
            f"only known to lie between {interval[1]:.3f} and {interval[2]:.3f}",
            "close other programs and run again; edgeprune run --resume keeps what is finished",
        )
    assert environment is not None
    flat_first = [v for process in firsts for v in process]
    flat_second = [v for process in seconds_ for v in process]
    comparison = Comparison(
        median=interval[0],
        low=interval[1],
        high=interval[2],
        confidence=confidence,
        pairs=len(flat_first),
        processes=len(firsts),
        first_cost=_middle(tuple(flat_first)),
        second_cost=_middle(tuple(flat_second)),
        minimum_ratio=floor_of(flat_first) / floor_of(flat_second),
        stopped="enough" if stopped == "enough" else "time",
    )
    return comparison, environment


def _compare_exactly(
    device: Device, first: Path, second: Path, confidence: float, seed: int
) -> tuple[Comparison, Environment]:
    """Compare two models on a device whose figures repeat: once is enough."""
    models = (file_of("first", first), file_of("second", second))
    answer = device.ask(Request(task="time", models=models, seed=seed))
    a, b = (model.values[0] for model in answer.models)
    comparison = Comparison(
        median=a / b, low=a / b, high=a / b, confidence=confidence, pairs=1, processes=1,
        first_cost=a, second_cost=b, minimum_ratio=a / b, stopped="exact",
    )  # fmt: skip
    return comparison, answer.environment


def _interval(
    first: list[tuple[float, ...]], second: list[tuple[float, ...]], confidence: float, seed: int
) -> Interval:
    ratios = [(alternating_ratio(a, b),) for a, b in zip(first, second, strict=True)]
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
