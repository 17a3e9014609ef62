"""Answers kept on disk, so that a measurement that was cut short can go on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from edgeprune.devices.protocol import Answer, Device, Request
from edgeprune.errors import ResumeError
from edgeprune.records import DeviceSpec, Environment
from edgeprune.store import CACHE, cache_folder, keep_text, once, sha256_of, usable


@dataclass
class KeptDevice:
    """Asks `device`, and keeps every answer in `folder` under a hash of request and models.

    A request whose answer is kept is not asked again. All answers must come from environments that
    may be compared. Where an answer cannot be kept, `warn` is told of it.
    """

    device: Device
    folder: Path
    environment: Environment | None = field(default=None)
    warn: Callable[[str], None] = lambda _: None

    @property
    def spec(self) -> DeviceSpec:
        """The profile of the device."""
        return self.device.spec

    def ask(self, request: Request) -> Answer:
        """Return the kept answer to `request`, or ask for one and keep it.

        Raises:
            ResumeError: kept answers were taken in another environment.
        """
        path = self.folder / f"{_digest(request)}.json"
        answer = _read(path)
        if answer is None:
            answer = self.device.ask(request)
            keep_text(path, answer.model_dump_json(), CACHE, self.warn)
        if self.environment is None:
            self.environment = answer.environment
        elif differences := self.environment.differences(answer.environment):
            raise ResumeError(
                "finished measurements were taken in another environment:\n  - "
                + "\n  - ".join(differences),
                "run again without --resume",
            )
        return answer

    def forget(self) -> None:
        """Remove all kept answers."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class ResumedDevice:
    """Asks `device`, whose answers must come from the `environment` that a run began in."""

    device: Device
    environment: Environment

    @property
    def spec(self) -> DeviceSpec:
        """The profile of the device."""
        return self.device.spec

    def ask(self, request: Request) -> Answer:
        """Return the answer to `request`.

        Raises:
            ResumeError: it comes from another environment.
        """
        answer = self.device.ask(request)
        if differences := self.environment.differences(answer.environment):
            raise ResumeError(
                f"device {self.spec.name} is not what it was when the run began:\n  - "
                + "\n  - ".join(differences),
                "run without --resume to start anew",
            )
        return answer


def keep(
    device: Device, path: Path, *, resume: bool, warn: Callable[[str], None] = lambda _: None
) -> KeptDevice | None:
    """Return a device that keeps its answers about the model at `path` in the user's cache.

    Without `resume`, what an earlier measurement left is removed. None where the cache cannot be
    written, of which `warn` is told.
    """
    identity = f"{device.spec.model_dump_json()} {sha256_of(path)}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = usable(cache_folder() / "profiles" / name, CACHE, warn)
    if folder is None:
        return None
    kept = KeptDevice(device, folder, warn=once(warn))
    if not resume:
        kept.forget()
    return kept


def _digest(request: Request) -> str:
    """Return a hash of what is asked; models count by their contents, not their paths."""
    asked = request.model_dump()
    asked["models"] = [[m.name, sha256_of(Path(m.file))] for m in request.models]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> Answer | None:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None  # not there, or left by another version: it is measured again
