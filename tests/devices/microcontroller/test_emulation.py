from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.emulation import Job
from edgeprune.errors import (
    DeadlineError,
    DeviceError,
    InternalCheckError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.microcontroller

LAYER = "static __attribute__((noinline, used)) "
ASSEMBLY = "__attribute__((naked, noinline, used)) "
# Every instruction can be counted by hand.
KNOWN = f"""
{ASSEMBLY} void kernel(void) {{ __asm__("nop\\n nop\\n nop\\n bx lr"); }}
{ASSEMBLY} void first(void) {{
    __asm__("push {{r4, lr}}\\n movs r3, #100\\n 1: subs r3, #1\\n bne 1b\\n"
            "bl kernel\\n pop {{r4, pc}}");
}}
{ASSEMBLY} void second(void) {{
    __asm__("push {{r4, lr}}\\n cmp r0, r0\\n ite ne\\n movne r2, #1\\n moveq r2, #2\\n"
            "bl kernel\\n bl kernel\\n pop {{r4, pc}}");
}}
{ASSEMBLY} void net(const void *x, void *y) {{
    __asm__("push {{r4, lr}}\\n bl first\\n bl second\\n pop {{r4, pc}}");
}}
"""
KERNEL = 4
FIRST = 1 + 1 + 2 * 100 + 1 + KERNEL + 1
SECOND = 5 + 2 * (1 + KERNEL) + 1  # what an IT block passes over is issued, and counts
INFER = 4
ADD_ONE = f"""
{LAYER} void add(const float *x, float *y) {{ for (int i = 0; i < 4; ++i) y[i] = x[i] + 1.0f; }}
void net(const float *x, float *y) {{ add(x, y); }}
"""


def job(firmware, counted: bool = True, samples: int = 1) -> Job:
    return Job("made", firmware, np.arange(4 * samples, dtype=np.float32).tobytes(), counted)


def run(engine, chip, firmware, seconds: float = 60.0, **fields):
    (outcome,) = engine.emulate(chip, [job(firmware, **fields)], seconds)
    return outcome


def test_counts_are_those_worked_out_by_hand(engine, m4, hand_made) -> None:
    firmware = hand_made(KNOWN, "first", "second", engine=engine)
    one, two = (run(engine, m4, firmware) for _ in range(2))
    assert one.counts == two.counts
    assert one.counts.layers == (FIRST, SECOND)
    assert one.counts.infer == INFER
    assert one.counts.total == FIRST + SECOND + INFER


def test_the_harness_is_not_part_of_the_footprint(hand_made) -> None:
    firmware = hand_made(KNOWN, "first", "second")
    own = sum(firmware.image.functions[n].bytes for n in ("kernel", "first", "second", "net"))
    footprint = firmware.footprint(stack_bytes=16, scratch_used_bytes=0)
    assert own <= footprint.code_bytes <= own + 24  # alignment of functions, unwinding entries
    assert (footprint.constant_bytes, footprint.variable_bytes, footprint.static_bytes) == (0, 0, 0)
    assert (footprint.flash_bytes, footprint.ram_bytes) == (footprint.code_bytes, 16)
    assert footprint.io_bytes == 2 * 16


@pytest.mark.parametrize("frame", [8, 64, 2048])
def test_painting_finds_the_deepest_stack(engine, m4, hand_made, frame: int) -> None:
    code = f"""{ASSEMBLY} void net(const void *x, void *y) {{
        __asm__("push {{r4, lr}}\\n sub.w sp, sp, #{frame}\\n str r0, [sp]\\n"
                "add.w sp, sp, #{frame}\\n pop {{r4, pc}}");
    }}"""
    outcome = run(engine, m4, hand_made(code, engine=engine), samples=3)
    assert outcome.stack_bytes == 8 + frame


def test_static_memory_counts_as_ram(hand_made) -> None:
    code = "static float state[100]; static float table[3] = {1, 2, 3};" + ADD_ONE.replace(
        "{ add(x, y); }", "{ add(x, y); y[0] += state[(int)x[1]]++ + table[(int)x[2]]++; }"
    )
    footprint = hand_made(code, "add").footprint(stack_bytes=0, scratch_used_bytes=0)
    assert footprint.variable_bytes == 12
    assert 412 <= footprint.static_bytes <= 416  # aligned
    assert footprint.flash_bytes == footprint.code_bytes + footprint.constant_bytes + 12


def test_many_samples_run_in_one_session(engine, m4, hand_made) -> None:
    outcome = run(engine, m4, hand_made(ADD_ONE, "add", engine=engine), counted=False, samples=100)
    outputs = np.frombuffer(b"".join(outcome.outputs), np.float32)
    np.testing.assert_array_equal(outputs, np.arange(400, dtype=np.float32) + 1)
    assert outcome.counts is None


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 1), (1.0, 99_999)])
def test_no_sample_is_begun_after_the_deadline(
    engine, m4, hand_made, seconds: float, most: int
) -> None:
    code = ADD_ONE.replace("add(x, y)", "for (volatile int i = 0; i < 20000; ++i); add(x, y)")
    asked = job(hand_made(code, "add", engine=engine), counted=False, samples=100_000)
    (outcome,) = engine.emulate(m4, [asked._replace(seconds=seconds)], 60.0)
    assert outcome.stopped
    assert 1 <= len(outcome.outputs) <= most
    outputs = np.frombuffer(b"".join(outcome.outputs), np.float32)
    np.testing.assert_array_equal(outputs, np.arange(len(outputs), dtype=np.float32) + 1)
    assert psutil.Process().children(recursive=True) == []


