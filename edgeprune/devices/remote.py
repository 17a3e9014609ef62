"""What ssh and adb have in common: the worker on another machine, in the care of the agent."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from edgeprune.devices.bundle import bundle_of, digest_of
from edgeprune.devices.channel import Closed, Silent
from edgeprune.devices.connection import Connection, Ended, agent_words
from edgeprune.devices.local import WORKER, failure, session_of
from edgeprune.devices.processes import Done
from edgeprune.devices.protocol import Answer, ModelFile, Obstacle, Request
from edgeprune.errors import (
    DeadlineError,
    DeviceError,
    LostDeviceError,
    UnsupportedModelError,
)
from edgeprune.records import DeviceSpec, Environment, Remote

START_SECONDS = 20.0  # for Python to start there, once the connection stands
PROBE_SECONDS = 30.0  # for numpy and onnxruntime to be imported there
PROBE = """
import json, sys
found = {"python": list(sys.version_info[:3])}
for name in ("numpy", "onnxruntime"):
    try:
        found[name] = __import__(name).__version__
    except Exception as error:
        found[name + " fails"] = "%s: %s" % (type(error).__name__, error)
if "onnxruntime" in found:
    found["providers"] = sys.modules["onnxruntime"].get_available_providers()
with open(sys.argv[1], "w") as stream:
    json.dump(found, stream)
"""
OLDEST_PYTHON = [3, 8, 0]
OLDEST_RUNTIME = (1, 16)


class Reach(Protocol):
    """How the agent on one device is started, and how the words of a failure read."""

    @property
    def label(self) -> str:
        """The device in messages, such as `host pi`."""

    @property
    def settings(self) -> Remote:
        """What the profile says about the device."""

    @property
    def facts(self) -> dict[str, str]:
        """How the device was reached, for the environment; nothing that decides comparability."""

    @property
    def connect_seconds(self) -> float:
        """How long a connection may take."""

    @property
    def packages(self) -> str:
        """The command that installs numpy and onnxruntime on the device."""

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the local command that runs `words` on the device."""

    def explain(self, closed: Closed) -> DeviceError:
        """Return what the end of the transport means, and what to do."""


