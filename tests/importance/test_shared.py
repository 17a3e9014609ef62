"""Scores of several data holders, by hand and against pooled data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.scores import keep_best, score_channels
from edgeprune.importance.shared import (
    Origin,
    Shared,
    merge,
    read_all,
    read_scores,
    require_same,
    write_scores,
)
from edgeprune.pruning.groups import find_groups


def origin(**changes: Any) -> Origin:
    fields: dict[str, Any] = {
        "job": "digits", "architecture": "a" * 64, "weights": "b" * 64, "groups": {"0": 3},
        "criteria": ("l2",), "samples": 10, "seed": 0, "version": "0.1.0",
    }  # fmt: skip
    return Origin.model_validate(fields | changes)


def holder(values: list[float], samples: int, **changes: Any) -> Shared:
    return Shared(
        Path("a.safetensors"),
        origin(samples=samples, **changes),
        {"l2": {"0": torch.tensor(values)}},
    )


def test_the_mean_is_weighted_by_samples() -> None:
    merged = merge([holder([1.0, 2.0, 6.0], 30), holder([5.0, 2.0, 2.0], 10)])
    assert merged["l2"]["0"].tolist() == pytest.approx([2.0, 2.0, 5.0])


def test_ranks_forget_the_size_of_scores() -> None:
    # ranks (0, 1/2, 1) with weight 1/4 and (1, 1/2, 0) with weight 3/4
    merged = merge([holder([100.0, 200.0, 900.0], 10), holder([3.0, 2.0, 1.0], 30)], "rank")
    assert merged["l2"]["0"].tolist() == pytest.approx([0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("tensor", "changes"),
    [
        (torch.tensor(1.0), {}),
        (torch.ones(3, 1), {}),
        (torch.ones(3), {"samples": 0}),
        (torch.ones(3), {"samples": -5}),
        (torch.ones(3), {"criteria": ()}),
    ],
)
def test_scores_of_another_shape_or_of_nothing_are_refused(
    tmp_path: Path, tensor: Tensor, changes: dict[str, Any]
) -> None:
    document = origin().model_copy(update=changes).model_dump_json()
    path = tmp_path / "scores.safetensors"
    save_file({"l2/0": tensor}, path, metadata={"origin": document})
    with pytest.raises(UsageError, match=r"scores\.safetensors"):
        read_scores(path)


def test_a_holder_counts_once(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        write_scores(path, {"l2": {"0": torch.ones(3)}}, origin())
    with pytest.raises(UsageError, match=r"b\.safetensors: these scores are given twice"):
        read_all(paths)


def test_files_keep_scores_and_origin(tmp_path: Path) -> None:
    path, scores = tmp_path / "scores.safetensors", {"l2": {"0": torch.tensor([0.5, 1.5, 2.5])}}
    write_scores(path, scores, origin())
    found = read_scores(path)
    assert found.origin == origin()
    assert torch.equal(found.scores["l2"]["0"], scores["l2"]["0"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "c" * 64}, "weights: cccccccccccc there, bbbbbbbbbbbb here"),
        ({"architecture": "d" * 64}, "architecture: dddddddddddd there"),
        ({"groups": {"0": 3, "2": 8}}, "group 2: 8 channels there, not cut here"),
        ({"groups": {"0": 4}}, "group 0: 4 channels there, 3 channels here"),
    ],
)  # fmt: skip
def test_scores_of_another_model_are_refused_with_the_difference(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match="scores of another model") as caught:
        require_same([holder([1.0, 2.0, 3.0], 10, **changes)], origin())
    assert words in str(caught.value)
    require_same([holder([1.0, 2.0, 3.0], 99, job="another", seed=7)], origin())


def test_criteria_must_be_the_same_in_all_files() -> None:
    files = [holder([1.0, 2.0, 3.0], 10), holder([1.0, 2.0, 3.0], 10, criteria=("taylor",))]
    with pytest.raises(UsageError, match="criteria: taylor and l2"):
        require_same(files, origin())


def broken(path: Path) -> dict[str, Path]:
    files = {n: path / n for n in ("pickle", "text", "plain", "other", "nan")}
    files["pickle"].write_bytes(pickle.dumps({"l2/0": [1, 2, 3]}))
    files["text"].write_text("scores")
    save_file({"l2/0": torch.zeros(3)}, files["plain"])
    write_scores(files["other"], {"l2": {"0": torch.zeros(5)}}, origin())
    write_scores(files["nan"], {"l2": {"0": torch.full((3,), float("nan"))}}, origin())
    return files


@pytest.mark.parametrize("which", ["pickle", "text", "plain", "other", "nan", "missing"])
def test_other_files_are_refused(which: str, tmp_path: Path) -> None:
    path = (broken(tmp_path) | {"missing": tmp_path / "missing"})[which]
    words = {"other": "not what its own metadata says", "nan": "not what", "missing": "no file"}
    with pytest.raises(UsageError, match=words.get(which, "is no file of scores")):
        read_scores(path)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    )


def data_of(x: Tensor, y: Tensor) -> Data:
    pairs = list(zip(x.split(32), y.split(32), strict=True))
    return Data(x[:1], None, pairs, pairs)


# What a plan keeps of each group at half its width. Means over samples merge exactly; sizes of means
# do not: 7 in 8 of the channels must be the same.
@pytest.mark.parametrize(
    ("criterion", "same"),
    [("fisher", 1.0), ("activation", 1.0), ("l2", 1.0), ("taylor", 7 / 8), ("snip", 7 / 8)],
)  # fmt: skip
def test_two_holders_keep_what_pooled_data_keep(criterion: str, same: float) -> None:
    model = network().eval()
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(0, 3, (384,), generator=generator)
    x = torch.randn(384, 6, generator=generator) + nn.functional.one_hot(y, 6)
    groups = find_groups(model, (x[:1],)).groups
    widths = {group.name: group.width for group in groups}

    def scored(part: slice) -> Shared:
        data = data_of(x[part], y[part])
        found = score_channels(model, data, groups, criterion, samples=len(x[part]))
        known = origin(groups=widths, criteria=(criterion,), samples=len(x[part]))
        return Shared(Path("x"), known, {criterion: found})

    pooled = scored(slice(None)).scores[criterion]
    merged = merge([scored(slice(0, 128)), scored(slice(128, None))])[criterion]
    for name, width in widths.items():
        kept = set(keep_best(pooled[name], width // 2)) & set(keep_best(merged[name], width // 2))
        assert len(kept) >= same * (width // 2), name