def test_several_firmwares_share_a_process_and_not_their_counts(m4, hand_made) -> None:
    known, add = hand_made(KNOWN, "first", "second"), hand_made(ADD_ONE, "add")
    one, two, three = unicorn.emulate(m4, [job(known), job(add), job(known)], 60.0)
    assert one.counts == three.counts
    assert one.counts.total == FIRST + SECOND + INFER
    assert len(two.counts.layers) == 1
    assert two.counts == run(unicorn, m4, add).counts


# ------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "statement",
    [
        "*(volatile int *)0x60000000 = 1",
        "y[0] = *(volatile float *)0x70000000",
        '__asm__ volatile("udf #0")',
    ],
)
def test_a_fault_names_the_function(engine, m4, hand_made, statement: str) -> None:
    code = f"{LAYER} void broken(const float *x, float *y) {{ {statement}; y[1] = x[1]; }}\n"
    code += "void net(const float *x, float *y) { broken(x, y); }"
    with pytest.raises(DeviceError, match=r"made: the firmware failed in broken \(0x") as caught:
        run(engine, m4, hand_made(code, "broken", engine=engine))
    assert caught.value.exit_code == 3


def test_a_stack_that_overflows_is_a_fault(engine, m4, hand_made) -> None:
    code = f"""{LAYER} float deep(const float *x, float n) {{
        volatile float room[256];
        room[(int)n & 255] = n;
        return n > 1e6f ? x[0] : deep(x, n + 1) + room[(int)n & 255];
    }}
    void net(const float *x, float *y) {{ y[0] = deep(x, 0); }}"""
    with pytest.raises(DeviceError, match="made: the firmware failed"):
        run(engine, m4, hand_made(code, "deep", engine=engine))


def test_writing_beyond_the_output_breaks_the_canary(engine, m4, hand_made) -> None:
    code = (
        "void net(const float *x, float *y) { for (volatile int i = 0; i < 5; ++i) y[i] = x[0]; }"
    )
    with pytest.raises(DeviceError, match="made: a canary was overwritten in sample 0"):
        run(engine, m4, hand_made(code, engine=engine))


def test_an_endless_loop_runs_out_of_time_and_leaves_nothing(
    engine, m4, hand_made, tmp_path: Path, monkeypatch
) -> None:
    code = 'void net(const float *x, float *y) { for (;;) __asm__ volatile(""); }'
    firmware = hand_made(code, engine=engine)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(DeadlineError, match="made: the emulated firmware did not end") as caught:
        run(engine, m4, firmware, seconds=1.5)
    assert caught.value.exit_code == 124
    assert list(scratch.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


def test_an_emulator_that_dies_is_told(m4, hand_made, tmp_path: Path, monkeypatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("raise MemoryError('no memory')")
    monkeypatch.setattr(unicorn, "WORKER", worker)
    with pytest.raises(DeviceError, match="unicorn failed: MemoryError: no memory"):
        run(unicorn, m4, hand_made(ADD_ONE, "add"))


def test_a_layer_that_the_compiler_dissolved_is_an_error(hand_made) -> None:
    with pytest.raises(InternalCheckError, match="left no function gone"):
        hand_made(ADD_ONE, "add", "gone")


def test_a_function_that_the_library_lacks_is_named(hand_made) -> None:
    code = "float lgammaf(float); void net(const float *x, float *y) { y[0] = lgammaf(x[0]); }"
    with pytest.raises(UnsupportedModelError, match="made calls lgammaf") as caught:
        hand_made(code)
    assert 'compiler = "gcc"' in caught.value.hint


@pytest.mark.parametrize(
    ("declaration", "write", "memory"),
    [
        ("static const float a[2000000] = {[9] = 1.0f}", "", "flash"),
        ("static float a[2000000]", "a[(int)x[1]] = 1;", "RAM"),
    ],
)
def test_a_model_that_does_not_fit_the_machine_is_refused(
    hand_made, declaration: str, write: str, memory: str
) -> None:
    net = f"void net(const float *x, float *y) {{ y[0] = a[(int)x[0]]; {write} }}"
    with pytest.raises(UnsupportedModelError, match=rf"made does not fit .* of {memory} too much"):
        hand_made(f"{declaration};\n{net}", engine=qemu)


def test_c_that_does_not_compile_is_a_fault_of_the_tools(hand_made) -> None:
    with pytest.raises(DeviceError, match=r"does not compile made: .*error"):
        hand_made("void net(void) { return 1 }")
