"""What the results of a run depend on: compared before an unfinished run is resumed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform

from torch import nn

from edgeprune.data import Data, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.job import Job
from edgeprune.loading import code_digest


def versions() -> dict[str, str]:
    """Return the versions of everything that results depend on."""
    names = ("edgeprune", "torch", "torch-pruning", "onnx", "onnxruntime", "highspy", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def identity_of(job: Job, model: nn.Module, data: Data, device: Device) -> dict[str, str]:
    """Return everything that the results of a run depend on, as name -> text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    sample = hashlib.sha256()
    parts = [first_batches(part, 1, what)[0] for what, part in data.parts().items()]
    for tensor in (*data.example, *(t for inputs, target in parts for t in (*inputs, target))):
        sample.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return {
        "job": job.model_dump_json(exclude={"budget": {"latency"}, "seed": True}),
        "budget": job.budget.asked,
        "seed": str(job.seed),
        "model": hashlib.sha256(repr(model).encode()).hexdigest(),
        "code": code_digest(model, data),
        "weights": digest.hexdigest(),
        "data": sample.hexdigest(),
        "device": device.spec.model_dump_json(),
        **{f"version of {name}": version for name, version in versions().items()},
    }
