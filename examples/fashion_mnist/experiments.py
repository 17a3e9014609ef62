"""Criteria, schedules, lottery tickets and fused importance on the network of job.toml.

    .venv/bin/python examples/fashion_mnist/experiments.py        (about 25 minutes on one core)

Every trial cuts the same share of channels from every group and recovers it in the same number of
steps. Trials are kept in trials.json one by one: the program can be stopped and called again. It
writes their tables into README.md, and trials.html, which draws them.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeprune.bench.trials import Notebook, cut_and_recover, draw, final_metric, overlap
from edgeprune.data import Data
from edgeprune.importance.normalisation import layer_wise
from edgeprune.importance.scores import score_channels
from edgeprune.loading import load_weights
from edgeprune.pruning.groups import find_groups
from edgeprune.records import Trial, Trials
from edgeprune.recovery.finetuning import recover
from edgeprune.recovery.schedules import rewind
from edgeprune.report.markdown import put_between, table
from edgeprune.sections import RecoverSection
from edgeprune.store import write_text

sys.path.insert(0, str(Path(__file__).resolve().parent))
from data import Batches, load, read, split
from model import build

HERE = Path(__file__).resolve().parent
SHARES = (0.3, 0.5, 0.6, 0.7)  # of the channels of every group that go
CRITERIA = ("random", "l2", "gradient", "taylor", "fused")
SEEDS = range(5)
STEPS, STAGES, BETWEEN, EARLY = 200, 3, 50, 200
SAMPLES, VALIDATION = 512, 2000
PLAIN = RecoverSection(reconstruct=False, steps=STEPS, learning_rate=0.03)
REFITTED = PLAIN.model_copy(update={"reconstruct": True})
PUBLISHED = {("l2", 0.3): 2.0, ("l2", 0.5): 4.0, ("l2", 0.7): 7.0, ("gradient", 0.5): 3.5,
             ("progressive", 0.6): 3.0}  # fmt: skip
MISSING = "not made"
Wanted = tuple[str, str, float, int, Callable[[], Trial]]


@cache
def dense() -> nn.Module:
    """Return the trained network."""
    model = build()
    load_weights(model, HERE / "dense.safetensors")
    return model.eval()


@cache
def data(seed: int = 0) -> Data:
    """Return the job's data, with less for validation, calibration images drawn by `seed`."""
    found = load(seed)
    images, labels = read("train")
    train, validation, calibration = split(len(labels))
    if seed:
        drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        calibration = train[drawn[: len(calibration)]]
    chosen = validation[:VALIDATION]
    return replace(
        found,
        calibration=Batches(images[calibration], labels[calibration], 100),
        validation=Batches(images[chosen], labels[chosen], 500),
    )


def scores(model: nn.Module, criterion: str, seed: int = 0) -> dict[str, Tensor]:
    """Return group -> score of each channel."""
    groups = find_groups(model, data(seed).example).groups
    return score_channels(model, data(seed), groups, criterion, samples=SAMPLES, seed=seed)


scores_of_dense = cache(lambda criterion, seed: scores(dense(), criterion, seed))


def trial(
    experiment: str, method: str, share: float, seed: int, model: nn.Module, recalibrated: float,
    kept: Mapping[str, tuple[int, ...]], stages: tuple[tuple[float, float], ...] = (),
) -> Trial:  # fmt: skip
    """Return what a recovered model achieves on the test images."""
    return Trial(
        experiment=experiment, method=method, share=share, seed=seed, recalibrated=recalibrated,
        metric=final_metric(model, data()), parameters=sum(p.numel() for p in model.parameters()),
        stages=stages, kept=dict(kept) if experiment == "seeds" else {},
    )  # fmt: skip


def by_criterion(experiment: str, criterion: str, share: float, seed: int = 0) -> Trial:
    """Cut once by a criterion, re-fit the layers behind, fine-tune."""
    kept = layer_wise(scores_of_dense(criterion, seed), share)
    found = cut_and_recover(dense(), dense(), data(seed), kept, REFITTED, seed)
    return trial(experiment, criterion, share, seed, found.model, found.recalibrated, kept)


def by_schedule(schedule: str, share: float) -> Trial:
    """Cut in stages, l2 scored anew before each; a short recovery between them."""
    stages = range(1, STAGES + 1)
    shares = {
        "iterative": [share * i / STAGES for i in stages],
        "progressive": [1 - (1 - share) ** (i / STAGES) for i in stages],
    }[schedule]
    short = REFITTED.model_copy(update={"steps": BETWEEN})
    model, gone, history = dense(), 0.0, []
    kept: dict[str, tuple[int, ...]] = {}
    for target in shares:
        chosen = layer_wise(scores(model, "l2"), 1 - (1 - target) / (1 - gone))
        settings = REFITTED if target == shares[-1] else short
        found = cut_and_recover(model, dense(), data(), chosen, settings, 0)
        kept = {g: tuple(kept[g][k] for k in c) if kept else c for g, c in chosen.items()}
        model, gone = found.model, target
        history.append((target, found.best))
    return trial("schedules", schedule, share, 0, model, found.recalibrated, kept, tuple(history))


@cache
def early(steps: int) -> dict[str, Tensor]:
    """Return the network's weights after `steps` of training from the start."""
    model = build()
    if not steps:
        return model.state_dict()
    settings = RecoverSection(steps=steps, distill=False, learning_rate=0.05)
    return recover(model, model, data(), settings, seed=0).model.state_dict()


