"""What the counter wrote: instruction counts at each reading of the clock, found again by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.advice import command
from edgeprune.devices.protocol import NodeCosts
from edgeprune.errors import DeviceError

HEADER = "edgeprune-arm64 1 "
HINT = f"the figures of this run are not used; {command('arm64')} checks the installation"


class Counts(NamedTuple):
    """Instructions executed: all, FMLA on vectors, FMADD, and SDOT or UDOT."""

    total: int
    fmla: int
    fmadd: int
    dot: int

    @property
    def float_macs(self) -> int:
        """Multiply-accumulates in single precision: four to an FMLA, one to an FMADD."""
        return 4 * self.fmla + self.fmadd


@dataclass(frozen=True)
class Snapshots:
    """Counts at the readings of the clock, by the total, which is what the clock answered."""

    readings: dict[int, Counts]

    @classmethod
    def read(cls, path: Path) -> Snapshots:
        """Return the snapshots that the counter wrote to `path`.

        Raises:
            DeviceError: there are none, they are damaged, or the program had several threads.
        """
        try:
            header, *lines = path.read_text(encoding="ascii").splitlines()
            if not header.startswith(HEADER):
                raise ValueError(header)
            threads = int(header.removeprefix(HEADER))
            counts = [Counts(*map(int, line.split()[1:])) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise DeviceError(f"the counts of the emulator cannot be read: {error}", HINT) from None
        if threads != 1:
            raise DeviceError(f"the emulated program had {threads} threads, whose counts mix", HINT)
        if any(a.total >= b.total for a, b in pairwise(counts)):
            raise DeviceError(
                "the counts of the emulator do not rise from reading to reading", HINT
            )
        return cls({reading.total: reading for reading in counts})

    def pair(self, nodes: Sequence[NodeCosts]) -> list[list[Counts]]:
        """Return for every node and run what was executed between its start and its end.

        The runtime's profiler tells times since it was started, which it read from the same clock:
        the pairing holds if each start and each end is a reading.

        Raises:
            DeviceError: it does not hold.
        """
        if not nodes:
            return []
        if not all(0 < len(node.starts) == len(node.values) for node in nodes):
            raise DeviceError("the worker does not tell when each node started", HINT)
        first = int(nodes[0].starts[0])
        for reading in self.readings:
            began = reading - first
            if began in self.readings and (found := self._since(began, nodes)) is not None:
                return found
        raise DeviceError(
            f"the times of {len(nodes)} nodes are not readings of the emulator's clock", HINT
        )

    def _since(self, began: int, nodes: Sequence[NodeCosts]) -> list[list[Counts]] | None:
        found = []
        for node in nodes:
            rows = []
            for start, value in zip(node.starts, node.values, strict=True):
                before = self.readings.get(began + int(start))
                after = self.readings.get(began + int(start + value))
                if before is None or after is None:
                    return None
                rows.append(Counts(*(b - a for a, b in zip(before, after, strict=True))))
            found.append(rows)
        return found
