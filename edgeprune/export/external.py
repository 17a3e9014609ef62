"""Which files belong to an ONNX model besides the one that bears its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx

from edgeprune.errors import UnsupportedModelError


def external_files(path: Path) -> dict[str, Path]:
    """Return the files of weights that the model at `path` names: name in the model -> file.

    A file that is no model names none: what is wrong with it is for the runtime to say.

    Raises:
        UnsupportedModelError: a name leads out of the model's folder, or a file is missing.
    """
    if b"location" not in path.read_bytes():  # the key under which a tensor names its file
        return {}
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001 - protobuf raises classes of its own backends
        return {}
    names = {
        entry.value
        for tensor in _tensors(proto.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(names):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise UnsupportedModelError(f"{path}: its weights lie outside of its folder: {name}")
        if not (path.parent / name).is_file():
            raise UnsupportedModelError(f"{path}: its weights are missing: {name}")
    return {name: path.parent / name for name in sorted(names)}


def size_of(path: Path) -> int:
    """Return the bytes of the model at `path` with all its files.

    Raises:
        UnsupportedModelError: a file is missing.
    """
    return sum(file.stat().st_size for file in (path, *external_files(path).values()))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
