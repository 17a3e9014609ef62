"""The figures of docs/methods.md for importance and reconstruction, on the reference network.

    make bench-methods                                            all of it: half an hour
    python benchmarks/methods.py --parts time --criteria taylor   time and memory of one criterion
    python benchmarks/methods.py --parts gain                     accuracy each criterion leaves
    python benchmarks/methods.py --parts regularised              what training before the cut gains
    python benchmarks/methods.py --parts reconstruction           what least squares wins back
    python benchmarks/methods.py --parts recovery                 what distillation and it gain
    python benchmarks/methods.py --parts ranking                  what is left of rankings after it

The reference network is that of examples/fashion_mnist. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.devices.opening import open_device
from edgeprune.importance.normalisation import layer_wise
from edgeprune.importance.registry import CRITERIA
from edgeprune.importance.scores import score_channels
from edgeprune.job import load_job
from edgeprune.loading import load_data
from edgeprune.pipeline import load, plan_only
from edgeprune.pruning.groups import cut, find_groups
from edgeprune.recovery.batchnorm import recalibrate
from edgeprune.recovery.finetuning import metric_on, recover
from edgeprune.recovery.layout import fast_layout
from edgeprune.recovery.reconstruction import reconstruct
from edgeprune.recovery.regularisation import train_regularised
from edgeprune.report.console import Console
from edgeprune.sections import RegulariseSection

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "examples" / "fashion_mnist" / "job.toml"
TIMED = ("taylor", "fisher", "hessian", "fused")
BATCHES, BATCH = 100, 32
STEPS = 200  # of training before the cut
SEEDS = (0, 1, 2)
STEP = 64  # samples of a training step, as in the job's recovery
FEW = 4000  # test images on which cut models are compared
PARTS = ("time", "gain", "regularised", "reconstruction", "recovery", "ranking")
RANKED = ("random", "l2", "taylor", "fpgm", "output_error", "refit_error")
Network = tuple[nn.Module, Data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--criteria", nargs="+", choices=tuple(CRITERIA), default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", default="35%")
    parser.add_argument("--device", default="mobile_cpu", help="whose plan is reconstructed")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measured in a process of its own
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.one:
        print(json.dumps(one(asked.one)))
        return
    print(
        f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} processors, "
        f"{asked.threads} threads, torch {torch.__version__}, load {psutil.getloadavg()[0]:.2f}"
    )
    if "time" in asked.parts:
        times(asked.criteria or TIMED, asked.threads)
    if "gain" in asked.parts:
        gains(asked.criteria or tuple(CRITERIA))
    if "regularised" in asked.parts:
        regularised()
    if "reconstruction" in asked.parts:
        reconstruction(asked.budget, asked.device)
    if "recovery" in asked.parts:
        recovery()
    if "ranking" in asked.parts:
        ranking(asked.criteria or RANKED)


def network() -> Network:
    """The reference network, with 100 calibration batches of 32 training images as they are."""
    model, data = load(load_job(JOB), JOB.parent)
    images, labels = data.train.images, data.train.labels  # type: ignore[union-attr]
    count = BATCHES * BATCH
    pairs = list(zip(images[:count].split(BATCH), labels[:count].split(BATCH), strict=True))
    return model, Data(data.example_inputs, data.train, pairs, data.validation, test=data.test)


def times(criteria: Sequence[str], threads: int) -> None:
    """Time and peak memory of each criterion, against the peak memory of a training step."""
    print(f"\n{BATCHES} calibration batches of {BATCH}; memory above that of the loaded process")
    step = apart("step", threads)
    print(f"{'training step':16s} {step['mebibytes']:8.1f} MiB of {STEP} samples")
    for name in criteria:
        found = apart(name, threads)
        share = found["mebibytes"] / step["mebibytes"]
        print(
            f"{name:16s} {found['mebibytes']:8.1f} MiB = {share:4.2f} of a training step, "
            f"{found['seconds']:6.1f} s"
        )


def apart(what: str, threads: int) -> dict[str, float]:
    """Measure `what` in a process of its own."""
    command = [sys.executable, __file__, "--one", what, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(what: str) -> dict[str, float]:
    """Return seconds and peak memory of a criterion, or of training steps."""
    model, data = network()
    groups = find_groups(model, data.example).groups
    call = training(model, data) if what == "step" else scoring(model, data, groups, what)
    before = psutil.Process().memory_info().rss
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak <= peak_before:
        raise RuntimeError("loading took more memory than what is measured")
    return {"seconds": seconds, "mebibytes": (peak - before) / 2**20}


def scoring(model: nn.Module, data: Data, groups: Sequence, name: str) -> Callable[[], object]:  # type: ignore[type-arg]
    return lambda: score_channels(model, data, groups, name, samples=BATCHES * BATCH)


def training(model: nn.Module, data: Data) -> Callable[[], object]:
    """Three steps of SGD with momentum: the buffers exist from the second on."""
    model = fast_layout(model).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    x, y = (torch.cat(parts[:2]) for parts in zip(*list(data.calibration)[:2], strict=True))

    def steps() -> None:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            data.loss(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
            optimizer.step()

    return steps


def gains(criteria: Sequence[str]) -> None:
    """Accuracy with every group at half its width, after recalibration alone, and the time."""
    model, data = network()
    settings = load_job(JOB).prune
    groups = find_groups(model, data.example).groups
    calibration = [x for x, _ in data.calibration]
    test = first(data)
    print(f"\nhalf of every group, recalibrated, nothing trained; {FEW} test images")
    print(f"{'dense':16s} {metric_on(model, data, test):.4f}")
    variants = [(name, name, settings.fused) for name in criteria]
    if "fused" in criteria:
        for fusion in ("adaptive", "learned"):
            other = settings.fused.model_copy(update={"fusion": fusion})
            variants.append((f"fused {fusion}", "fused", other))
    for told, name, fused in variants:
        started = time.perf_counter()
        scores = score_channels(
            model, data, groups, name, samples=settings.calibration_samples, seed=0, fused=fused
        )
        seconds = time.perf_counter() - started
        slim = cut(model, data.example, layer_wise(scores, 0.5))
        recalibrate(slim, [(x,) for x in calibration])
        print(f"{told:16s} {metric_on(slim, data, test):.4f} {seconds:6.1f} s to score", flush=True)


def regularised() -> None:
    """Accuracy before and after half of every group goes, with and without a penalty before."""
    model, data = network()
    groups = find_groups(model, data.example).groups
    calibration, test = [(x,) for x, _ in data.calibration], first(data)
    print(
        f"\n{STEPS} steps before the cut, then half of every group, recalibrated; {FEW} test images"
    )
    for kind, strength in (
        ("group_norm", 1e-12),
        ("group_norm", 1e-3),
        ("group_norm", 1e-2),
        ("growing", 1e-3),
        ("growing", 1e-2),
        ("bn_scale", 1e-12),
        ("bn_scale", 1e-3),
        ("bn_scale", 1e-2),
        ("bn_scale", 1e-1),
    ):
        settings = RegulariseSection(kind=kind, steps=STEPS, strength=strength)
        started = time.perf_counter()
        found = train_regularised(model, data, groups, settings, seed=0)
        seconds = time.perf_counter() - started
        criterion = "bn_scale" if kind == "bn_scale" else "l2"
        scores = score_channels(found.model, data, groups, criterion, samples=512)
        slim = cut(found.model, data.example, layer_wise(scores, 0.5))
        recalibrate(slim, calibration)
        whole, half = (metric_on(one, data, test) for one in (found.model, slim))
        weak = found.history[-1][2]
        print(
            f"{kind:12s} {strength:7.0e}: dense {whole:.4f}, cut by {criterion} {half:.4f}; "
            f"weaker halves hold {weak:.3f}; {seconds:.0f} s",
            flush=True,
        )


def reconstruction(budget: str, device: str) -> None:
    """What least squares wins back of what the exact allocator's plan loses."""
    job = load_job(JOB).with_overrides(budget=budget)
    model, data = load(job, JOB.parent)
    plan = plan_only(job, model, data, open_device(device), Console(quiet=True)).plan
    kept = {name: group.kept for name, group in plan.groups.items()}
    test = [((x,), y) for x, y in data.test]  # type: ignore[union-attr]
    dense = metric_on(model, data, test)
    slim = cut(model, data.example, kept)
    as_cut = metric_on(slim, data, test)
    started = time.perf_counter()
    found = reconstruct(slim, model, data, kept)
    seconds = time.perf_counter() - started
    inputs = [(x,) for x, _ in data.calibration]
    recalibrate(slim, inputs)
    recalibrated = metric_on(slim, data, test)
    rebuilt = metric_on(found.model, data, test)
    recalibrate(found.model, inputs)
    both = metric_on(found.model, data, test)
    widths = ", ".join(f"{n} {g.before}->{g.after}" for n, g in plan.groups.items())
    used = plan.corrected / plan.budget
    print(f"\nexact allocation at {budget} on {device}: {used:.3f} of the budget")
    print(f"{widths}\ndense {dense:.4f}; {sum(len(y) for _, y in test)} test images")
    print(f"as cut {as_cut:.4f}; recalibrated {recalibrated:.4f}")
    print(f"reconstructed {rebuilt:.4f}, and then recalibrated {both:.4f}, in {seconds:.1f} s")
    for name, start in (("as cut", as_cut), ("recalibration", recalibrated)):
        print(f"won back of what is lost after {name}: {(both - start) / (dense - start):.3f}")


