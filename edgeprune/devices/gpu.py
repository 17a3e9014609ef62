"""A GPU of this machine: the first execution provider of the profile that really answers.

Where none answers and the profile has a roofline, the estimate stands in for the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.devices import adapters
from edgeprune.devices.advice import command
from edgeprune.devices.gpu_times import require_placement, with_gpu_times
from edgeprune.devices.local import LocalDevice, runtime_providers
from edgeprune.devices.protocol import Answer, Device, Obstacle, Request, file_of
from edgeprune.devices.roofline import RooflineDevice
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError
from edgeprune.export.fragments import smallest_model
from edgeprune.records import DeviceSpec
from edgeprune.store import cache_folder

PYTHON = "EDGEPRUNE_GPU_PYTHON"
WEBGPU = "WebGpuExecutionProvider"
RESTS = {"TensorrtExecutionProvider": ("CUDAExecutionProvider",)}


@dataclass(frozen=True)
class GpuDevice:
    """A GPU through the worker, run by a Python whose onnxruntime has the provider."""

    spec: DeviceSpec
    python: str | None = None
    adapter: str | None = None
    placed: set[tuple[str, int]] = field(default_factory=set, compare=False)

    def ask(self, request: Request) -> Answer:
        """Run the worker on `request`; whole runs copy inputs to the GPU and outputs back.

        Times of layers are those of the GPU itself, and at least two runs are dropped, in which
        shaders are compiled. Before whole runs are timed, a profile shows that the GPU does them.

        Raises:
            DeviceError: a heavy node of a model runs on the CPU.
        """
        worker = LocalDevice(self.spec, self.python)
        if request.task == "time":
            self._check_placement(request)
        if request.task == "layers":
            runs = max(2, request.warmup_runs)
            request = request.model_copy(update={"warmup_runs": runs})
        answer = worker.ask(request)
        models = tuple(with_gpu_times(model) for model in answer.models)
        for model in models:
            require_placement(model.nodes, self.spec.providers[0])
        answer = answer.model_copy(update={"models": models})
        facts = dict(answer.environment.facts)
        facts["accelerator"] = self.adapter or _accelerator()
        facts["io_binding"] = "no: whole runs copy inputs to the device and outputs back"
        if self.spec.functional_only:
            facts["times"] = "meaningless"
        environment = answer.environment.model_copy(update={"facts": facts})
        return answer.model_copy(update={"environment": environment})

    def _check_placement(self, request: Request) -> None:
        """Profile each model once, whose nodes then show where they run."""
        for model in request.models:
            key = (model.file, Path(model.file).stat().st_mtime_ns)
            if key not in self.placed:
                once = Request(task="layers", models=(model,), warmup_runs=2, rounds=1)
                answer = LocalDevice(self.spec, self.python).ask(once)
                require_placement(answer.models[0].nodes, self.spec.providers[0])
                self.placed.add(key)


@dataclass(frozen=True)
class Found:
    """What answered: the GPU, or None, and for each provider before it why it did not."""

    device: GpuDevice | None
    refused: tuple[tuple[str, str], ...]

    @property
    def why(self) -> str:
        """Why no GPU answers, provider by provider where they differ."""
        reasons: dict[str, list[str]] = {}
        for provider, reason in self.refused:
            reasons.setdefault(reason, []).append(provider.removesuffix("ExecutionProvider"))
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


_found: dict[tuple[str, str], Found] = {}


def make(spec: DeviceSpec) -> Device:
    """Return the GPU, or the roofline estimate of the profile where none answers.

    Raises:
        DeviceError: none answers and there is no roofline.
    """
    found = find(spec)
    if found.device is not None:
        return found.device
    standing = stand_in(spec)
    if standing.roofline is None:
        raise DeviceError(f"device {spec.name}: no GPU answers: {found.why}", "edgeprune doctor")
    return RooflineDevice(standing)


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return why no GPU answers where nothing can stand in for it."""
    if spec.roofline is not None:
        return None
    found = find(spec)
    if found.device is not None:
        return None
    helps = command("webgpu") if spec.providers == (WEBGPU,) else "edgeprune doctor"
    return Obstacle(f"no GPU answers: {found.why}", helps)


def stand_in(spec: DeviceSpec) -> DeviceSpec:
    """Return the profile of what answers in this one's name: the GPU, or its estimate."""
    found = find(spec)
    if found.device is not None:
        return found.device.spec
    if spec.roofline is None:
        return spec
    return spec.model_copy(
        update={
            "runtime": "roofline",
            "transport": "roofline",
            "figure": "estimated",
            "title": f"roofline estimate of {spec.roofline.of}",
            "note": f"no GPU answers here: costs are the roofline estimate of {spec.roofline.of}, "
            "from a formula and not measured (edgeprune doctor tells what was tried)",
        }
    )


def find(spec: DeviceSpec) -> Found:
    """Return the first provider of the profile that runs a small model here; asked once."""
    key = (spec.model_dump_json(), os.environ.get(PYTHON, ""))
    if key not in _found:
        _found[key] = _find(spec, python_of(spec))
    return _found[key]


def python_of(spec: DeviceSpec) -> Path:
    """Return the Python that runs the worker: EDGEPRUNE_GPU_PYTHON, the profile's, or this one.

    In the profile `{cache}` stands for edgeprune's folder in the user's cache.
    """
    named = os.environ.get(PYTHON) or (spec.python or sys.executable).replace(
        "{cache}", str(cache_folder())
    )
    return Path(named).expanduser()


def _find(spec: DeviceSpec, python: Path) -> Found:
    refused: list[tuple[str, str]] = []
    if not python.is_file():
        return Found(None, tuple((p, "its Python does not exist") for p in spec.providers))
    try:
        there = runtime_providers(str(python))
    except DeviceError:
        return Found(None, tuple((p, "onnxruntime does not start") for p in spec.providers))
    for provider in spec.providers:
        if provider not in there:
            refused.append((provider, "not in this onnxruntime"))
            continue
        names, software = _adapter(python) if provider == WEBGPU else (None, False)
        if software and not spec.functional_only:
            refused.append((provider, f"{names} is software, whose times mean nothing"))
            continue
        rest = [p for p in RESTS.get(provider, ()) if p in there]  # for what it cannot take
        chosen = spec.model_copy(update={"providers": (provider, *rest)})
        device = GpuDevice(chosen, str(python), names)
        try:
            _run_something(device)
        except (DeviceError, DeadlineError, UnsupportedModelError) as error:
            refused.append((provider, error.what.rpartition(": ")[2]))
            continue
        return Found(device, tuple(refused))
    return Found(None, tuple(refused))


def _run_something(device: GpuDevice) -> None:
    """Profile a convolution; the worker refuses a session that fell back to the CPU."""
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        path = Path(scratch, "smallest.onnx")
        path.write_bytes(smallest_model())
        device.ask(
            Request(task="layers", models=(file_of("smallest", path),), warmup_runs=2, rounds=1)
        )


def _accelerator() -> str:
    """Return the name of an NVIDIA GPU or of the board, as far as the system tells."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    board = Path("/proc/device-tree/model")
    return board.read_text(encoding="utf-8").rstrip("\0") if board.is_file() else "unknown"


def _adapter(python: Path) -> tuple[str | None, bool]:
    """Return the names of the Vulkan adapters, and whether all are software."""
    command = [str(python), "-I", str(Path(adapters.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 and done.stdout else []
    return ", ".join(name for name, _ in found) or None, bool(found) and all(s for _, s in found)