def by_lottery(method: str, share: float) -> Trial:
    """Train the channels that l2 keeps from trained, early or initial weights."""
    kept = layer_wise(scores_of_dense("l2", 0), share)
    start = dense()
    if method != "fine-tuned":
        start = rewind(dense(), data().example, {}, early(EARLY if method == "early" else 0))
    found = cut_and_recover(start, dense(), data(), kept, PLAIN, 0)
    return trial("lottery", method, share, 0, found.model, found.recalibrated, kept)


def wanted() -> Iterator[Wanted]:
    """Yield all trials, those of the short tables first."""
    once = [(name, share) for share in (0.5, 0.7, 0.3, 0.6) for name in CRITERIA]
    first = [pair for pair in once if pair in PUBLISHED]

    def criteria(pairs: list[tuple[str, float]]) -> Iterator[Wanted]:
        for name, share in pairs:
            yield "criteria", name, share, 0, partial(by_criterion, "criteria", name, share)

    yield from criteria(first)
    for share in (0.6, 0.3, 0.5, 0.7):
        yield "schedules", "progressive", share, 0, partial(by_schedule, "progressive", share)
    for seed in SEEDS:
        for name in ("fused", "hessian"):
            yield "seeds", name, 0.5, seed, partial(by_criterion, "seeds", name, 0.5, seed)
    for kind in ("fine-tuned", "early", "initial"):
        yield "lottery", kind, 0.7, 0, partial(by_lottery, kind, 0.7)
    yield from criteria([pair for pair in once if pair not in first])
    for share in (0.6, 0.3, 0.5, 0.7):
        yield "schedules", "iterative", share, 0, partial(by_schedule, "iterative", share)


def points(dense_metric: float, found: Trial | None) -> str:
    """Return the loss of accuracy in percentage points."""
    return MISSING if found is None else f"{100 * (dense_metric - found.metric):.2f}"


def tables(all_trials: Trials) -> dict[str, str]:
    """Return name -> table in Markdown; it says where a trial was not made."""
    lost = [f"{100 * share:.0f} %" for share in SHARES]
    get, whole = all_trials.get, all_trials.dense

    def rows(experiment: str, names: tuple[str, ...], shares: tuple[float, ...]) -> list[list[str]]:
        return [[f"`{n}`", *(points(whole, get(experiment, n, s)) for s in shares)] for n in names]

    once = ["`one_shot`", *(points(whole, get("criteria", "l2", share)) for share in SHARES)]
    staged = rows("schedules", ("iterative", "progressive"), SHARES)
    compared = [
        [f"`{name}`, {100 * share:.0f} %", f"{limit:.1f}",
         points(whole, get("schedules" if name == "progressive" else "criteria", name, share))]
        for (name, share), limit in PUBLISHED.items()
    ]  # fmt: skip
    seeds = []
    for name in ("fused", "hessian"):
        made = [found for s in SEEDS if (found := get("seeds", name, 0.5, s))]
        if len(made) < len(SEEDS):
            seeds.append([f"`{name}`", *[MISSING] * 4])
            continue
        drops = torch.tensor([100 * (whole - found.metric) for found in made])
        alike = overlap([found.kept for found in made])
        seeds.append([f"`{name}`", f"{drops.mean():.2f}", f"{drops.std():.2f}",
                      f"{drops.min():.2f} to {drops.max():.2f}", f"{alike:.3f}"])  # fmt: skip
    return {
        "criteria": table(["points lost at", *lost], rows("criteria", CRITERIA, SHARES)),
        "schedules": table(["points lost at", *lost], [once, *staged]),
        "published": table(["method, channels removed", "published", "here"], compared),
        "lottery": table(
            ["points lost at", "70 %"],
            rows("lottery", ("fine-tuned", "early", "initial"), (0.7,)),
        ),
        "seeds": table(
            ["50 % removed, 5 seeds", "mean points lost", "standard deviation", "range", "overlap"],
            seeds,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", help="make only trials of this one")
    parser.add_argument("--trials", type=int, help="make at most this many that are missing")
    parser.add_argument(
        "--out", type=Path, default=HERE / "trials.json", help="where they are kept"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = Trials(
        title="Fashion-MNIST, residual network",
        metric=data().metric_name,
        dense=round(final_metric(dense(), data()), 4),
        parameters=sum(p.numel() for p in dense().parameters()),
        conditions={
            "recovery": f"{STEPS} steps of 64 images after the last cut, learning rate "
            f"{PLAIN.learning_rate:g}, distilled; layers behind a cut re-fitted first, "
            "but for the lottery",
            "importance": f"{SAMPLES} calibration images",
            "validation": f"{VALIDATION} images; test: 10,000",
            "torch": torch.__version__.partition("+")[0],
            "architecture": platform.machine(),
        },
    )
    notebook = Notebook(arguments.out, start)
    missing = [w for w in wanted() if notebook.trials.get(*w[:4]) is None]
    chosen = [w for w in missing if arguments.experiment in (None, w[0])]
    for experiment, method, share, seed, how in islice(chosen, arguments.trials):
        found = notebook.make(experiment, method, share, seed, how)
        drop = points(start.dense, found)
        print(f"{experiment} {method} {share:g} seed {seed}: {drop} points lost", flush=True)
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    for name, block in tables(notebook.trials).items():
        text = put_between(text, name, block)
    write_text(page, text)
    left = sum(notebook.trials.get(*w[:4]) is None for w in wanted())
    print(f"wrote the tables and {draw(arguments.out)}; {left} trials are missing")


if __name__ == "__main__":
    main()