def recovery() -> None:
    """Accuracy after short fine-tuning, with and without a teacher and reconstruction before it."""
    job = load_job(JOB)
    model, data = load(job, JOB.parent)
    groups = find_groups(model, data.example).groups
    kept = layer_wise(score_channels(model, data, groups, "l2", samples=512), 0.5)
    test = [((x,), y) for x, y in data.test]  # type: ignore[union-attr]
    print(f"\nhalf of every group by l2, {STEPS} steps, seeds {SEEDS}; all test images")
    for distill in (True, False):
        for rebuilt in (True, False):
            change = {"steps": STEPS, "distill": distill, "reconstruct": rebuilt}
            settings = job.recover.model_copy(update=change)
            found = []
            for seed in SEEDS:
                fresh = load_data(job.with_overrides(seed=seed), JOB.parent)
                slim = cut(model, data.example, kept)
                done = recover(slim, model, fresh, settings, seed=seed, kept=kept)
                found.append(metric_on(done.model, data, test))
            told = f"distilled {distill!s:5s} reconstructed {rebuilt!s:5s}"
            print(f"{told}: {statistics.mean(found):.4f} of {found}", flush=True)


def ranking(criteria: Sequence[str]) -> None:
    """Accuracy with half of every group gone, reconstructed, before and after short fine-tuning."""
    job = load_job(JOB)
    model, data = load(job, JOB.parent)
    groups = find_groups(model, data.example).groups
    test = [((x,), y) for x, y in data.test]  # type: ignore[union-attr]
    settings = job.recover.model_copy(update={"steps": STEPS, "reconstruct": True})
    samples = job.prune.calibration_samples
    print(f"\nhalf of every group, reconstructed, {STEPS} steps, seeds {SEEDS}; all test images")
    for criterion in criteria:
        scores = score_channels(model, data, groups, criterion, samples=samples)
        kept = layer_wise(scores, 0.5)
        slim = cut(model, data.example, kept)
        start = metric_on(reconstruct(slim, model, data, kept).model, data, test)
        found = []
        for seed in SEEDS:
            fresh = load_data(job.with_overrides(seed=seed), JOB.parent)
            done = recover(slim, model, fresh, settings, seed=seed, kept=kept)
            found.append(metric_on(done.model, data, test))
        told = f"{criterion:16s} {start:.4f} reconstructed"
        print(f"{told}, {statistics.mean(found):.4f} trained, of {found}", flush=True)


def first(data: Data) -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    taken, count = [], 0
    for x, y in data.test:  # type: ignore[union-attr]
        taken.append(((x,), y))
        count += len(y)
        if count >= FEW:
            break
    return taken


if __name__ == "__main__":
    main()
