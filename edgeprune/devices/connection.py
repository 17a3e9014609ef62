"""Talking to the agent on a device: files there and back, and Python run there."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from edgeprune.devices import agent
from edgeprune.devices.channel import Channel, Closed
from edgeprune.errors import DeviceError

SOURCE = Path(agent.__file__).read_bytes()
BOOT = "import sys; exec(sys.stdin.buffer.read(int(sys.argv[2])))"
PATIENCE = 60.0  # seconds without a byte, while files move or the agent does small things
MARGIN = 15.0  # seconds that the agent gets to tell of a limit that passed, before we stop waiting
STRAY = 1000  # lines that a login may print before the agent speaks
PIECE = 1 << 20


class Ended(NamedTuple):
    """How a run on the device ended: exit code (None: the limit passed), end of standard error."""

    code: int | None
    words: str


def agent_words(python: str, folder: str | None) -> list[str]:
    """Return the command that starts the agent; its source follows on standard input."""
    return [python, "-I", "-c", BOOT, folder or "", str(len(SOURCE))]


class Connection:
    """One agent at work. A call that does not come to its end closes the connection.

    Raises (this class and its methods):
        Closed: the transport ended.
        Silent: no answer within the time allowed.
        DeviceError: the device refused, for instance because its disk is full.
    """

    def __init__(self, command: Sequence[str], label: str, patience: float) -> None:
        self.label = label
        self._channel = Channel(command)
        greeted = False
        try:
            self._channel.write(SOURCE, patience)
            for _ in range(STRAY):
                if self._channel.read_line(patience) == agent.MARK:
                    break
            else:
                raise DeviceError(f"{label}: the login prints text without end")
            opening = self._reply(patience)
            self.folder = str(opening["folder"])
            self.board = str(opening["board"])
            greeted = True
        finally:
            if not greeted:
                self.close()

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return self._channel.alive

    def close(self) -> None:
        """End the connection; the agent ends what runs and removes its folder."""
        self._channel.close()

    def put(self, name: str, content: bytes | Path) -> None:
        """Store a file in the device's scratch folder."""
        if isinstance(content, bytes):
            self._call({"do": "put", "name": name}, io.BytesIO(content), len(content))
            return
        with content.open("rb") as stream:
            self._call({"do": "put", "name": name}, stream, content.stat().st_size)

    def get(self, name: str) -> bytes:
        """Return a file of the device's scratch folder."""
        reply = self._call({"do": "get", "name": name})
        return bytes(reply["body"])

    def remove(self, *names: str) -> None:
        """Remove files of the device's scratch folder."""
        self._call({"do": "remove", "names": names})

    def run(self, arguments: Sequence[str], limit: float, environment: Mapping[str, str]) -> Ended:
        """Run Python on the device with `arguments`, for `limit` seconds at most."""
        reply = self._call(
            {"do": "run", "arguments": arguments, "limit": limit, "environment": environment},
            patience=limit + MARGIN,
        )
        return Ended(reply["code"], reply["stderr"])

    def _call(
        self,
        message: Mapping[str, object],
        body: BinaryIO | None = None,
        size: int = 0,
        patience: float = PATIENCE,
    ) -> dict[str, Any]:
        finished = False
        try:
            header = {**message, "bytes": size} if body is not None else message
            self._channel.write(json.dumps(header).encode() + b"\n", patience)
            while body is not None and size:
                piece = body.read(min(size, PIECE))
                if not piece:
                    raise DeviceError(f"{self.label}: a file became shorter while it was sent")
                self._channel.write(piece, patience)
                size -= len(piece)
            reply = self._reply(patience, refuse=False)
            if "bytes" in reply:
                reply["body"] = self._channel.read(int(reply["bytes"]), PATIENCE)
            finished = True
        finally:
            if not finished:
                self.close()
        return self._checked(reply)

    def _reply(self, patience: float, refuse: bool = True) -> dict[str, Any]:
        line = self._channel.read_line(patience)
        try:
            reply = json.loads(line)
        except ValueError:
            raise DeviceError(f"{self.label}: unreadable answer: {line[:200]!r}") from None
        if not isinstance(reply, dict):
            raise DeviceError(f"{self.label}: unreadable answer: {line[:200]!r}")
        return self._checked(reply) if refuse else reply

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" in reply:
            raise DeviceError(f"{self.label}: {reply['error']}")
        return reply


__all__ = ["Closed", "Connection", "Ended", "agent_words"]
