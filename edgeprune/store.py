"""The run folder: one JSON file a finished stage, written atomically, resumed by identity."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from edgeprune.errors import OutputError, ResumeError
from edgeprune.records import Record

CACHE = "XDG_CACHE_HOME"  # names the folder of the user's cache
SCHEMA = 2
NUMBERED = re.compile(r"\(os error (\d+)\)")  # how safetensors tells an OSError
R = TypeVar("R", bound=Record)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes its place only if the block succeeds.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    except SafetensorError as error:  # what its writer makes of a full disk
        told = NUMBERED.search(str(error))
        cause = OSError(int(told[1]), os.strerror(int(told[1]))) if told else OSError(str(error))
        raise output_error(path, cause) from error
    finally:
        # The write has failed already; a partial file that cannot be removed changes nothing.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return edgeprune's folder in the user's cache: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache") / "edgeprune"


def usable(folder: Path, variable: str, warn: Callable[[str], None]) -> Path | None:
    """Return `folder` if files can be kept there; else None, and `warn` how `variable` helps."""
    try:
        require_writable(folder / "file")
    except OutputError as error:
        warn(f"nothing is kept for later jobs: {error.what}; {variable} may name another folder")
        return None
    return folder


def once(warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that hands its first text on to `warn`, and none after it."""
    told: list[str] = []

    def first(text: str) -> None:
        if not told:
            told.append(text)
            warn(text)

    return first


def keep_text(path: Path, text: str, variable: str, warn: Callable[[str], None]) -> None:
    """Write what only spares later jobs some work to `path`; where that fails, `warn` of it."""
    try:
        write_text(path, text)
    except OutputError as error:
        warn(f"not all is kept for later jobs: {error.what}; {variable} may name another folder")


def require_writable(path: Path) -> None:
    """Make sure that a file can be put at `path`, before work is done for it.

    Raises:
        OutputError: it cannot.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder", "name a file")
    probe = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error to show when `path` could not be written."""
    reason = error.strerror or str(error)
    hint = "choose another folder with --out"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        file = next((parent for parent in path.parents if parent.is_file()), None)
        reason = f"{file} is a file, not a folder" if file else reason
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, then run again with --resume: finished stages are kept"
    return OutputError(f"cannot write {path}: {reason}", hint)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic(path) as partial:
        partial.write_bytes(content)


