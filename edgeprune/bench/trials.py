"""Experiments on one dense model, kept row by row in a JSON file that can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from edgeprune.data import Data, batches
from edgeprune.errors import ResumeError, UsageError
from edgeprune.pruning.groups import cut
from edgeprune.records import Trial, Trials
from edgeprune.recovery.finetuning import Recovery, metric_on, recover
from edgeprune.report.trials_page import render_trials
from edgeprune.sections import RecoverSection
from edgeprune.store import write_text

Kept = Mapping[str, Sequence[int]]


class Notebook:
    """The trials in the file `path`; those that it has are not made again.

    Args:
        path: the file; it is written after every trial.
        start: title, metric, dense figures and conditions; trials made under others are refused.

    Raises:
        ResumeError: the file holds trials of another dense model or made under other conditions.
        UsageError: the file cannot be read.
    """

    def __init__(self, path: Path, start: Trials) -> None:
        self.path = path
        self.trials = read_trials(path) if path.exists() else start
        there = self.trials.model_copy(update={"trials": ()})
        if there != start.model_copy(update={"trials": ()}):
            differing = [
                name for name in type(start).model_fields
                if name != "trials" and getattr(there, name) != getattr(start, name)
            ]  # fmt: skip
            raise ResumeError(
                f"{path} holds trials made under other conditions ({', '.join(differing)} differ)",
                "remove the file to make all of them again",
            )

    def make(
        self, experiment: str, method: str, share: float, seed: int, how: Callable[[], Trial]
    ) -> Trial:
        """Return the trial of this name; `how` makes it if the file does not have it."""
        found = self.trials.get(experiment, method, share, seed)
        if found is not None:
            return found
        made = how()
        self.trials = self.trials.model_copy(update={"trials": (*self.trials.trials, made)})
        write_text(self.path, as_text(self.trials))
        return made


def as_text(trials: Trials) -> str:
    """Return the trials as JSON, one line each."""
    head = trials.model_copy(update={"trials": ()}).model_dump_json(by_alias=True, indent=1)
    rows = ",\n".join(f"  {trial.model_dump_json()}" for trial in trials.trials)
    return head.replace('"trials": []', f'"trials": [\n{rows}\n ]') + "\n"


def read_trials(path: Path) -> Trials:
    """Return the trials in a file.

    Raises:
        UsageError: the file is missing or holds no trials.
    """
    try:
        return Trials.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise UsageError(f"{path} holds no trials: {where}: {first['msg']}") from None


def draw(path: Path) -> Path:
    """Write the page of the trials in `path` beside it and return its path.

    Raises:
        UsageError: the file holds no trials.
        OutputError: the folder cannot be written.
    """
    page = path.with_suffix(".html")
    write_text(page, render_trials(read_trials(path)))
    return page


def cut_and_recover(
    model: nn.Module,
    dense: nn.Module,
    data: Data,
    kept: Kept,
    settings: RecoverSection,
    seed: int,
) -> Recovery:
    """Return `model` cut to the `kept` channels of each group and recovered; `dense` teaches.

    Args:
        model: the dense model, or one that was cut before.
        dense: the dense model.
        data: of the job.
        kept: group -> channels of `model` that stay.
        settings: how accuracy is won back.
        seed: of recovery.
    """
    slim = cut(model, data.example, kept)
    return recover(slim, dense, data, settings, seed=seed, kept=kept, original=model)


def final_metric(model: nn.Module, data: Data) -> float:
    """Return the metric on the test data, or on validation data where there is none."""
    return metric_on(model, data, list(batches(*data.evaluation)))


def overlap(kept: Sequence[Kept]) -> float:
    """Return how alike several choices of channels are: 1 where all are equal.

    The mean over pairs of abs(A and B) / abs(A or B), over the channels of all groups together
    (Jaccard index).

    Raises:
        ValueError: there are fewer than two choices.
    """
    sets = [{(group, k) for group, channels in one.items() for k in channels} for one in kept]
    pairs = list(combinations(sets, 2))
    if not pairs:
        raise ValueError("an overlap needs at least two choices of channels")
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)
