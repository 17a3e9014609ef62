"""Fused importance against plain ones on the language model, over seeds.

    .venv/bin/edgeprune run examples/language_model/job.toml --device mobile_cpu
    .venv/bin/python examples/language_model/experiments.py        (about 8 minutes on one core)

The first line makes the slim model; the second compares criteria at the same widths and writes both
tables into README.md. Trials are kept in trials.json: the program goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from edgeprune.bench.trials import Notebook, cut_and_recover, draw, final_metric, overlap
from edgeprune.data import Data
from edgeprune.importance.normalisation import layer_wise
from edgeprune.importance.scores import score_channels
from edgeprune.loading import load_weights
from edgeprune.pruning.groups import find_groups
from edgeprune.records import Trial, Trials, Verdict
from edgeprune.report.markdown import put_between, table
from edgeprune.sections import RecoverSection
from edgeprune.store import write_text

sys.path.insert(0, str(Path(__file__).resolve().parent))
from data import CALIBRATION, load, split, windows
from model import build

HERE = Path(__file__).resolve().parent
VERDICT = Path("deploy/mobile_cpu/language_lstm/verdict.json")
CRITERIA = ("fused", "hessian")
SEEDS = range(5)
SHARE = 0.3  # of the hidden units of both layers; leaves half of the multiply-accumulates
SAMPLES = 256
SETTINGS = RecoverSection(
    reconstruct=False,
    steps=100,
    optimizer="adam",
    learning_rate=0.003,
    temperature=1.0,
    distill_weight=0.5,
)


@cache
def dense() -> nn.Module:
    """Return the trained network."""
    model = build()
    load_weights(model, HERE / "dense.safetensors")
    return model.eval()


@cache
def data(seed: int) -> Data:
    """Return the job's data with calibration windows drawn by `seed`."""
    text = split()[0]
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(text) - 65, (CALIBRATION,), generator=generator)
    return replace(load(seed), calibration=[windows(text, part) for part in starts.split(32)])


def made(criterion: str, seed: int) -> Trial:
    """Cut both layers by a criterion and fine-tune."""
    groups = find_groups(dense(), data(seed).example).groups
    found = score_channels(dense(), data(seed), groups, criterion, samples=SAMPLES, seed=seed)
    kept = layer_wise(found, SHARE)
    slim = cut_and_recover(dense(), dense(), data(seed), kept, SETTINGS, seed)
    return Trial(
        experiment="seeds",
        method=criterion,
        share=SHARE,
        seed=seed,
        recalibrated=slim.recalibrated,
        metric=final_metric(slim.model, data(seed)),
        parameters=sum(p.numel() for p in slim.model.parameters()),
        kept=kept,
    )


def wanted() -> Iterator[tuple[str, int]]:
    """Yield all trials."""
    return ((criterion, seed) for seed in SEEDS for criterion in CRITERIA)


def spread(values: list[float]) -> str:
    """Return the mean of some values with their range."""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def comparison(trials: Trials) -> str:
    """Return the table of criteria."""
    rows = []
    for name in CRITERIA:
        own = [trial for trial in trials.trials if trial.method == name]
        rows.append(
            [
                f"`{name}`",
                spread([math.exp(-trial.recalibrated) for trial in own]),
                spread([math.exp(-trial.metric) for trial in own]),
                f"{overlap([trial.kept for trial in own]):.3f}",
            ]
        )
    heads = ["importance", "as cut, validation perplexity", "recovered, test perplexity", "overlap"]
    return table(heads, rows)


def result(verdict: Verdict) -> str:
    """Return the table of what the job made."""
    wide, slim, ratio = verdict.dense, verdict.slim, verdict.speedup
    sure = "interval not known"
    if verdict.accuracy_drop_interval is not None:
        low, high = (100 * math.expm1(value) for value in verdict.accuracy_drop_interval)
        sure = f"{low:+.1f} to {high:+.1f}"
    change = f"{100 * math.expm1(wide.accuracy - slim.accuracy):+.1f} % ({sure})"
    faster = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) times as fast"
    costs = [f"{figures.cost:.0f} {verdict.unit}" for figures in (wide, slim)]
    counts = [
        ("parameters", wide.parameters, slim.parameters),
        ("multiply-accumulates", wide.macs, slim.macs),
        *((f"hidden units of `{name}`", *pair) for name, pair in verdict.plan.widths.items()),
    ]
    rows = [
        ["perplexity", *(f"{math.exp(-m.accuracy):.3f}" for m in (wide, slim)), change],
        [f"cost, {verdict.kind}", *costs, faster],
        *([name, f"{x:,}", f"{y:,}", f"{y / x:.3f}"] for name, x, y in counts),
        ["gates", "", "", "all met" if verdict.passed else "not all met"],
    ]
    return table(["", "dense", "slim", "change"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, help="make at most this many that are missing")
    parser.add_argument("--out", type=Path, default=HERE / "trials.json")
    parser.add_argument("--verdict", type=Path, default=VERDICT, help="what the job said")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = Trials(
        title="Character LSTM on English text",
        metric=data(0).metric_name,
        dense=round(final_metric(dense(), data(0)), 4),
        parameters=sum(p.numel() for p in dense().parameters()),
        conditions={
            "recovery": f"{SETTINGS.steps} steps of 64 windows, AdamW, learning rate "
            f"{SETTINGS.learning_rate:g}, distilled at temperature 1",
            "importance": f"{SAMPLES} windows of 64 characters, drawn by the seed",
            "torch": torch.__version__.partition("+")[0],
            "architecture": platform.machine(),
        },
    )
    notebook = Notebook(arguments.out, start)

    def missing() -> list[tuple[str, int]]:
        get = notebook.trials.get
        return [(c, s) for c, s in wanted() if get("seeds", c, SHARE, s) is None]

    for criterion, seed in islice(missing(), arguments.trials):
        trial = notebook.make(
            "seeds", criterion, SHARE, seed, lambda c=criterion, s=seed: made(c, s)
        )
        print(f"{criterion} seed {seed}: perplexity {math.exp(-trial.metric):.3f}", flush=True)
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    if arguments.verdict.is_file():
        verdict = Verdict.model_validate_json(arguments.verdict.read_bytes())
        text = put_between(text, "job", result(verdict))
    else:
        print(f"{arguments.verdict} is not there: the job has not run here, its table stays")
    if missing():
        print("trials are missing: their table stays; call again")
    else:
        text = put_between(text, "criteria", comparison(notebook.trials))
        print(f"drew {draw(arguments.out)}")
    write_text(page, text)


if __name__ == "__main__":
    main()
