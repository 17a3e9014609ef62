"""A process that leads to a device: bytes with patience, and a clean end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence

PIECE = 1 << 16
LAST_WORDS = 16_000
LONGEST_LINE = 1 << 20


class Closed(Exception):
    """The process ended or closed its output; `code` is its exit code, `words` its last words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code
        self.words = words


class Silent(Exception):
    """No byte moved for as long as was allowed."""


class Channel:
    """A running process whose standard streams are read and written without waiting for ever.

    It runs in a session of its own: an interrupt from the keyboard reaches us alone, and the other
    side ends when we close its input. `patience` is always the seconds in which no byte moves.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._received = bytearray()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def write(self, data: bytes, patience: float) -> None:
        """Write all of `data`."""
        left = memoryview(data)
        while left:
            self._wait(self._stdin.fileno(), select.POLLOUT, patience)
            try:
                left = left[os.write(self._stdin.fileno(), left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._closed() from None

    def read(self, count: int, patience: float) -> bytes:
        """Read exactly `count` bytes."""
        while len(self._received) < count:
            self._receive(patience)
        return self._take(count)

    def read_line(self, patience: float) -> bytes:
        """Read one line; its end is not part of it."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > LONGEST_LINE:
                raise self._closed()
            self._receive(patience)
        return self._take(end + 1)[:-1]

    def close(self, patience: float = 5.0) -> None:
        """Close the input, which asks the other side to end; after `patience` make it end."""
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._errors.close()

    def _wait(self, descriptor: int, event: int, patience: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(1000 * patience):
            raise Silent

    def _receive(self, patience: float) -> None:
        self._wait(self._stdout.fileno(), select.POLLIN, patience)
        try:
            piece = os.read(self._stdout.fileno(), PIECE)
        except BlockingIOError:
            return
        if not piece:
            raise self._closed()
        self._received += piece

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _closed(self) -> Closed:
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            code = 0
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_WORDS))
        words = self._errors.read().decode("utf-8", "replace")
        return Closed(code, words.replace("\r", "").strip())
