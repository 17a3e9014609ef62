"""The per-user folder of what can be built again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from edgeprune import store
from edgeprune.errors import DeviceError

LIMIT_BYTES = 1 << 30  # of a folder in the cache


def cache_folder(part: str) -> Path:
    """Return the folder `part` of the cache ($XDG_CACHE_HOME or ~/.cache), made if need be.

    Raises:
        DeviceError: it cannot be written.
    """
    folder = store.cache_folder() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"the cache {folder} cannot be made: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that can be written",
        ) from None
    return folder


def weekly_folder(part: str) -> Path:
    """Return the folder of this week below `part`, and remove those of earlier weeks.

    For caches that grow and whose files cannot be removed one by one.
    """
    year, week, _ = datetime.now(UTC).isocalendar()
    folder = cache_folder(f"{part}/{year}-{week:02}")
    for other in folder.parent.iterdir():
        if other.name < folder.name:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def content_key(parts: Iterable[str | bytes]) -> str:
    """Return a name that differs whenever one of `parts` does."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def keep(made: Path, place: Path) -> None:
    """Put the finished file or folder `made` into the cache as `place`, whole or not at all."""
    unfinished = place.with_name(f"{place.name}.{os.getpid()}-{made.parent.name}.partial")
    if made.is_dir():
        shutil.copytree(made, unfinished)
        try:
            unfinished.rename(place)
        except OSError:  # another process was faster with the same content
            shutil.rmtree(unfinished)
    else:
        shutil.copyfile(made, unfinished)
        unfinished.replace(place)


def trim(folder: Path, limit: int = LIMIT_BYTES) -> None:
    """Remove the files of `folder` that were used longest ago until `limit` bytes are left."""
    found = []
    for path in folder.iterdir():
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:  # another process tidies up too
            continue
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
