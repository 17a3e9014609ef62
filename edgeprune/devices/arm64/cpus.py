"""The processors that can be emulated, as Linux describes them to the program."""

from __future__ import annotations

import os
from typing import NamedTuple

V8_0 = "fp asimd aes pmull sha1 sha2 crc32 cpuid"
V8_2 = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


class Cpu(NamedTuple):
    """A processor as the kernel tells of it.

    `part` is its number in MIDR_EL1 (Arm's technical reference manuals), `features` what QEMU 7.2
    announces for it (AT_HWCAP read inside the emulator).
    """

    part: int
    features: str


CPUS = {
    "cortex-a53": Cpu(0xD03, V8_0),
    "cortex-a57": Cpu(0xD07, V8_0),
    "cortex-a72": Cpu(0xD08, V8_0),
    "cortex-a76": Cpu(0xD0B, V8_2),
    "neoverse-n1": Cpu(0xD0C, V8_2),
}


def cpuinfo(name: str) -> str:
    """Return the text of /proc/cpuinfo for the processor called `name`.

    onnxruntime chooses its kernels by it. One entry is given for each processor of this machine,
    since the number of the one that runs the program shows through the emulator.
    """
    cpu = CPUS[name]
    entry = (
        f"model name\t: {name}\nBogoMIPS\t: 100.00\nFeatures\t: {cpu.features}\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {cpu.part:#05x}\nCPU revision\t: 0\n"
    )
    return "".join(f"processor\t: {number}\n{entry}\n" for number in range(processors()))


def processors() -> int:
    """Return how many processors the program may see itself run on."""
    return max(os.cpu_count() or 1, *(number + 1 for number in os.sched_getaffinity(0)))
