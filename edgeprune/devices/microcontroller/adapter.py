"""The C file that joins a model's functions to the harness (deploy/microcontroller/harness.h)."""

from __future__ import annotations

import math

from edgeprune.export.float_source import NAME, FloatSource, FloatTensor
from edgeprune.records import CSource

# The stack pointer is read where nothing lies between it and the call.
CALL = """\
void model_infer(void) {{
    __asm__ volatile("mov %0, sp" : "=r"(model_stack_top) : : "memory");
    {call};
    __asm__ volatile("" : : : "memory");
}}
"""


def integer_adapter(source: CSource) -> str:
    """Return the adapter of generated int8 code: input and output in its own arena."""
    name = source.name
    return f"""\
#include "harness.h"
#include "{name}.h"

const uint32_t model_input_bytes = {math.prod(source.input.shape)};
const uint32_t model_output_bytes = {math.prod(source.output.shape)};
uint32_t *model_stack_top;

void *model_input(void) {{ return {name}_input(); }}
void *model_output(void) {{ return {name}_output(); }}
void model_prepare(void) {{ {name}_paint(); }}
uint32_t model_broken(void) {{ return (uint32_t){name}_check(); }}
uint32_t model_scratch_bytes(void) {{ return {name}_scratch_used(); }}
""" + CALL.format(call=f"{name}_infer({name}_input(), {name}_output())")


def float_adapter(source: FloatSource) -> str:
    """Return the adapter of float32 code: tensors side by side, each on a multiple of 16 bytes,
    with guards around the inputs and around the outputs.
    """  # noqa: D205
    places, inputs = _places("input", source.inputs)
    more, outputs = _places("output", source.outputs)
    arguments = ", ".join(places + more)
    declared = ", ".join(["const void *"] * len(places) + ["void *"] * len(more))
    return f"""\
#include "harness.h"

#define GUARD 0x5AFE6A2Du
struct guarded_input {{ uint32_t before[4]; uint8_t bytes[{inputs}]; uint32_t after[4]; }};
struct guarded_output {{ uint32_t before[4]; uint8_t bytes[{outputs}]; uint32_t after[4]; }};
static _Alignas(16) struct guarded_input input;
static _Alignas(16) struct guarded_output output;
void {NAME}({declared});

const uint32_t model_input_bytes = {inputs};
const uint32_t model_output_bytes = {outputs};
uint32_t *model_stack_top;

void *model_input(void) {{ return input.bytes; }}
void *model_output(void) {{ return output.bytes; }}

void model_prepare(void) {{
    for (volatile int i = 0; i < 4; ++i)
        input.before[i] = input.after[i] = output.before[i] = output.after[i] = GUARD;
}}

uint32_t model_broken(void) {{
    uint32_t broken = 0;
    for (volatile int i = 0; i < 4; ++i)
        broken |= (input.before[i] ^ GUARD) | (input.after[i] ^ GUARD) |
                  (output.before[i] ^ GUARD) | (output.after[i] ^ GUARD);
    return broken != 0;
}}

uint32_t model_scratch_bytes(void) {{ return 0; }}

""" + CALL.format(call=f"{NAME}({arguments})")


def _places(buffer: str, tensors: tuple[FloatTensor, ...]) -> tuple[list[str], int]:
    """Return the address of each tensor in `buffer` as C text, and the buffer's bytes."""
    places, offset = [], 0
    for tensor in tensors:
        places.append(f"{buffer}.bytes + {offset}")
        offset += -(-4 * math.prod(tensor.shape) // 16) * 16
    return places, offset
