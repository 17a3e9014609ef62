"""Results kept line by line, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.task import digest
from edgeprune.records import BenchRow, PlannedGroup
from edgeprune.store import output_error


class Lines:
    """A file of JSON lines; a line that a crash left unfinished does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[dict[str, object]]:
        """Yield what the file holds."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines():  # json reads the text, or refuses it
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                yield document

    def append(self, document: dict[str, object]) -> None:
        """Add a line and flush it to disk.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                if stream.tell() and self.path.read_bytes()[-1:] != b"\n":
                    stream.write("\n")  # after an unfinished line
                stream.write(json.dumps(document) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise output_error(self.path, error) from error


class Rows:
    """The finished rows of a comparison."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._rows: dict[tuple[str, float, int, int], BenchRow] = {}
        for document in self._lines.read():
            try:
                row = BenchRow.model_validate(document)
            except ValidationError:
                continue
            self._rows[key(row.method, row.target, row.seed, row.steps)] = row

    def get(self, method: str, target: float, seed: int, steps: int) -> BenchRow | None:
        """Return a finished row."""
        return self._rows.get(key(method, target, seed, steps))

    def add(self, row: BenchRow) -> None:
        """Keep a row."""
        self._lines.append(row.model_dump(mode="json"))
        self._rows[key(row.method, row.target, row.seed, row.steps)] = row


def key(method: str, target: float, seed: int, steps: int) -> tuple[str, float, int, int]:
    """Return what tells rows apart."""
    return method, same_target(target), seed, steps


def same_target(target: float) -> float:
    """Return the share of the dense cost as rows know it: equal for targets that are one."""
    return round(target, 6)


def remembered(
    path: Path, measure: Callable[[dict[str, PlannedGroup]], Measured]
) -> Callable[[dict[str, PlannedGroup]], Measured]:
    """Return `measure` with a memory on disk: the same kept channels are measured once."""
    lines = Lines(path)
    known: dict[str, Measured] = {}
    for document in lines.read():
        values = [document.get(name) for name in ("cost", "low", "high")]
        if all(isinstance(value, float) and 0 < value < math.inf for value in values):
            known[str(document.get("plan"))] = Measured(*map(float, values))  # type: ignore[arg-type]

    def measured(groups: dict[str, PlannedGroup]) -> Measured:
        name = digest({name: group.kept for name, group in groups.items()})
        if name not in known:
            known[name] = found = measure(groups)
            lines.append({"plan": name, "cost": found.cost, "low": found.low, "high": found.high})
        return known[name]

    return measured


class Losses(dict[str, float]):
    """Losses of candidate plans, kept on disk as well: a search may take minutes of them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lines = Lines(path)
        for document in self._lines.read():
            if isinstance(loss := document.get("loss"), float):
                super().__setitem__(str(document.get("plan")), loss)

    def __setitem__(self, plan: str, loss: float) -> None:
        """Keep the loss of a plan."""
        self._lines.append({"plan": plan, "loss": loss})
        super().__setitem__(plan, loss)
