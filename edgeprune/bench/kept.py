"""Results kept line by line, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from edgeprune.allocation.closed_loop import Measured
from edgeprune.allocation.task import digest
from edgeprune.records import BenchRow, CostTable, PlannedGroup
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
    """The finished rows of a comparison, by what was trained for them.

    Those of earlier versions do not tell what was: they are read, and fit nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = Lines(path)
        self._rows: dict[tuple[str, float, int, str], BenchRow] = {}
        self._trained: dict[tuple[str, int], BenchRow] = {}
        self._names: dict[tuple[str, float, int, int], set[str]] = {}
        for document in self._lines.read():
            try:
                row = BenchRow.model_validate(document)
            except ValidationError:
                continue
            self._keep(row)

    def get(self, method: str, target: float, seed: int, trained: str) -> BenchRow | None:
        """Return the row of a method that is finished, with what was `trained`."""
        return self._rows.get((method, same_target(target), seed, trained))

    def trained(self, trained: str, seed: int) -> BenchRow | None:
        """Return a row of any method, at any cost, that trained the same."""
        return self._trained.get((trained, seed))

    def of_another(self, method: str, target: float, seed: int, steps: int, trained: str) -> bool:
        """Return whether the finished rows of a method are all of other trainings."""
        found = self._names.get((method, same_target(target), seed, steps), set())
        return bool(found) and trained not in found

    def add(self, row: BenchRow) -> None:
        """Keep a row."""
        self._lines.append(row.model_dump(mode="json"))
        self._keep(row)

    def _keep(self, row: BenchRow) -> None:
        target = same_target(row.target)
        self._rows[row.method, target, row.seed, row.trained] = row
        self._trained[row.trained, row.seed] = row
        key = row.method, target, row.seed, row.steps
        self._names.setdefault(key, set()).add(row.trained)


def same_target(target: float) -> float:
    """Return the share of the dense cost as rows know it: equal for targets that are one."""
    return round(target, 6)


def remembered(
    path: Path, measure: Callable[[dict[str, PlannedGroup]], Measured], base: str
) -> Callable[[dict[str, PlannedGroup]], Measured]:
    """Return `measure` with a memory on disk: the same kept channels are measured once.

    `base` names what costs are measured against; those of another one do not count.
    """
    lines = Lines(path)
    known: dict[str, Measured] = {}
    for document in lines.read():
        values = [document.get(name) for name in ("cost", "low", "high")]
        costs = all(isinstance(value, float) and 0 < value < math.inf for value in values)
        if costs and document.get("base") == base:
            known[str(document.get("plan"))] = Measured(*map(float, values))  # type: ignore[arg-type]

    def measured(groups: dict[str, PlannedGroup]) -> Measured:
        name = digest({name: group.kept for name, group in groups.items()})
        if name not in known:
            known[name] = found = measure(groups)
            costs = {"cost": found.cost, "low": found.low, "high": found.high}
            lines.append({"plan": name, "base": base, **costs})
        return known[name]

    return measured


def base_of(table: CostTable, *, relative: bool) -> str:
    """Return a name of what costs of plans are measured against, and of how they are."""
    text = json.dumps([table.dense_cost, table.environment.facts, relative], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
