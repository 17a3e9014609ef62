"""A model as it goes to a device: its files under names made of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bundle:
    """Files that belong together, by name over there; `main` is the one to open."""

    main: str
    files: dict[str, Path]


def bundle_of(path: Path) -> Bundle:
    """Return the model at `path` and the files of weights that it names.

    The same content has the same names, so that what is there already need not go again.

    Raises:
        UnsupportedModelError: its weights are missing or outside of its folder.
    """
    from edgeprune.export.external import external_files

    files = {"model.onnx": path, **external_files(path)}
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{digest_of(file)}\0".encode())
    if len(files) == 1:
        return Bundle(f"{digest.hexdigest()}.onnx", {f"{digest.hexdigest()}.onnx": path})
    # The model finds its weights by their names beside it, so they get a folder to themselves.
    folder = digest.hexdigest()
    return Bundle(
        f"{folder}/model.onnx", {f"{folder}/{name}": file for name, file in files.items()}
    )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
