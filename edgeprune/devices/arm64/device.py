"""The emulated ARM64 device: the worker under qemu, whose clock counts instructions."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices.arm64.convolutions import check_convolutions
from edgeprune.devices.arm64.emulator import HERE, SNAPSHOTS, emulate
from edgeprune.devices.arm64.place import Installation, obstacle, usable
from edgeprune.devices.arm64.snapshots import Snapshots
from edgeprune.devices.local import WORKER, failure, session_of
from edgeprune.devices.processes import run
from edgeprune.devices.protocol import Answer, Obstacle, Request
from edgeprune.errors import DeadlineError, DeviceError
from edgeprune.records import DeviceSpec, Environment

__all__ = ["Arm64Device", "obstacle"]

WARMUP_RUNS = 2  # the first run allocates, the second finds its memory planned
GRACE_SECONDS = 300.0  # for the start of the process
MODEL_SECONDS = 60.0  # for each model
NEVER = 1e12  # seconds: the worker's clock counts instructions, so it must not stop by it
EXTERNAL = b"\n\x08location"  # a tensor in another file, as protobuf writes its first key
COMPARABLE = ("numpy", "python", "qemu", "cpu", "counter", "libc", "libstdc++")


@dataclass(frozen=True)
class Arm64Device:
    """An ARM64 processor that qemu emulates; costs are instructions, exact and repeatable.

    The worker is the same as everywhere. The emulator answers its readings of the clock with the
    instructions executed so far, one microsecond each, so its times are counts.
    """

    spec: DeviceSpec

    def ask(self, request: Request) -> Answer:
        """Run the worker on `request` under the emulator and return its answer.

        Raises:
            UnsupportedModelError: onnxruntime does not take a model.
            DeviceError: the emulator fails, or its counts do not belong to the nodes.
            DeadlineError: it did not answer in time.
        """
        found = usable(self.spec)
        if isinstance(found, Obstacle):
            raise DeviceError(f"device {self.spec.name}: {found.why}", found.help)
        installation, cpu = found
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as name:
            scratch = Path(name)
            answer = self._answer(request, installation, cpu, scratch)
            if request.task == "layers":
                snapshots = Snapshots.read(scratch / SNAPSHOTS)
                for asked, model in zip(request.models, answer.models, strict=True):
                    check_convolutions(Path(asked.file), model, snapshots.pair(model.nodes))
        return answer

    def _answer(
        self, request: Request, installation: Installation, cpu: str, scratch: Path
    ) -> Answer:
        links = {f"{index:03d}.onnx": model.file for index, model in enumerate(request.models)}
        question = self._question(request, [_link(scratch, *item) for item in links.items()])
        (scratch / "request.json").write_text(json.dumps(question), encoding="utf-8")
        (scratch / "worker.py").symlink_to(WORKER)
        arguments = [f"{HERE}/{name}" for name in ("worker.py", "request.json", "result.json")]
        started = emulate(installation, cpu, scratch, arguments)
        limit = request.deadline_seconds + GRACE_SECONDS + MODEL_SECONDS * len(request.models)
        try:
            done = run(started.command, scratch, limit, started.environment)
        except subprocess.TimeoutExpired:
            raise DeadlineError(
                f"device {self.spec.name}: no answer within {limit:.0f} s",
                "an emulated inference takes hundreds of times as long as one here",
            ) from None
        if done.code != 0:
            for link, file in links.items():
                done = done._replace(stderr=done.stderr.replace(f"{HERE}/{link}", file))
            raise failure(self.spec, request, done, "edgeprune doctor checks this machine")
        try:
            content = json.loads((scratch / "result.json").read_bytes())
            for asked, model in zip(request.models, content["models"], strict=True):
                model["name"] = asked.name
                model["load_seconds"] = 0.0  # its clock tells no seconds
            answer = Answer.model_validate(content)
        except (OSError, ValueError, LookupError) as error:
            raise DeviceError(f"device {self.spec.name}: unreadable answer: {error}") from error
        return answer.model_copy(
            update={"environment": _environment(answer.environment, installation, cpu)}
        )

    def _question(self, request: Request, files: list[str]) -> dict[str, object]:
        """Return `request` for the worker, about its models in `files`, which name them too.

        Warm-up goes by the number of runs, since the clock there tells no seconds.
        """
        return {
            **request.model_dump(),
            "models": [{"name": Path(file).name, "file": file} for file in files],
            "warmup_runs": WARMUP_RUNS,
            "warmup_seconds": 0.0,
            "deadline_seconds": NEVER,
            "session": session_of(self.spec),
        }


def _link(scratch: Path, link: str, file: str) -> str:
    """Return a short path to the model in `file`: its own, so that its length counts nowhere."""
    path = Path(file)
    if path.is_file() and EXTERNAL in path.read_bytes():  # its weights lie beside it
        (scratch / link).symlink_to(path.parent)
        return f"{HERE}/{link}/{path.name}"
    (scratch / link).symlink_to(path)
    return f"{HERE}/{link}"


def _environment(said: Environment, installation: Installation, cpu: str) -> Environment:
    """Add what decides the counts to what the emulated worker says of itself."""
    facts = {**said.facts, **installation.versions, "counter": installation.counter, "cpu": cpu}
    return Environment(facts=facts, comparable=(*said.comparable, *COMPARABLE))
