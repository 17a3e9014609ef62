"""The figures that docs/measuring.md gives for the measuring instrument itself.

    make bench-measure                                  all of it: about four hours
    python benchmarks/measure.py --comparisons 5        a look
    python benchmarks/measure.py --parts simulated profiles

Run it on an idle machine. It prints the conditions and one line for each figure.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

from edgeprune.devices.opening import open_device
from edgeprune.devices.protocol import Device
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.errors import UnstableError
from edgeprune.export.synthetic import write_convolutions
from edgeprune.profiler.layers import profile_model
from edgeprune.profiler.timing import compare
from edgeprune.records import Simulation

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "examples" / "fashion_mnist" / "job.toml"
PARTS = ("simulated", "profiles", "time", "idle", "busy", "padded")
LAYERS = 20  # equal convolutions; one more is 5 % more work
# As seen on the machine of docs/measuring.md: noise within a process, between processes, regimes.
NOISY = {"noise": 0.03, "regime": 1.6, "regime_runs": 400.0, "macs_per_us": 100_000.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each comparison")
    parser.add_argument("--device", default="mobile_cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    conditions(asked.comparisons, asked.seconds)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        folder, device = Path(scratch), open_device(asked.device)
        plain = write_convolutions(folder / "plain.onnx", LAYERS, channels=32, size=28)
        padded = write_convolutions(folder / "padded.onnx", LAYERS + 1, channels=32, size=28)
        count, seconds = asked.comparisons, asked.seconds
        if "simulated" in asked.parts:
            simulated(plain, padded, seconds)
        if {"profiles", "time", "idle", "busy"} & set(asked.parts):
            networks = exported(folder)
        if "profiles" in asked.parts:
            profiles(device, networks)
        if "time" in asked.parts:
            wall_clock(networks["reference"], asked.device)
        if "idle" in asked.parts:
            same(device, networks["reference"], count, seconds, "idle")
        if "busy" in asked.parts:
            with busy_process():
                same(device, networks["reference"], count, seconds, "one busy process")
        if "padded" in asked.parts:
            different(device, padded, plain, -(-count // 2), seconds)


def conditions(count: int, seconds: float) -> None:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    print(
        f"conditions: {processor}, {psutil.cpu_count()} processors, "
        f"load {psutil.getloadavg()[0]:.2f}, onnxruntime {onnxruntime.__version__}, "
        f"{platform.system()} {platform.release()}; "
        f"{count} comparisons of {seconds:g} s",
        flush=True,
    )


def exported(folder: Path) -> dict[str, Path]:
    """Export the reference network, MobileNetV2 and ResNet-18."""
    import torch

    from edgeprune.export.onnx_graph import export
    from edgeprune.job import load_job
    from edgeprune.loading import call_factory, load_model

    image = torch.zeros(1, 3, 224, 224)
    shapes = ROOT / "examples" / "shapes"
    found = {}
    for name in ("mobilenet_v2", "resnet18"):
        found[name] = folder / f"{name}.onnx"
        export(call_factory(f"model:{name}", shapes, "model"), (image,), found[name], opset=20)
    found["reference"] = folder / "reference.onnx"
    model = load_model(load_job(JOB), JOB.parent)
    export(model, (torch.zeros(1, 1, 28, 28),), found["reference"], opset=20)
    return found


def profiles(device: Device, networks: dict[str, Path]) -> None:
    """Print coverage, sums and memory of each network."""
    for name, path in networks.items():
        found = profile_model(device, path, name=name, seconds=10.0)
        runtime = found.runtime_peak_bytes
        against = f"{runtime / found.peak_activation_bytes:.4f}" if runtime else "not reported"
        print(
            f"{name}: total {found.total / 1000:.3f} ms "
            f"[{found.total_low / 1000:.3f}, {found.total_high / 1000:.3f}], "
            f"coverage {found.coverage:.3f}, sum of layers / total "
            f"{found.sum_of_layers / found.total:.3f}, peak of activations "
            f"{found.peak_activation_bytes} B, runtime's over ours {against}",
            *found.warnings,
            sep="\n  ",
            flush=True,
        )


def wall_clock(path: Path, device: str) -> None:
    """Print how long the program takes for the reference network, as a file and as a job."""
    for what in (path, JOB):
        command = [sys.executable, "-m", "edgeprune", "profile", str(what), "--device", device]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, check=False)
        took = time.monotonic() - started
        print(f"profile {what.name}: {took:.1f} s, exit code {done.returncode}", flush=True)


def same(device: Device, path: Path, count: int, seconds: float, how: str) -> None:
    """Compare a model with itself."""
    report(
        f"A/A, {how}",
        (lambda seed: compare(device, path, path, seconds=seconds, seed=seed)[0]),
        count,
        1.0,
    )


def different(device: Device, more: Path, less: Path, count: int, seconds: float) -> None:
    """Compare two models whose work differs by 5 %."""
    truth = (LAYERS + 1) / LAYERS
    report(
        f"{LAYERS + 1} against {LAYERS} equal layers",
        (lambda seed: compare(device, more, less, seconds=seconds, seed=seed)[0]),
        count,
        truth,
    )


def simulated(plain: Path, padded: Path, seconds: float) -> None:
    """The same on a simulated device whose noise is known: 500 comparisons, in no time."""
    for spread in (0.005, 0.01, 0.02):

        def run(seed: int, first: Path, spread: float = spread):
            simulation = Simulation(**NOISY, process_noise=spread, seed=seed)
            spec = load_spec("simulated").model_copy(update={"simulation": simulation})
            device = SimulatedDevice(spec)
            clock = lambda: device.elapsed  # noqa: E731
            return compare(device, first, plain, seconds=seconds, seed=seed, clock=clock)[0]

        how = f"simulated, processes differ by {100 * spread:g} %"
        report(f"A/A, {how}", lambda seed: run(seed, plain), 500, 1.0)
        report(f"5 %, {how}", lambda seed: run(seed, padded), 100, (LAYERS + 1) / LAYERS)


def report(name: str, run: Callable[[int], object], count: int, truth: float) -> None:
    """Print how many of `count` comparisons call a difference, and how sure they are."""
    called, held, unstable, widths, ratios = 0, 0, 0, [], []
    for seed in range(count):
        try:
            found = run(seed)
        except UnstableError:
            unstable += 1
            continue
        called += not found.low <= 1.0 <= found.high
        held += found.low <= truth <= found.high
        widths.append((found.high - found.low) / 2 / found.median)
        ratios.append(found.median)
    if not widths:
        print(f"{name}: all {count} unstable", flush=True)
        return
    print(
        f"{name}: {called} of {count} call a difference, {held} hold {truth:.4g}, "
        f"{unstable} unstable; half width median {100 * np.median(widths):.2f} %, "
        f"largest {100 * max(widths):.2f} %; ratios {min(ratios):.4f} to {max(ratios):.4f}",
        flush=True,
    )


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one processor busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    main()
