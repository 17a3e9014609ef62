"""What was done to a model before its widths were chosen."""

from __future__ import annotations

from edgeprune.records.base import Record
from edgeprune.records.device import Comparison


class MaskedLayer(Record):
    """A parameter that carried a mask: its weights and how many of them are zero."""

    name: str
    weights: int
    zeros: int


class RemovedChannels(Record):
    """A group whose zero channels were removed; `folded` of them were constants other than 0.

    Such a constant went into the bias of the layers that read it.
    """

    group: str
    before: int
    kept: tuple[int, ...]
    folded: int


class ZeroChannels(Record):
    """Channels that are zero in every producer and stay all the same, and why."""

    group: str
    channels: int
    reason: str


class Masks(Record):
    """Masks of a model and what became of them.

    `kind` is a method of kind mask, or "given" where the model came with masks. `layers` are
    counted before anything was removed. `held` are the parameters whose zeros are kept during
    recovery.
    """

    kind: str
    amounts: tuple[float, ...] = ()
    sparse_accelerator: bool = False
    layers: tuple[MaskedLayer, ...]
    removed: tuple[RemovedChannels, ...] = ()
    left: tuple[ZeroChannels, ...] = ()
    held: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of zeros among the masked weights."""
        weights = sum(layer.weights for layer in self.layers)
        return sum(layer.zeros for layer in self.layers) / weights if weights else 0.0


class Chain(Record):
    """Two linear layers and what stands between them: names of layers, or of functions.

    `swappable` says that each is a module of its own that runs once, so that it can be replaced in
    place; otherwise the traced graph is rewritten.
    """

    first: str
    between: tuple[str, ...]
    last: str
    swappable: bool


class Collapse(Record):
    """A chain that was tried: its error, what the metric and the device said, and the outcome.

    `error` is the squared error over the variance of the chain's output, on validation inputs.
    `cost` compares the model before with the model after: above 1 the collapsed one is cheaper.
    """

    chain: Chain
    inputs: int
    outputs: int
    error: float
    max_error: float
    metric_before: float | None = None
    metric_after: float | None = None
    cost: Comparison | None = None
    accepted: bool
    reason: str


class Prepared(Record):
    """The model before widths are chosen; `gain` is the cost of the dense model over its own."""

    masks: Masks | None = None
    collapses: tuple[Collapse, ...] = ()
    gain: Comparison | None = None

    @property
    def changed(self) -> bool:
        """Whether the model differs from the dense one."""
        return self.masks is not None or any(tried.accepted for tried in self.collapses)


class StoredSize(Record):
    """An ONNX file as it is stored: plain, compressed (gzip, level 9), and sparse.

    `csr_bytes` is the file with every weight matrix that gets smaller by it as compressed sparse
    rows: float32 values, column numbers of 16 bits (32 above 65,536 columns), row starts of 32.
    """

    file_bytes: int
    gzip_bytes: int
    csr_bytes: int
    weights: int
    zeros: int
