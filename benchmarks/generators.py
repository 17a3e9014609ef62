"""The generators of C code that benchmarks/microcontroller.py compares, on one int8 model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bakenn
import numpy as np
import onnx
import onnxruntime
from bakenn_graph import NotRebuiltError, rebuild

from edgeprune.devices.microcontroller.adapter import CALL
from edgeprune.devices.microcontroller.sources import (
    STACK_BYTES,
    Border,
    Sources,
    float_sources,
    integer_sources,
)
from edgeprune.export.c_source import generate
from edgeprune.export.float_source import generate_float
from edgeprune.export.integer_graph import read_integer_graph
from edgeprune.export.integer_operators import IntegerGraph
from edgeprune.export.tensors import border, decode, encode
from edgeprune.records import CSource, Microcontroller

BAKENN_ADAPTER = """\
#include "harness.h"
#include "bknn_net.h"

#define GUARD 0x5AFE6A2Du
/* The guard behind the arena is as long as the scratch of the vector extension may be. */
static struct {{
    _Alignas(16) uint8_t arena[BKNN_NET_ARENA_SIZE];
    uint32_t after_arena[4];
    _Alignas(16) int8_t input[BKNN_NET_INPUT_BYTES];
    _Alignas(16) int8_t output[BKNN_NET_OUTPUT_BYTES];
    uint32_t after_output[4];
}} memory;

const uint32_t model_input_bytes = BKNN_NET_INPUT_BYTES;
const uint32_t model_output_bytes = BKNN_NET_OUTPUT_BYTES;
uint32_t *model_stack_top;

void *model_input(void) {{ return memory.input; }}
void *model_output(void) {{ return memory.output; }}
void model_prepare(void) {{
    for (volatile int i = 0; i < 4; ++i) memory.after_arena[i] = memory.after_output[i] = GUARD;
}}
uint32_t model_broken(void) {{
    uint32_t broken = 0;
    for (volatile int i = 0; i < 4; ++i)
        broken |= (memory.after_arena[i] ^ GUARD) | (memory.after_output[i] ^ GUARD);
    return broken != 0;
}}
uint32_t model_scratch_bytes(void) {{ return 0; }}

""" + CALL.format(call="bknn_net_infer(memory.arena, memory.input, memory.output)").replace(
    "{", "{{"
).replace("}", "}}")


@dataclass(frozen=True)
class Code:
    """C code of one generator.

    `caller_bytes` is what the application has to set aside for it: memory that is not in the code
    itself, such as an arena and int8 buffers of input and output. `excluded` are layers that are
    not counted.
    """

    sources: Sources
    caller_bytes: int
    remarks: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    liveness_bytes: int | None = None
    scratch_bytes: int | None = None


Generator = Callable[[Path, Path, Microcontroller], Code]


class NotPossibleError(Exception):
    """A generator cannot make code of a model; the text says why."""


def edgeprune_code(model: Path, folder: Path, chip: Microcontroller) -> Code:
    """edgeprune with its own kernels where there are some."""
    return _integer(generate(model, folder, name="net", target=chip.target))


def cmsis_code(model: Path, folder: Path, chip: Microcontroller) -> Code:
    """edgeprune with the kernels of CMSIS-NN alone."""
    return _integer(generate(model, folder, name="net", target=chip.target, kernels="cmsis_nn"))


def _integer(source: CSource) -> Code:
    return Code(
        integer_sources(source),
        0,
        liveness_bytes=source.liveness_bytes,
        scratch_bytes=source.scratch_bytes,
    )


def emx_qdq(model: Path, folder: Path, _chip: Microcontroller) -> Code:
    """emx-onnx-cgen on the QDQ file as it is: float32 operators between conversions."""
    return _emx(model, folder)


def emx_qoperator(model: Path, folder: Path, _chip: Microcontroller) -> Code:
    """emx-onnx-cgen on the same integers as onnxruntime fuses them: QLinearConv and its like."""
    fused = folder.parent / f"{folder.name}.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(fused)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    _declare_types(fused, read_integer_graph(model))
    return _emx(fused, folder)


def _declare_types(fused: Path, graph: IntegerGraph) -> None:
    """Write types and shapes into the file, which ONNX cannot infer for onnxruntime's operators."""
    proto = onnx.load(fused)
    known = {value.name for value in proto.graph.value_info}
    zero_point = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear").input[2]
    kind = next(t.data_type for t in proto.graph.initializer if t.name == zero_point)
    proto.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, kind, tensor.shape)
        for name, tensor in graph.tensors.items()
        if name not in known
    )
    onnx.save(proto, fused)


