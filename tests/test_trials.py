from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune import Data
from edgeprune.bench.trials import (
    Notebook,
    as_text,
    cut_and_recover,
    draw,
    final_metric,
    overlap,
    read_trials,
)
from edgeprune.errors import ResumeError, UsageError
from edgeprune.records import Trial, Trials
from edgeprune.report.markdown import put_between, table
from edgeprune.report.trials_page import render_trials
from edgeprune.sections import RecoverSection


def a_trial(method: str = "l2", share: float = 0.5, seed: int = 0, **more) -> Trial:
    return Trial(
        experiment=more.pop("experiment", "criteria"), method=method, share=share, seed=seed,
        recalibrated=0.8, metric=0.9 - share / 10, parameters=100, **more,
    )  # fmt: skip


def empty(**more) -> Trials:
    facts = {"title": "t", "metric": "accuracy", "dense": 0.95, "parameters": 400}
    return Trials(**facts, conditions={"steps": "10"}, **more)


def test_a_trial_that_is_there_is_not_made_again(tmp_path) -> None:
    path = tmp_path / "trials.json"
    made = Notebook(path, empty()).make("criteria", "l2", 0.5, 0, a_trial)

    def never() -> Trial:
        raise AssertionError("made twice")

    again = Notebook(path, empty())
    assert again.make("criteria", "l2", 0.5, 0, never) == made
    again.make("criteria", "l2", 0.5, 1, lambda: a_trial(seed=1, kept={"a": (0, 2)}))
    assert [t.seed for t in read_trials(path).trials] == [0, 1]
    assert read_trials(path).get("criteria", "l2", 0.5, 1).kept == {"a": (0, 2)}


def test_every_trial_has_a_line_of_its_own() -> None:
    text = as_text(empty(trials=(a_trial(), a_trial("l1"))))
    assert Trials.model_validate_json(text) == empty(trials=(a_trial(), a_trial("l1")))
    assert [line.count('"method"') for line in text.splitlines()].count(1) == 2
    assert Trials.model_validate_json(as_text(empty())) == empty()


def test_trials_made_under_other_conditions_are_refused(tmp_path) -> None:
    path = tmp_path / "trials.json"
    Notebook(path, empty()).make("criteria", "l2", 0.5, 0, a_trial)
    other = empty().model_copy(update={"conditions": {"steps": "20"}})
    with pytest.raises(ResumeError, match=r"conditions differ.*\n.*remove the file"):
        Notebook(path, other)


@pytest.mark.parametrize("content", [None, "", "[]", '{"schema": 2}'])
def test_a_file_without_trials_is_told(tmp_path, content) -> None:
    path = tmp_path / "trials.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"trials\.json"):
        read_trials(path)


def test_overlap_is_the_mean_jaccard_index_of_pairs() -> None:
    # {a0 a1 b0}, {a0 a1 b1}, {a2 a3 b0}: 2/4, 1/5, 0/6
    kept = [{"a": (0, 1), "b": (0,)}, {"a": (0, 1), "b": (1,)}, {"a": (2, 3), "b": (0,)}]
    assert overlap(kept) == pytest.approx((2 / 4 + 1 / 5 + 0 / 6) / 3)
    assert overlap([kept[0], kept[0]]) == 1.0
    with pytest.raises(ValueError, match="at least two"):
        overlap(kept[:1])


@pytest.mark.parametrize("reconstruct", [False, True])
def test_cutting_and_recovering_leaves_a_narrower_model_that_works(reconstruct) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    x = torch.randn(256, 4)
    batches = list(zip(x.split(64), (x[:, 0] > 0).long().split(64), strict=True))
    data = Data(x[:1], batches, batches, batches)
    settings = RecoverSection(steps=60, reconstruct=reconstruct, distill=False, learning_rate=0.1)
    found = cut_and_recover(model, model, data, {"0": range(8)}, settings, seed=0)
    assert found.model[0].out_features == found.model[2].in_features == 8
    assert final_metric(found.model, data) == found.best > 0.9
    assert model[0].out_features == 16


def test_the_page_draws_every_experiment(tmp_path) -> None:
    many = tuple(a_trial(m, s) for m in ("l1", "l2") for s in (0.3, 0.5))
    staged = (a_trial("progressive", 0.5, experiment="schedules", stages=((0.3, 0.9), (0.5, 0.8))),)
    seeds = tuple(a_trial("fused", 0.5, seed, experiment="seeds") for seed in range(3))
    path = tmp_path / "trials.json"
    path.write_text(as_text(empty(trials=many + staged + seeds)))
    page = draw(path)
    assert page == tmp_path / "trials.html"
    text = page.read_text()
    assert text.count("<svg") == 3
    assert text.count("<tr><th") == 8 + 3  # trials and heads
    assert "progressive to 50\N{NO-BREAK SPACE}%" in text
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert "<script" not in text


def test_an_experiment_of_one_trial_is_a_table(tmp_path) -> None:
    text = render_trials(empty(trials=(a_trial("<b>"),)))
    assert "<svg" not in text
    assert "&lt;b&gt;" in text


def test_a_table_takes_its_place_between_marks() -> None:
    block = table(["method", "lost"], [["l2", "1.0"]])
    assert block == "| method | lost |\n| --- | ---: |\n| l2 | 1.0 |\n"
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    new = put_between(page, "x", block)
    assert new == f"a\n<!-- x -->\n{block}<!-- /x -->\nb\n"
    assert put_between(new, "x", block) == new


@pytest.mark.parametrize("page", ["", "<!-- x -->\n", "<!-- /x -->\n<!-- x -->\n"])
def test_a_page_without_marks_is_told(page) -> None:
    with pytest.raises(UsageError, match="no place for 'x'"):
        put_between(page, "x", "block")
