"""How large an ONNX file is as it is stored: plain, compressed, and with sparse weights."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgeprune.export.onnx_graph import load
from edgeprune.records import StoredSize

LEVEL = 9  # of gzip


def stored_size(path: Path) -> StoredSize:
    """Return the sizes of the ONNX file at `path` in bytes.

    Weights are all initializers of two and more dimensions, as matrices [first axis, rest].

    Raises:
        UnsupportedModelError: not an ONNX file.
    """
    content = path.read_bytes()
    weights = zeros = saved = 0
    for tensor in load(path).graph.initializer:
        if len(tensor.dims) < 2 or tensor.data_type not in _WEIGHTS:
            continue
        array = numpy_helper.to_array(tensor)
        matrix = array.reshape(len(array), -1)
        filled = int(np.count_nonzero(matrix))
        weights += matrix.size
        zeros += matrix.size - filled
        saved += max(0, array.nbytes - csr_bytes(matrix.shape, filled, array.itemsize))
    return StoredSize(
        file_bytes=len(content),
        gzip_bytes=len(gzip.compress(content, LEVEL, mtime=0)),
        csr_bytes=len(content) - saved,
        weights=weights,
        zeros=zeros,
    )


def csr_bytes(shape: tuple[int, ...], filled: int, itemsize: int) -> int:
    """Return the bytes of a matrix [rows, columns] as compressed sparse rows.

    Each value that is not zero takes `itemsize` and its column number (2 bytes, 4 above 65,536
    columns), each row 4 bytes for its start, and 4 more for the end.
    """
    rows, columns = shape
    return filled * (itemsize + (2 if columns <= 2**16 else 4)) + 4 * (rows + 1)


_WEIGHTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8)