def _emx(model: Path, folder: Path) -> Code:
    folder.mkdir()
    source = generate_float(model, folder)
    sources = float_sources(source, folder)
    first = next(f for f in source.functions if f.operator == "QuantizeLinear")
    last = source.functions[-1]
    if last.operator != "DequantizeLinear":
        raise NotPossibleError(f"its code ends with {last.operator}")
    remark = "conversions of input and output are not counted; all tensors on the stack"
    return Code(sources, 0, (remark,), frozenset({first.output, last.output}))


def bakenn_portable(model: Path, folder: Path, _chip: Microcontroller) -> Code:
    """bakenn as it comes: portable C."""
    return _bakenn(model, folder, bakenn.CBackendOptions(target=bakenn.CORTEX_M4))


def bakenn_optimized(model: Path, folder: Path, _chip: Microcontroller) -> Code:
    """bakenn with its kernels for Cortex-M4 and CMSIS-NN."""
    options = bakenn.CBackendOptions(
        kernel_policy=bakenn.KernelPolicy.STATIC_PRIORITY,
        enable_cmsis_nn=True,
        target=bakenn.CORTEX_M4,
    )
    return _bakenn(model, folder, options)


def _bakenn(model: Path, folder: Path, options: bakenn.CBackendOptions) -> Code:
    graph = read_integer_graph(model)
    try:
        rebuilt, remarks = rebuild(graph, "net")
    except NotRebuiltError as error:
        raise NotPossibleError(str(error)) from None
    made = bakenn.compile(rebuilt, folder, model_name="net", backend_options=options).artifacts
    header = (folder / "bknn_net.h").read_text(encoding="utf-8")
    arena = int(re.findall(r"ARENA_SIZE (\d+)u", header)[0])
    source, target = (border(graph.tensors[name]) for name in (graph.input, graph.output))
    support = tuple(str(path.relative_to(folder)) for path in made.support_sources)
    sources = Sources(
        folder=folder,
        files=("bknn_net.c", "bknn_net_weights.c", "bknn_net_kernels.c", *support),
        include_dirs=(".", *(str(p.relative_to(folder)) for p in made.support_include_dirs)),
        defines=("BAKENN_CMSIS_NN_BUILTIN_MEMORY",) if support else (),
        adapter=BAKENN_ADAPTER.format(),
        infer="bknn_net_infer",
        layers=(),
        helpers=(),
        inputs=(Border(source.name, source.shape),),
        output_bytes=math.prod(target.shape),
        encode=lambda arrays: encode(source, arrays[0]).tobytes(),
        decode=lambda data: decode(target, np.frombuffer(data, np.int8)),
        stack_bytes=STACK_BYTES,
        arena_bytes=arena,
        scratch_bytes=0,
        io_bytes=0,
    )
    caller = arena + math.prod(source.shape) + math.prod(target.shape)
    return Code(sources, caller, remarks)


GENERATORS: dict[str, Generator] = {
    "edgeprune": edgeprune_code,
    "edgeprune, CMSIS-NN only": cmsis_code,
    "bakenn, optimised": bakenn_optimized,
    "bakenn, portable": bakenn_portable,
    "emx-onnx-cgen, QOperator": emx_qoperator,
    "emx-onnx-cgen, QDQ": emx_qdq,
}
