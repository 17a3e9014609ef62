"""Scores of several data holders: each shares its scores, never its data.

A file of scores is a safetensors file of "criterion/group" -> scores [width], whose metadata says
which model they are of, and from how many samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.importance.normalisation import normalise
from edgeprune.records import Record
from edgeprune.store import atomic, sha256_of

Merge = Literal["mean", "rank"]
Scored = dict[str, dict[str, Tensor]]  # criterion -> group -> scores [width]


class Origin(Record):
    """What scores are of: kept as the metadata of their file.

    `architecture` and `weights` are hashes of the model; `groups` maps a group to its width.
    """

    format: Literal["edgeprune scores 1"] = "edgeprune scores 1"
    job: str
    architecture: str
    weights: str
    groups: dict[str, int]
    criteria: tuple[str, ...] = Field(min_length=1)
    samples: int = Field(ge=0)
    seed: int
    version: str


class Shared(NamedTuple):
    """Scores and what they are of."""

    path: Path
    origin: Origin
    scores: Scored


def write_scores(path: Path, scores: Mapping[str, Mapping[str, Tensor]], origin: Origin) -> None:
    """Write scores and their origin to `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {
        f"{criterion}/{group}": score.contiguous()
        for criterion, by_group in scores.items()
        for group, score in by_group.items()
    }
    with atomic(path) as partial:
        save_file(tensors, partial, metadata={"origin": origin.model_dump_json()})


def read_scores(path: Path) -> Shared:
    """Return the scores in the file `path`. Nothing is unpickled.

    Raises:
        UsageError: it is missing, or is no file of scores.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}", "edgeprune importance JOB --out FILE writes one")
    try:
        with safe_open(path, framework="pt") as file:
            origin = Origin.model_validate_json((file.metadata() or {}).get("origin", ""))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValidationError, ValueError) as error:
        kind = type(error).__name__
        raise UsageError(
            f"{path} is no file of scores ({kind})",
            "edgeprune importance JOB --out FILE writes one",
        ) from None
    if origin.samples < 1:
        raise UsageError(f"{path}: its scores are of no samples")
    wanted = {f"{c}/{g}": (width,) for c in origin.criteria for g, width in origin.groups.items()}
    if {name: tuple(score.shape) for name, score in tensors.items()} != wanted or not all(
        bool(torch.isfinite(score).all()) for score in tensors.values()
    ):
        raise UsageError(f"{path}: its scores are not what its own metadata says")
    scores = {c: {g: tensors[f"{c}/{g}"] for g in origin.groups} for c in origin.criteria}
    return Shared(path, origin, scores)


def read_all(paths: Sequence[Path]) -> tuple[Shared, ...]:
    """Return the scores of all holders.

    Raises:
        UsageError: a file is missing, is no file of scores, or is given twice: its holder would
            count twice.
    """
    found = tuple(map(read_scores, paths))
    digests = [sha256_of(path) for path in paths]
    for number, path in enumerate(paths):
        if digests[number] in digests[:number]:
            raise UsageError(f"{path}: these scores are given twice", "name each holder once")
    return found


def require_same(shared: Sequence[Shared], here: Origin) -> None:
    """Make sure that all `shared` scores are of one model, `here`, by the same criteria.

    Raises:
        UsageError: says which file differs, and in what.
    """
    for one in shared:
        found = differences(one.origin, here)
        if one.origin.criteria != shared[0].origin.criteria:
            names = " and ".join(", ".join(s.origin.criteria) for s in (one, shared[0]))
            found.append(f"criteria: {names} in {shared[0].path}")
        if found:
            listed = "".join(f"\n  - {line}" for line in found)
            raise UsageError(
                f"{one.path} holds scores of another model:{listed}",
                "edgeprune importance must be run with the same model, weights and keep list",
            )


def differences(found: Origin, here: Origin) -> list[str]:
    """Return in what two models differ, one line each; criteria and samples may."""
    lines = []
    if found.architecture != here.architecture:
        lines.append(
            f"architecture: {found.architecture[:12]} there, {here.architecture[:12]} here"
        )
    if found.weights != here.weights:
        lines.append(f"weights: {found.weights[:12]} there, {here.weights[:12]} here")
    for name in sorted({*found.groups, *here.groups}):
        there, own = found.groups.get(name), here.groups.get(name)
        if there != own:
            lines.append(f"group {name}: {_channels(there)} there, {_channels(own)} here")
    return lines


def _channels(width: int | None) -> str:
    return "not cut" if width is None else f"{width} channels"


def merge(shared: Sequence[Shared], how: Merge = "mean") -> Scored:
    """Return the scores of all holders together.

    `mean`: weighted by the samples of each. It gives the pooled scores where a score is a mean over
    samples (`fisher`, `activation`, `apoz`), and comes close where it is a size of a mean
    (`taylor`, `snip`). `rank`: the weighted mean of each channel's place in its group, from 0 to 1,
    for holders whose scores differ in size.
    """
    total = sum(one.origin.samples for one in shared)
    merged: Scored = {}
    for criterion in shared[0].origin.criteria:
        parts = [
            (
                one.origin.samples / total,
                normalise(one.scores[criterion], "rank")
                if how == "rank"
                else one.scores[criterion],
            )
            for one in shared
        ]
        merged[criterion] = {
            group: torch.stack([weight * scores[group].double() for weight, scores in parts])
            .sum(0)
            .float()
            for group in shared[0].origin.groups
        }
    return merged


def digest_of(shared: Sequence[Shared]) -> str:
    """Return a hash of the files, for the identity of a run."""
    return hashlib.sha256("".join(sha256_of(one.path) for one in shared).encode()).hexdigest()
