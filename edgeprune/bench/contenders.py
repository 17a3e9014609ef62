"""What is trained and measured for a row of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from edgeprune.bench.training import Progress, Trained
from edgeprune.data import Data
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph


@dataclass(frozen=True)
class Contender:
    """A model to be: its costs over the dense model's, and how it is made and trained.

    Two of equal `identity` train to the same for the same seed. `macs_ratio` is counted when it is
    called: rows that are finished need it no more.
    """

    cost_ratio: float
    macs_ratio: Callable[[], float]
    identity: object
    train: Callable[[Data, int, Progress], Trained]


def counted(slim: nn.Module, inputs: tuple[Tensor, ...], dense: Path, *, opset: int) -> float:
    """Return the multiply-accumulates of `slim` over those of the exported `dense` model.

    They are counted in the exported file: products of widths do not tell what recurrent, grouped
    and depthwise layers keep.

    Args:
        slim: a cut model.
        inputs: example inputs, one tensor an argument.
        dense: the dense model's ONNX file.
        opset: of the export.

    Raises:
        UnsupportedModelError: `slim` cannot be exported.
    """
    whole = read_graph(dense).macs
    with TemporaryDirectory(prefix="edgeprune-") as folder:
        path = Path(folder, "slim.onnx")
        export(slim, inputs, path, opset=opset)
        return read_graph(path).macs / whole if whole else 1.0
