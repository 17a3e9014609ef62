"""Comparisons of two models one by one, each kept with what it was taken in."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

from edgeprune.errors import UnstableError
from edgeprune.profiler import stats, timing
from edgeprune.profiler.stats import Interval, relative_half_width
from edgeprune.records import Comparison

OTHERS = 0.10  # of one processor; above, a comparison does not count
CODE = (timing.__file__, stats.__file__, str(Path(timing.__file__).with_name("worker.py")))
Run = Callable[[int], Comparison]


@dataclass(frozen=True)
class Result:
    """One comparison: its interval, and how busy the machine was meanwhile."""

    part: str
    seed: int
    conditions: str
    seconds: float  # asked for
    used: float
    interval: Interval | None  # ratio, low, high; None: unstable
    processes: int | None
    load: float  # average of the last minute, at the end; this program's own work included
    others: float  # processors that others kept busy
    stolen: float  # processors that the host took away

    @property
    def counts(self) -> bool:
        """Tell whether other programs left the machine alone."""
        return self.others < OTHERS


def conditions(device: str, models: tuple[Path, ...] = ()) -> str:
    """Return what has to agree for comparisons to be counted together."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    text = (
        f"{device}, {processor}, {psutil.cpu_count()} processors, onnxruntime "
        f"{onnxruntime.__version__}, {platform.system()} {platform.release()}"
    )
    if not models:
        return text
    digest = hashlib.sha256()
    for path in (*CODE, *models):
        digest.update(Path(path).read_bytes())
    return f"{text}, instrument and models {digest.hexdigest()[:12]}"


class Kept:
    """The results of a part: those of before under the same conditions, and those of now."""

    def __init__(self, folder: Path, part: str, seconds: float, conditions: str) -> None:
        self.file, self.part, self.seconds = folder / "comparisons.jsonl", part, seconds
        self.conditions, self.results = conditions, []
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        for line in lines:
            result = Result(**json.loads(line))
            if (result.part, result.seconds, result.conditions) == (part, seconds, conditions):
                self.results.append(result)

    def fill(self, count: int, run: Run, until: float, besides: psutil.Process | None) -> None:
        """Compare until `count` results count, or the clock passes `until`.

        `besides` is the process that is busy on purpose: its work is not that of others.
        """
        while sum(result.counts for result in self.results) < count and time.monotonic() < until:
            seed = 1 + max((result.seed for result in self.results), default=-1)
            result = self._one(seed, run, besides)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(result)) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            self.results.append(result)

    def _one(self, seed: int, run: Run, besides: psutil.Process | None) -> Result:
        before, started = _work(besides), time.monotonic()
        try:
            found = run(seed)
        except UnstableError:
            found = None
        used = time.monotonic() - started
        others, stolen = ((b - a) / used for a, b in zip(before, _work(besides), strict=True))
        return Result(
            part=self.part,
            seed=seed,
            conditions=self.conditions,
            seconds=self.seconds,
            used=round(used, 2),
            interval=found and (found.median, found.low, found.high),
            processes=found and found.processes,
            load=psutil.getloadavg()[0],
            others=round(max(0.0, others), 3),
            stolen=round(stolen, 3),
        )

    def report(self, name: str, count: int, truth: float) -> None:
        """Print what came out where others left the machine alone, and apart what did not."""
        above = f"others used {100 * OTHERS:.0f} % of a processor or more"
        for counts, what in (
            (True, f"{name}, {count} wanted"),
            (False, f"{name}, not counted since {above}"),
        ):
            chosen = [result for result in self.results if result.counts is counts]
            if chosen or counts:
                used = [result.used for result in chosen]
                summarise(what, [result.interval for result in chosen], truth, used)


def summarise(
    name: str, taken: Sequence[Interval | None], truth: float, used: Sequence[float] = ()
) -> None:
    """Print how many comparisons call a difference, and how sure they are; None did not settle."""
    settled = [found for found in taken if found]
    if not settled:
        print(f"{name}: {len(taken)} taken, none settled", flush=True)
        return
    called = sum(not low <= 1.0 <= high for _, low, high in settled)
    held = sum(low <= truth <= high for _, low, high in settled)
    widths = [100 * relative_half_width(found) for found in settled]
    low, high = exact_interval(called, len(settled))
    ratios = [ratio for ratio, _, _ in settled]
    times = f"; {min(used):.0f} to {max(used):.0f} s each" if used else ""
    print(
        f"{name}: {len(taken)} taken, {called} call a difference ({100 * called / len(settled):.1f}"
        f" %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %), {held} hold {truth:.4g}, "
        f"{len(taken) - len(settled)} unstable; half width median {np.median(widths):.2f} %, "
        f"90th percentile {np.quantile(widths, 0.9):.2f} %, largest {max(widths):.2f} %; ratios "
        f"{min(ratios):.4f} to {max(ratios):.4f}{times}",
        flush=True,
    )


def exact_interval(found: int, count: int, error: float = 0.05) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (1934) for a share, by bisection."""

    def solve(tail: Callable[[float], float]) -> float:  # `tail` rises with the share
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < error / 2 else (low, middle)
        return low

    def at_most(k: int, share: float) -> float:
        return sum(
            math.comb(count, i) * share**i * (1 - share) ** (count - i) for i in range(k + 1)
        )

    low = 0.0 if not found else solve(lambda share: 1 - at_most(found - 1, share))
    high = 1.0 if found == count else 1 - solve(lambda share: at_most(found, 1 - share))
    return low, high


@contextmanager
def busy_process(there: int | None = None) -> Iterator[psutil.Process]:
    """Keep one processor busy meanwhile, or take the process `there`, which does."""
    if there is not None:
        yield psutil.Process(there)
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def _work(besides: psutil.Process | None) -> tuple[float, float]:
    """Return the seconds that others kept processors busy, and that the host took away."""
    every = psutil.cpu_times()
    own, waited = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    busy = sum(every) - every.idle - getattr(every, "iowait", 0.0) - getattr(every, "steal", 0.0)
    busy -= getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)
    busy -= own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime
    if besides:
        times = besides.cpu_times()
        busy -= times.user + times.system
    return busy, getattr(every, "steal", 0.0)
