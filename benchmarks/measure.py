"""The figures that docs/measuring.md gives for the measuring instrument itself.

    make bench-measure                                  all of it: about two hours
    make bench-measure KEEP=FOLDER                      the same; later calls go on with it
    python benchmarks/measure.py --idle 5 --parts idle  a look
    python benchmarks/measure.py --keep FOLDER --parts padded --for 75     a slice of it

Run it on an idle machine. It prints the conditions and one line for each figure. A comparison
during which other programs kept a tenth of a processor busy is kept, but does not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import psutil
from comparisons import Kept, Run, busy_process, conditions, summarise

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
    parser.add_argument("--idle", type=int, default=200, help="comparisons of a model with itself")
    parser.add_argument("--busy", type=int, default=200, help="the same beside a busy process")
    parser.add_argument("--beside", type=int, metavar="PID", help="of the busy process, if one is")
    parser.add_argument("--padded", type=int, default=100, help="comparisons of 21 with 20 layers")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each, at most")
    parser.add_argument("--device", default="mobile_cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="go on with what lies there")
    parser.add_argument("--for", type=float, default=float("inf"), dest="limit", metavar="SECONDS",
                        help="begin no comparison later than this")  # fmt: skip
    asked = parser.parse_args()
    print(f"conditions: {conditions(asked.device)}, load {psutil.getloadavg()[0]:.2f}", flush=True)
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        device = open_device(asked.device)
        plain, padded = (
            write_convolutions(folder / f"convolutions_{count}.onnx", count, channels=32, size=28)
            for count in (LAYERS, LAYERS + 1)
        )
        if "simulated" in asked.parts:
            simulated(plain, padded, asked.seconds)
        if {"profiles", "time", "idle", "busy"} & set(asked.parts):
            networks = exported(folder)
        if "profiles" in asked.parts:
            profiles(device, networks)
        if "time" in asked.parts:
            wall_clock(networks["reference"], asked.device)
        until = time.monotonic() + asked.limit
        for part in ("idle", "busy", "padded"):
            if part not in asked.parts:
                continue
            if part == "padded":
                first, second, truth = padded, plain, (LAYERS + 1) / LAYERS
                name = f"{LAYERS + 1} against {LAYERS} equal layers"
            else:
                first = second = networks["reference"]
                name, truth = f"A/A, {part}", 1.0
            kept = Kept(folder, part, asked.seconds, conditions(asked.device, (first, second)))
            count = getattr(asked, part)
            with busy_process(asked.beside) if part == "busy" else nullcontext() as besides:
                kept.fill(count, runner(device, first, second, asked.seconds), until, besides)
            kept.report(name, count, truth)


def runner(device: Device, first: Path, second: Path, seconds: float) -> Run:
    """Return the comparison with a seed of its own."""
    return lambda seed: compare(device, first, second, seconds=seconds, seed=1000 * seed)[0]


def exported(folder: Path) -> dict[str, Path]:
    """Export the reference network, MobileNetV2 and ResNet-18; what lies there stays."""
    found = {n: folder / f"{n}.onnx" for n in ("reference", "mobilenet_v2", "resnet18")}
    if all(path.exists() for path in found.values()):
        return found
    import torch

    from edgeprune.export.onnx_graph import export
    from edgeprune.job import load_job
    from edgeprune.loading import call_factory, load_model

    image = torch.zeros(1, 3, 224, 224)
    shapes = ROOT / "examples" / "shapes"
    for name in ("mobilenet_v2", "resnet18"):
        export(call_factory(f"model:{name}", shapes, "model"), (image,), found[name], opset=20)
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


def simulated(plain: Path, padded: Path, seconds: float) -> None:
    """The same on a simulated device whose noise is known: 500 comparisons, in no time."""
    for spread in (0.005, 0.01, 0.02):

        def run(seed: int, first: Path, spread: float = spread):
            simulation = Simulation(**NOISY, process_noise=spread, seed=seed)
            spec = load_spec("simulated").model_copy(update={"simulation": simulation})
            device = SimulatedDevice(spec)
            clock = lambda: device.elapsed  # noqa: E731
            try:
                found = compare(
                    device, first, plain, seconds=seconds, seed=1000 * seed, clock=clock
                )[0]
            except UnstableError:
                return None
            return found.median, found.low, found.high

        how = f"simulated, processes differ by {100 * spread:g} %"
        summarise(f"A/A, {how}", [run(seed, plain) for seed in range(500)], 1.0)
        truth = (LAYERS + 1) / LAYERS
        summarise(f"5 %, {how}", [run(seed, padded) for seed in range(100)], truth)


if __name__ == "__main__":
    main()
