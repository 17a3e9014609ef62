"""Scores of models with grouped convolutions, and of those with layers that are never cut."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgeprune import pipeline, previews
from edgeprune.data import Data
from edgeprune.errors import UsageError
from edgeprune.importance.scores import bundled, complete, score_channels, spanning
from edgeprune.importance.shared import read_scores
from edgeprune.job import Job
from edgeprune.pruning.groups import find_groups
from edgeprune.records import GroupList
from edgeprune.report.console import Console
from edgeprune.stages.weighing import score

READ_BY_TORCH_PRUNING = ("taylor", "l1", "l2", "lamp", "fpgm", "fused")


def data(inputs: tuple[Tensor, ...], samples: int = 20) -> Data:
    x = torch.randn(samples, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.arange(samples) % 10)]
    return Data(x[:1], None, batches, batches)


def auto_job() -> Job:
    return Job.model_validate(
        {
            "name": "j",
            "model": {"factory": "in_memory:model"},
            "data": {"factory": "in_memory:data"},
            "budget": {"latency": "92%"},
            "prune": {"importance": "auto"},
        }
    )


def scored_by_auto(
    model: nn.Module, given: Data, groups: GroupList
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Return the scores by all criteria of "auto", and what was told of those left out."""
    told: list[str] = []
    return score(auto_job(), model, given, groups, told.append), told


def distances(rows: Tensor) -> Tensor:
    """Sum over rows j of ||abs(row k) - abs(row j)||, by its definition."""
    rows = rows.abs()
    return torch.stack([(rows - row).square().sum(1).sqrt().sum() for row in rows])


