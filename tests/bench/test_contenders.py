"""The share of multiply-accumulates that a cut model keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.bench.contenders import counted
from edgeprune.export.onnx_graph import export
from edgeprune.pruning.groups import cut, find_groups


class Read(nn.Module):
    """A recurrent layer of 192 units that reads 48 features, and no more."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(48, 192, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]


class Same(nn.Module):
    """Two layers of 16 channels around a sum: the second reads and writes the channels of one group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.conv(x)).relu().mean((2, 3)))


def share(dense: nn.Module, slim: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> float:
    export(dense, inputs, folder / "dense.onnx", opset=20)
    return counted(slim, inputs, folder / "dense.onnx", opset=20)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_shrink_with_both_widths(kind: type[nn.RNNBase], tmp_path: Path) -> None:
    dense, slim = Read(kind).eval(), Read(kind).eval()
    slim.cells = kind(48, 96, batch_first=True)
    found = share(dense, slim, (torch.randn(1, 5, 48),), tmp_path)
    assert found == pytest.approx((48 + 96) * 96 / ((48 + 192) * 192)) == pytest.approx(0.3)


def test_a_layer_that_reads_and_writes_one_group_shrinks_twice(tmp_path: Path) -> None:
    dense, inputs = Same().eval(), (torch.randn(1, 3, 8, 8),)
    (group,) = find_groups(dense, inputs).groups
    slim = cut(dense, inputs, {group.name: range(8)})
    stem, conv, head = 64 * 3 * 16, 64 * 9 * 16 * 16, 16 * 10
    kept = stem / 2 + conv / 4 + head / 2
    assert share(dense, slim, inputs, tmp_path) == pytest.approx(kept / (stem + conv + head))


def test_depthwise_layers_shrink_once(build, groups_of, tmp_path: Path) -> None:
    dense, inputs = build("separable")
    stem = next(group for group in groups_of("separable").groups if group.width == 16)
    slim = cut(dense, inputs, {stem.name: range(8)})
    first, deep, point, head = 64 * 27 * 16, 16 * 9 * 16, 16 * 16 * 24, 24 * 10
    kept = first / 2 + deep / 2 + point / 2 + head
    found = share(dense, slim, inputs, tmp_path)
    assert found == pytest.approx(kept / (first + deep + point + head))
