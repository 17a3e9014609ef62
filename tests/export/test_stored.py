from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import nn

from edgeprune.export.onnx_graph import export
from edgeprune.export.stored import csr_bytes, stored_size


def test_bytes_of_compressed_sparse_rows() -> None:
    """3 values of 4 bytes with columns of 2, and 2 + 1 row starts of 4: 18 + 12."""
    assert csr_bytes((2, 100), 3, 4) == 30
    assert csr_bytes((2, 70_000), 3, 4) == 36


def test_zeros_shrink_the_stored_file_and_not_the_plain_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    export(model, (torch.zeros(1, 64),), tmp_path / "dense.onnx", opset=20)
    with torch.no_grad():
        model[0].weight[:, 4:].zero_()  # 4 of 64 columns stay
    export(model, (torch.zeros(1, 64),), tmp_path / "masked.onnx", opset=20)
    dense, masked = (stored_size(tmp_path / f"{name}.onnx") for name in ("dense", "masked"))
    assert dense.file_bytes == masked.file_bytes == (tmp_path / "dense.onnx").stat().st_size
    assert (masked.weights, masked.zeros) == (64 * 64 + 8 * 64, 64 * 60)
    assert dense.csr_bytes == dense.file_bytes  # dense matrices stay as they are
    saved = 4 * 64 * 64 - (64 * 4 * (4 + 2) + 4 * 65)
    assert masked.csr_bytes == masked.file_bytes - saved
    content = (tmp_path / "masked.onnx").read_bytes()
    assert masked.gzip_bytes == len(gzip.compress(content, 9, mtime=0)) < dense.gzip_bytes / 2