class RemoteDevice:
    """A device behind a transport. Connects when first asked; models go there once.

    The scratch folder on the device and everything that runs there end with the connection: when
    this object is closed or forgotten, when this process ends, or when the line breaks.
    """

    def __init__(self, spec: DeviceSpec, reach: Reach) -> None:
        self._spec = spec
        self._reach = reach
        self._connection: Connection | None = None
        self._pushed: set[str] = set()
        self._asked = 0

    @property
    def spec(self) -> DeviceSpec:
        """The profile of the device."""
        return self._spec

    def ask(self, request: Request) -> Answer:
        """Run the worker over there and return its answer; this process sleeps meanwhile.

        Raises:
            DeviceError: it cannot be reached, or refuses; a `LostDeviceError` if the line breaks.
        """
        try:
            return self._ask(request)
        except Closed as closed:
            explained = self._reach.explain(closed)
            raise LostDeviceError(explained.what, explained.hint) from None
        except Silent:
            raise LostDeviceError(
                f"{self._reach.label} went silent", "is it still on, and the line still up?"
            ) from None

    def close(self) -> None:
        """End the connection; a later question opens a new one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _ask(self, request: Request) -> Answer:
        connection = self._connected()
        self._asked += 1
        asked, answered, inputs, outputs = (
            f"{self._asked}-{name}" for name in ("request.json", "result.json", "in.npz", "out.npy")
        )
        models = [self._push(connection, model) for model in request.models]
        message = {
            **request.model_dump(),
            "models": models,
            "session": session_of(self._spec),
            "inputs": request.inputs and inputs,
            "outputs": request.outputs and outputs,
        }
        if request.inputs:
            connection.put(inputs, Path(request.inputs))
        connection.put(asked, json.dumps(message).encode())
        worker = f"{digest_of(WORKER)}.py"
        self._store(connection, {worker: WORKER})
        grace = self._reach.settings.grace_seconds + 2.0 * len(request.models)
        limit = request.deadline_seconds + grace
        try:
            ended = connection.run(
                [worker, asked, answered], limit, self._reach.settings.environment
            )
        except Silent:
            ended = Ended(None, "")
        if ended.code is None:
            raise DeadlineError(
                f"device {self._spec.name}: no answer within {limit:.0f} s",
                f"is {self._reach.label} overloaded? grace_seconds in its profile allows it more",
            )
        if ended.code != 0:
            raise self._failure(request, models, ended.code, ended.words)
        answer = self._read(connection.get(answered))
        if request.outputs:
            _write(Path(request.outputs), connection.get(outputs))
        connection.remove(asked, answered, inputs, outputs)
        return answer

    def _connected(self) -> Connection:
        if self._connection is None or not self._connection.alive:
            self.close()
            self._pushed.clear()
            try:
                self._connection = connect(self._reach)
            except DeviceError as error:
                if not self._asked:
                    raise
                raise LostDeviceError(error.what, error.hint) from None
            weakref.finalize(self, self._connection.close)  # also when this process ends
        return self._connection

    def _push(self, connection: Connection, model: ModelFile) -> dict[str, str]:
        bundle = bundle_of(Path(model.file))
        self._store(connection, bundle.files)
        return {"name": model.name, "file": bundle.main}

    def _store(self, connection: Connection, files: Mapping[str, Path]) -> None:
        for name, path in files.items():
            if name not in self._pushed:
                connection.put(name, path)
                self._pushed.add(name)

    def _read(self, content: bytes) -> Answer:
        try:
            answer = Answer.model_validate_json(content)
        except ValidationError as error:
            raise DeviceError(f"device {self._spec.name}: unreadable answer: {error}") from error
        environment = answer.environment
        facts = {**environment.facts, **self._reach.facts}
        return answer.model_copy(
            update={"environment": Environment(facts=facts, comparable=environment.comparable)}
        )

    def _failure(
        self, request: Request, models: list[dict[str, str]], code: int, words: str
    ) -> DeviceError | UnsupportedModelError:
        for model, pushed in zip(request.models, models, strict=True):
            words = words.replace(pushed["file"], Path(model.file).name)
        hint = f"try it there: {self._reach.label}"
        if code == -9:
            hint = (
                "a system that runs out of memory ends processes so: is the model too large for it?"
            )
        elif "ModuleNotFoundError" in words or "ImportError" in words:
            hint = self._reach.packages
        return failure(self._spec, request, Done(code, "", words), hint)


def connect(reach: Reach) -> Connection:
    """Return a connection to the agent on a device.

    Raises:
        DeviceError: the device cannot be reached, or has no Python; says why and what to do.
    """
    command = reach.command(agent_words(reach.settings.python, reach.settings.folder))
    seconds = reach.connect_seconds + START_SECONDS
    try:
        return Connection(command, reach.label, seconds)
    except Closed as closed:
        raise reach.explain(closed) from None
    except Silent:
        raise DeviceError(
            f"{reach.label} did not answer within {seconds:.0f} s",
            "is it on and reachable?",
        ) from None
    except OSError as error:
        raise DeviceError(f"{reach.label}: {command[0]} does not start: {error}") from None


def obstacle_at(spec: DeviceSpec, reach: Reach) -> Obstacle | None:
    """Return what keeps the device from answering; connects to find out."""
    try:
        connection = connect(reach)
    except DeviceError as error:
        return Obstacle(error.what, error.hint)
    try:
        connection.put("probe.py", PROBE.encode())
        ended = connection.run(
            ["probe.py", "found.json"], PROBE_SECONDS, reach.settings.environment
        )
        if ended.code is None:
            return Obstacle(
                f"{reach.label}: importing onnxruntime takes over {PROBE_SECONDS:.0f} s"
            )
        if ended.code != 0:
            return Obstacle(f"{reach.label}: Python fails: {ended.words.strip()[-300:]}")
        found = json.loads(connection.get("found.json"))
        return _lacks(spec, reach, connection.board, found)
    except Closed as closed:
        explained = reach.explain(closed)
        return Obstacle(explained.what, explained.hint)
    except Silent:
        return Obstacle(f"{reach.label} went silent", "is it on and reachable?")
    except DeviceError as error:
        return Obstacle(error.what, error.hint)
    finally:
        connection.close()


def _lacks(spec: DeviceSpec, reach: Reach, board: str, found: dict[str, object]) -> Obstacle | None:
    """Return what a device lacks that answered with what it has."""
    wanted = reach.settings.board
    if wanted and wanted not in board:
        return Obstacle(
            f"{reach.label} calls itself {board!r}, and this profile is for {wanted!r}",
            "measure it under its own name: copy the profile and change its name and `board`",
        )
    python = found["python"]
    assert isinstance(python, list)
    if python < OLDEST_PYTHON:
        return Obstacle(
            f"{reach.label} has Python {'.'.join(map(str, python))}; 3.8 or later is needed",
            "name another one with `python` in the profile",
        )
    for name in ("numpy", "onnxruntime"):
        if name not in found:
            return Obstacle(f"{reach.label}: {found[name + ' fails']}", reach.packages)
    version = str(found["onnxruntime"])
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_RUNTIME:
        return Obstacle(f"{reach.label} has onnxruntime {version}; 1.16 or later is needed")
    providers = found["providers"]
    assert isinstance(providers, list)
    missing = [name for name in spec.providers if name not in providers]
    if missing:
        return Obstacle(
            f"onnxruntime on {reach.label} has no {', '.join(missing)} "
            f"(it has {', '.join(providers)})",
            "install a build that has it, or take it out of `providers` in a copy of the profile",
        )
    return None


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(content)
    unfinished.replace(path)