class RunFolder:
    """The state of one run, in `<out>/.run`.

    An older state is set aside only when there is something to keep: a run that is refused before
    that leaves it as it was.

    Args:
        out: the folder the run ships to.
        identity: everything the results depend on, as name -> text.
        resume: go on with what is there; otherwise an older state is set aside.
        warn: is told, once, that finished stages are done again.

    Raises:
        OutputError: the folder cannot be written, or has no locks.
        ResumeError: another process holds the folder, or its identity differs.
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, str],
        *,
        resume: bool,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.out, self.identity = out, identity
        self._path, self._begun = out / ".run", False
        self._warn, self._warned = warn, False
        self._chain = _digest(identity)  # of all that the next stage rests on
        self._settled: dict[str, str] = {}  # stages of this process -> hash of what they gave
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = (out / ".run.lock").open("a")
        except OSError as error:
            raise output_error(out, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise ResumeError(
                    f"{out} is in use by another run",
                    "wait for it, or choose another folder with --out",
                ) from None
            raise OutputError(
                f"{out / '.run.lock'} cannot be locked: {error.strerror or error}",
                "some network file systems have no locks: choose another folder with --out",
            ) from error
        recorded = self._path / "identity.json"
        if resume and recorded.is_file():
            try:
                self._check_identity(recorded)
            except BaseException:
                self.close()
                raise
            self._begun = True

    @property
    def path(self) -> Path:
        """The folder of the state, made for this run if need be."""
        if not self._begun:
            self._begin()
        return self._path

    def _begin(self) -> None:
        if self._path.exists():
            previous = self.out / ".run.previous"
            try:
                shutil.rmtree(previous, ignore_errors=True)
                self._path.rename(previous)
            except OSError as error:
                raise output_error(self._path, error) from error
        identity = json.dumps(self.identity, indent=1, sort_keys=True)
        write_text(self._path / "identity.json", identity)
        self._begun = True

    def _check_identity(self, recorded: Path) -> None:
        try:
            before = json.loads(recorded.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ResumeError(
                f"{recorded} cannot be read: {error}", "run without --resume"
            ) from None
        if not isinstance(before, dict):
            raise ResumeError(f"{recorded} is damaged", "run without --resume")
        names = sorted({*before, *self.identity})
        changed = [name for name in names if before.get(name) != self.identity.get(name)]
        if changed:
            listed = "".join(
                f"\n  - {name}: was {_short(before.get(name))}, is {_short(after)}"
                for name, after in ((name, self.identity.get(name)) for name in changed)
            )
            raise ResumeError(
                f"{self.out}: the unfinished run is another one:{listed}",
                "run without --resume to start anew, or restore what changed",
            )

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def file(self, name: str) -> Path:
        """Return the path of a file of this run."""
        return self.path / name

    def load(self, stage: str, record: type[R], files: tuple[str, ...] = ()) -> R | None:
        """Return the finished result of `stage`, or None if it has to be done (again).

        A result counts only if its schema fits, and if it and every one of its `files` are as they
        were saved.
        """
        found = self._read(stage, record, files)
        return found[0] if found else None

    def _read(
        self, stage: str, record: type[R], files: tuple[str, ...]
    ) -> tuple[R, dict[str, Any]] | None:
        if not self._begun:
            return None
        path = self.path / f"{stage}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA or document["record"] != record.__name__:
                return None
            recorded = document["files"]
            if any(sha256_of(self.file(name)) != recorded.get(name) for name in files):
                return None
            if document["sha256"] != _digest([recorded, document["result"]]):
                return None
            return record.model_validate(document["result"]), document
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def save(self, stage: str, result: Record, files: tuple[str, ...] = ()) -> str:
        """Write the result of `stage`; its `files` must have been written before.

        Returns:
            A hash of the result and the files.
        """
        hashes = {name: sha256_of(self.file(name)) for name in files}
        content = result.model_dump(mode="json", by_alias=True)
        document = {
            "schema": SCHEMA,
            "stage": stage,
            "record": type(result).__name__,
            "before": self._chain,
            "sha256": _digest([hashes, content]),
            "files": hashes,
            "result": content,
        }
        write_text(self.path / f"{stage}.json", json.dumps(document, indent=1))
        return str(document["sha256"])

    def stage(
        self,
        name: str,
        record: type[R],
        work: Callable[[], R],
        files: tuple[str, ...] = (),
        on_skip: Callable[[str], None] = lambda _: None,
        *,
        aside: bool = False,
    ) -> R:
        """Return the result of stage `name`: the finished one, or that of `work`, saved.

        A finished one counts if the stages before it gave what it was made from. Those after it
        rest on it, unless it stands `aside`.
        """
        found = self._read(name, record, files)
        if found is not None:
            result, document = found
            own, settled = document["sha256"], self._settled.get(name)
            if own == settled or (settled is None and document.get("before") == self._chain):
                on_skip(name)
                self._settle(name, own, aside)
                return result
        self._tell_if_finished(name)
        result = work()
        self._settle(name, self.save(name, result, files), aside)
        return result

    def _settle(self, stage: str, own: str, aside: bool) -> None:
        """Have stages that follow rest on `stage`, asked for again by a second attempt or not."""
        if self._settled.get(stage) != own and not aside:
            self._chain = _digest([self._chain, stage, own])
        self._settled[stage] = own

    def _tell_if_finished(self, stage: str) -> None:
        if self._begun and not self._warned and (self._path / f"{stage}.json").exists():
            self._warned = True
            self._warn(
                f"{self._path}: stage {stage} is of another version, or it or what it rests on has "
                "changed since it was finished: it is done again, and so is what rests on it"
            )


def _digest(value: Any) -> str:
    """Return the SHA-256 of `value` as JSON in its one form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
