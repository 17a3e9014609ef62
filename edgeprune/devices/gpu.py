"""A GPU of this machine: the first execution provider of the profile that really answers.

Where none answers and the profile has a roofline, the estimate stands in for the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices import adapters
from edgeprune.devices.local import LocalDevice, runtime_providers
from edgeprune.devices.protocol import Answer, Device, Obstacle, Request, file_of
from edgeprune.devices.roofline import RooflineDevice
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError
from edgeprune.export.fragments import smallest_model
from edgeprune.records import DeviceSpec

PYTHON = "EDGEPRUNE_GPU_PYTHON"
WEBGPU = "WebGpuExecutionProvider"
RESTS = {"TensorrtExecutionProvider": ("CUDAExecutionProvider",)}


@dataclass(frozen=True)
class GpuDevice:
    """A GPU through the worker, run by a Python whose onnxruntime has the provider."""

    spec: DeviceSpec
    python: str | None = None
    adapter: str | None = None

    def ask(self, request: Request) -> Answer:
        """Run the worker on `request`; whole runs copy inputs to the GPU and outputs back."""
        answer = LocalDevice(self.spec, self.python).ask(request)
        facts = dict(answer.environment.facts)
        if self.adapter:
            facts["accelerator"] = self.adapter
        if self.spec.functional_only:
            facts["times"] = "meaningless"
        environment = answer.environment.model_copy(update={"facts": facts})
        return answer.model_copy(update={"environment": environment})


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
    helps = "make webgpu" if spec.providers == (WEBGPU,) else "edgeprune doctor"
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


def cache_folder() -> Path:
    """Return edgeprune's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"


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


def _adapter(python: Path) -> tuple[str | None, bool]:
    """Return the names of the Vulkan adapters, and whether all are software."""
    command = [str(python), "-I", str(Path(adapters.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 and done.stdout else []
    return ", ".join(name for name, _ in found) or None, bool(found) and all(s for _, s in found)
