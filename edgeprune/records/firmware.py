"""What a generated C folder consists of, and where each of its tensors lives."""

from __future__ import annotations

from typing import Literal

from edgeprune.records.base import Record, Shape

Target = Literal["scalar", "dsp", "mve"]


class QuantizedTensor(Record):
    """An int8 tensor at the border of the C code: real value = scale * (integer - zero_point).

    `shape` is that of the ONNX model. The C code holds the axes in the order `permutation` of it,
    such as (0, 2, 3, 1) for an image; `export.tensors.encode` and `decode` convert.
    """

    name: str
    shape: Shape
    permutation: tuple[int, ...]
    scale: float
    zero_point: int


class LayerFunction(Record):
    """One C function: a layer of the network with the operators fused into it.

    `layer` is the torch layer where known. Shapes are those of the ONNX model (NCHW).
    `weight_bytes` counts weights, biases and requantisation parameters in flash.
    """

    symbol: str
    layer: str
    operator: str
    input_shape: Shape
    output_shape: Shape
    macs: int
    weight_bytes: int
    activation_bytes: int
    scratch_bytes: int


class Lifetime(Record):
    """A tensor in the arena: bytes [offset, offset + bytes) belong to it in steps first..last.

    Step i is the call of function i. The network's input is written before step 0, its output is
    read after the last step.
    """

    tensor: str
    bytes: int
    offset: int
    first: int
    last: int


class CSource(Record):
    """A folder of C code for one network and one kind of processor.

    `sources` are the files to compile with `defines` (NAME or NAME=VALUE), `include_dirs` the
    folders to search for headers; all paths are relative to `folder`. RAM of the code is
    `arena_bytes` + `scratch_bytes` + `state_bytes` (canaries, status) and the stack; input and
    output live in the arena. `liveness_bytes` is the largest sum of tensors alive in one step: no
    arena can be smaller.

    The header declares
        void <name>_infer(const int8_t *input, int8_t *output)
        int8_t *<name>_input(void)            place of the input inside the arena
        int8_t *<name>_output(void)           place of the output inside the arena
        int <name>_check(void)                0 if canaries stand (1) and no kernel refused (2)
        void <name>_paint(void)               fill the scratch with a pattern
        uint32_t <name>_scratch_used(void)    bytes of scratch written since then
    `infer` takes any two buffers; with those of `<name>_input` and `<name>_output` the network
    needs no RAM besides its own.
    """

    name: str
    target: Target
    folder: str
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    include_dirs: tuple[str, ...]
    defines: tuple[str, ...]
    documents: tuple[str, ...]
    functions: tuple[LayerFunction, ...]
    input: QuantizedTensor
    output: QuantizedTensor
    arena_bytes: int
    liveness_bytes: int
    scratch_bytes: int
    state_bytes: int
    weight_bytes: int
    lifetimes: tuple[Lifetime, ...]
