"""The part that keeps house on a remote device: it stores files, runs the worker and cleans up.

Its source goes through the connection and is run by the device's own Python (3.8 or later, standard
library only). One private folder holds everything. When the connection closes, however that comes
about, the worker is ended and the folder removed, so nothing is left behind even if the other side
lost power.

A message is one line of JSON and, where it says `bytes`, as many bytes after it; so is a reply.

    put     name, bytes                     store a file, whole or not at all
    run     arguments, limit, environment   run Python; reply with its exit code and last words
    get     name                            reply with a file
    remove  names                           forget files
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO, Dict, NoReturn

Reply = Dict[str, Any]  # not dict[...]: evaluated on import, and the device may have Python 3.8
MARK = b"edgeprune agent 1"  # what came before it was the login's, not ours
IDLE_SECONDS = 6 * 3600.0
LAST_WORDS = 8000
PIECE = 1 << 20


class Gone(Exception):
    """The other side closed the connection."""


def main(parent: str) -> None:
    """Answer messages on standard input until it closes; `parent` holds the folder ("": any)."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    try:
        folder = tempfile.mkdtemp(prefix="edgeprune-", dir=os.path.expanduser(parent) or None)
    except OSError as error:
        send(outgoing, {"error": "no scratch folder: %s" % error}, opening=True)
        return
    try:
        send(outgoing, {"folder": folder, "board": board()}, opening=True)
        while select.select([incoming], [], [], IDLE_SECONDS)[0]:
            line = incoming.readline()
            if not line:
                break
            answer(json.loads(line), folder, incoming, outgoing)
    except (Gone, BrokenPipeError):
        pass
    finally:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


def leave(*_: object) -> NoReturn:
    """End on a signal by way of the clean-up."""
    sys.exit(1)


def answer(message: Reply, folder: str, incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Carry out one message; what the system refuses is told in the reply."""
    try:
        if message["do"] == "put":
            store(os.path.join(folder, message["name"]), message["bytes"], incoming)
            send(outgoing, {})
        elif message["do"] == "run":
            send(outgoing, run(message, folder, incoming))
        elif message["do"] == "get":
            with open(os.path.join(folder, message["name"]), "rb") as stream:
                send(outgoing, {"bytes": os.fstat(stream.fileno()).st_size}, stream)
        elif message["do"] == "remove":
            for name in message["names"]:
                if os.path.exists(os.path.join(folder, name)):
                    os.remove(os.path.join(folder, name))
            send(outgoing, {})
    except BrokenPipeError:
        raise
    except OSError as error:
        send(outgoing, {"error": str(error)})


def store(path: str, size: int, incoming: BinaryIO) -> None:
    """Write `size` bytes to `path`; they are read to the end even if the disk is full."""
    refused = None
    unfinished = path + ".partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stream = open(unfinished, "wb")  # noqa: SIM115 - closed below, on every way out
    except OSError as error:
        stream, refused = None, error
    while size:
        piece = incoming.read(min(size, PIECE))
        if not piece:
            raise Gone
        size -= len(piece)
        if stream is not None and refused is None:
            try:
                stream.write(piece)
            except OSError as error:
                refused = error
    try:
        if stream is not None:
            stream.close()
    except OSError as error:
        refused = refused or error
    if refused is not None:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise refused
    os.replace(unfinished, path)


def run(message: Reply, folder: str, incoming: BinaryIO) -> Reply:
    """Run this Python; end it when `limit` seconds have passed or the other side leaves."""
    process = subprocess.Popen(
        [sys.executable] + message["arguments"],
        cwd=folder,
        env=dict(os.environ, TMPDIR=folder, **message["environment"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    words, until, ended = b"", time.monotonic() + message["limit"], False
    errors = process.stderr
    assert errors is not None
    try:
        # Asleep until something happens: whoever is measured has the processor to itself.
        while not ended:
            ready = select.select([incoming, errors], [], [], max(0.0, until - time.monotonic()))[0]
            if not ready:
                return {"code": None, "stderr": words.decode("utf-8", "replace")}
            if incoming in ready:
                raise Gone
            piece = os.read(errors.fileno(), PIECE)
            words, ended = (words + piece)[-LAST_WORDS:], not piece
        return {"code": process.wait(), "stderr": words.decode("utf-8", "replace")}
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # over already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        errors.close()


def send(
    outgoing: BinaryIO, reply: Reply, body: BinaryIO | None = None, opening: bool = False
) -> None:
    """Write a reply and the file that goes with it."""
    if opening:
        outgoing.write(b"\n" + MARK + b"\n")
    outgoing.write(json.dumps(reply).encode("utf-8") + b"\n")
    if body is not None:
        shutil.copyfileobj(body, outgoing, PIECE)
    outgoing.flush()


def board() -> str:
    """Return the name that the board gives itself, or that of its architecture."""
    try:
        with open("/proc/device-tree/model", "rb") as stream:
            return stream.read().rstrip(b"\0\n").decode("utf-8", "replace")
    except OSError:
        return os.uname().machine


if __name__ == "__main__":
    main(sys.argv[1])
