"""What the results of a run depend on: compared before an unfinished run is resumed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from edgeprune.data import Data, batches, first_batches
from edgeprune.devices.protocol import Device
from edgeprune.fingerprint import code_digest, factory_digest
from edgeprune.importance.meter import RECALIBRATION_SAMPLES
from edgeprune.importance.shared import Origin
from edgeprune.job import Job
from edgeprune.records import GroupList
from edgeprune.recovery.finetuning import CALIBRATION_SAMPLES
from edgeprune.sections import PruneSection, expanded


def versions() -> dict[str, str]:
    """Return the versions of everything that results depend on."""
    names = ("edgeprune", "torch", "torch-pruning", "onnx", "onnxruntime", "highspy", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return a hash of names, shapes, types and values of a state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def identity_of(job: Job, model: nn.Module, data: Data, device: Device) -> dict[str, str]:
    """Return everything that the results of a run depend on, as name -> text.

    It takes one pass over the data. Of training data nothing but the code that makes it is covered:
    loaders shuffle and augment.
    """
    return {
        **_by_key(job),
        "budget": job.budget.asked,
        "seed": str(job.seed),
        "model": hashlib.sha256(repr(model).encode()).hexdigest(),
        "code": code_digest(model, data),
        "weights": state_digest(model.state_dict()),
        "frozen parameters": _frozen(model),
        "data factory": factory_digest(job.data.factory),
        "example inputs": _digest([data.example]),
        **{f"{what} data": _digest(part) for what, part in _looked_at(job, data)},
        "device": device.spec.model_dump_json(),
        **{f"version of {name}": version for name, version in versions().items()},
    }


def _frozen(model: nn.Module) -> str:
    """Return which parameters recovery does not train: how many, a hash, and the first.

    The hash comes early: refusals show the start of a text, and must show two apart.
    """
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    names = [name for name, trained in flags.items() if not trained]
    if not names:
        return "none"
    if len(names) == len(flags):
        return f"all {len(names)}"
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return f"{len(names)} of {len(flags)} ({digest[:8]}), first {names[0]}"


def _looked_at(job: Job, data: Data) -> Iterator[tuple[str, Iterable[Iterable[Tensor]]]]:
    """Yield (name, tensors batch by batch) of what comes in the same order every time.

    Of calibration that is what is taken from its start; where it stands in for training data, the
    rest is as little known as they are.
    """
    wanted = max(job.prune.calibration_samples, CALIBRATION_SAMPLES)
    for what, part in data.parts().items():
        taken = first_batches(part, wanted, what) if what == "calibration" else batches(part, what)
        yield what, ((*inputs, target) for inputs, target in taken)


def _by_key(job: Job) -> dict[str, str]:
    """Return "job.section.key" -> its value, so that a refusal to resume can name what changed."""
    found: dict[str, str] = {}
    sections = job.model_dump(mode="json", exclude={"budget": {"latency"}, "seed": True})
    for name, value in sections.items():
        inner = value if isinstance(value, dict) else {"": value}
        for key, one in inner.items():
            found[f"job.{name}.{key}".rstrip(".")] = json.dumps(one, sort_keys=True)
    return found


def origin_of(
    job: Job,
    model: nn.Module,
    groups: GroupList,
    samples: int = 0,
    criteria: Sequence[str] = (),
) -> Origin:
    """Return of what scores of `model` are: by `criteria`, from `samples` calibration samples."""
    return Origin(
        job=job.name,
        architecture=hashlib.sha256(repr(model).encode()).hexdigest(),
        weights=state_digest(model.state_dict()),
        groups={group.name: group.width for group in groups.groups},
        criteria=tuple(criteria) or expanded(job.prune.importance),
        samples=samples,
        seed=job.seed,
        version=importlib.metadata.version("edgeprune"),
    )


def curves_base(model: nn.Module, data: Data, settings: PruneSection) -> str:
    """Return a hash of all that sensitivity curves depend on besides groups, widths and scores."""
    samples = max(settings.calibration_samples, RECALIBRATION_SAMPLES)
    taken = first_batches(data.calibration, samples, "calibration")
    parts = (
        state_digest(model.state_dict()),
        repr(model),
        code_digest(model, data),
        _digest((*inputs, target) for inputs, target in taken),
        str(settings.calibration_samples),
        importlib.metadata.version("torch"),
        importlib.metadata.version("edgeprune"),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(taken: Iterable[Iterable[Tensor]]) -> str:
    """Return a hash of the tensors of batches, their shapes and types included."""
    digest = hashlib.sha256()
    for tensor in (tensor for batch in taken for tensor in batch):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