def test_fpgm_of_inputs_of_a_grouped_convolution_by_hand(build, groups_of) -> None:
    """Channel k of 16 lies at place k % 4 of part k // 4, which makes outputs 4 * (k // 4) on."""
    model, inputs = build("grouped")
    groups = groups_of("grouped").groups
    found = score_channels(model, data(inputs), groups, "fpgm", samples=20)
    first, grouped, last = (model[i].weight.detach() for i in (0, 2, 4))
    read = [grouped[4 * (k // 4) : 4 * (k // 4) + 4, k % 4].flatten() for k in range(16)]
    expected = distances(first.flatten(1)) + distances(torch.stack(read))
    torch.testing.assert_close(found["0"], expected)
    expected = distances(grouped.flatten(1)) + distances(last.transpose(0, 1).flatten(1))
    torch.testing.assert_close(found["2"], expected)


@pytest.mark.parametrize(("criterion", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_of_inputs_of_a_grouped_convolution_by_hand(
    build, groups_of, criterion: str, power: int
) -> None:
    model, inputs = build("grouped")
    found = score_channels(model, data(inputs), groups_of("grouped").groups, criterion, samples=20)
    first, grouped = (model[i].weight.detach().abs() ** power for i in (0, 2))
    read = [grouped[4 * (k // 4) : 4 * (k // 4) + 4, k % 4].sum() for k in range(16)]
    torch.testing.assert_close(found["0"], first.flatten(1).sum(1) + torch.stack(read))


def test_auto_scores_a_grouped_convolution_and_names_what_cannot(build, groups_of) -> None:
    model, inputs = build("grouped")
    groups = groups_of("grouped")
    found, told = scored_by_auto(model, data(inputs), groups)
    whole = {"0", "2", "4"}
    assert complete(found, whole) == ("taylor", "l2", "fpgm")
    for by_group in found.values():
        for group in groups.groups:  # whole bundles have one score
            scores = by_group.get(group.name)
            assert scores is None or all(
                len(scores[list(b)].unique()) == 1 for b in group.bundles()
            )
    assert set(found["output_error"]) == set(found["refit_error"]) == whole - {"0"}
    assert [line.split(" (")[0] for line in told] == [
        f"importance auto: {name} ranks the other groups"
        for name in ("output_error", "refit_error")
    ]
    assert all("cannot score group 0: it reads consumers that" in line for line in told)
    alone = score_channels(model, data(inputs), groups.groups[1:], "refit_error", samples=512)
    for group in groups.groups[1:]:  # what a criterion says of some does not hang on the others
        assert torch.equal(found["refit_error"][group.name], bundled(alone[group.name], group))


def test_criteria_that_score_some_groups_alone_are_measured_where_they_do(
    build, groups_of, simulated
) -> None:
    model, inputs = build("grouped")
    given = auto_job(), model, data(inputs), simulated(), Console(quiet=True)
    tried: dict[str, set[str]] = {}
    curves, _ = previews.sensitivity_only(*given)
    for curve in curves.curves:
        tried.setdefault(curve.group, set()).add(curve.criterion)
    assert tried["0"] == {"taylor", "l2", "fpgm"}
    assert tried["2"] == tried["4"] == tried["0"] | {"output_error", "refit_error"}
    made = pipeline.plan_only(*given)
    assert made.plan.corrected <= made.plan.budget
    cut = {name: g.criterion for name, g in made.plan.groups.items() if g.after < g.before}
    assert cut
    assert cut.get("0", "l2") in tried["0"]


def test_scores_to_be_shared_are_those_that_every_group_has(build, tmp_path) -> None:
    """Which groups a criterion can score depends on the data too, and files are merged."""
    model, inputs = build("grouped")
    job = auto_job()
    origin = previews.score(
        job, model, data(inputs), tmp_path / "a.safetensors", Console(quiet=True)
    )
    assert origin.criteria == ("taylor", "l2", "fpgm")
    assert set(read_scores(tmp_path / "a.safetensors").scores) == set(origin.criteria)


def test_what_needs_one_ranking_of_all_groups_takes_one_that_has_them(build, groups_of) -> None:
    model, inputs = build("grouped")
    found, _ = scored_by_auto(model, data(inputs), groups_of("grouped"))
    assert spanning({name: found[name] for name in ("refit_error", "l2")}, {"0", "2"}) == "l2"
    assert spanning(found, {"2"}) == "taylor"
    with pytest.raises(UsageError, match="can score all groups"):
        spanning({"refit_error": found["refit_error"]}, {"0", "2"})


LEFT = {  # what cutting breaks, between two layers
    "multiplier": lambda: nn.Conv2d(16, 32, 3, groups=16),
    "transposed": lambda: nn.ConvTranspose2d(16, 32, 2, 2, groups=4),
}


@pytest.mark.parametrize("criterion", READ_BY_TORCH_PRUNING)
@pytest.mark.parametrize("middle", LEFT)
def test_layers_that_are_never_cut_do_not_keep_the_others_from_their_scores(
    middle: str, criterion: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), LEFT[middle](), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    ).eval()  # fmt: skip
    inputs = (torch.randn(1, 3, 8, 8),)
    groups = find_groups(model, inputs)
    assert [group.name for group in groups.groups] == ["4"]
    assert {group.name for group in groups.skipped} == {"0", "2", "8"}
    found = score_channels(model, data(inputs), groups.groups, criterion, samples=20)["4"]
    assert len(found.unique()) == 8


def test_what_torch_pruning_fails_at_is_named_and_left_out_of_auto(
    build, groups_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, group: object) -> Tensor:
        raise IndexError("index 16 is out of bounds")

    monkeypatch.setattr(tp.importance.FPGMImportance, "__call__", fails)
    model, inputs = build("plain")
    groups = groups_of("plain")
    with pytest.raises(UsageError, match=r"fpgm cannot score group conv\d: .*IndexError: index 16"):
        score_channels(model, data(inputs), groups.groups, "fpgm", samples=20)
    found, told = scored_by_auto(model, data(inputs), groups)
    assert "taylor" in found
    assert "fpgm" not in found
    (line,) = told
    assert line.startswith("importance auto: fpgm does not apply (cannot score group conv")
    assert "another criterion" not in line, "there is nothing to do about it"
