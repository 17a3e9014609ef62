"""The process that emulates: `python3 unicorn_worker.py JOBS.json RESULTS.json`.

It imports the standard library and unicorn, and never edgeprune: firmware that crashes the emulator
or never ends takes this process with it and nothing else. Each job names an ELF file, what of it to
load where, and a folder with the file `input`; the firmware writes `output` through semihosting,
ends early where it finds a file `stop`, and with a library to count with, `counts` comes from
`table`.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import unicorn
from unicorn import UcError, arm_const, unicorn_const
from unicorn.unicorn_py3 import unicorn as binding  # a hook in C needs the library itself

CORES = {
    "cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": arm_const.UC_CPU_ARM_CORTEX_M33,
}
PAGE = 4096
SYSTEM_CONTROL = 0xE000E000  # unicorn has no such peripheral; the start-up code writes to it
BREAKPOINT = 7  # number of the exception that BKPT raises
OPEN, PRINT, WRITE, READ, EXIT = 0x01, 0x04, 0x05, 0x06, 0x20  # semihosting, see host.c
MODES = {1: "rb", 5: "wb"}
FILES = ("input", "output", "stop")


class Machine:
    """An emulated core with the memory of one firmware, and its semihosting."""

    def __init__(self, core: str, job: dict[str, Any]) -> None:
        self.engine = unicorn.Uc(
            unicorn_const.UC_ARCH_ARM, unicorn_const.UC_MODE_THUMB | unicorn_const.UC_MODE_MCLASS
        )
        self.engine.ctl_set_cpu_model(CORES[core])
        self.job = job
        self.folder = Path(job["folder"])
        self.files: list[BinaryIO] = []
        self.exit_code: int | None = None
        self.fault = ""
        self._map()
        self._enable_floating_point()
        self.engine.hook_add(unicorn_const.UC_HOOK_INTR, self._on_exception)

    def run(self) -> dict[str, Any]:
        """Run until the firmware exits or fails; say how it ended."""
        self.engine.reg_write(arm_const.UC_ARM_REG_SP, self.job["stack"])
        try:
            self.engine.emu_start(self.job["entry"] | 1, 0xFFFFFFFE)
        except UcError as error:
            self.fault = self.fault or str(error)
        finally:
            for file in self.files:
                file.close()
        address = self.engine.reg_read(arm_const.UC_ARM_REG_PC)
        return {"exit": self.exit_code, "fault": self.fault, "address": address}

    def count_with(self, library: ctypes.CDLL) -> None:
        """Hand every executed block to the counter of unicorn_counter.c."""
        table = self.folder / "table"
        with table.open("rb") as stream:
            base, halfwords = struct.unpack("<2I", stream.read(8))
        code = bytes(self.engine.mem_read(base, 2 * halfwords))
        if not library.counter_start(os.fsencode(table), code, len(code)):
            raise OSError("the table cannot be read")
        hook = ctypes.c_size_t()
        call = ctypes.cast(library.counter_hook, ctypes.c_void_p)
        status = binding.uclib.uc_hook_add(
            self.engine._uch, ctypes.byref(hook), unicorn_const.UC_HOOK_BLOCK, call, None,
            ctypes.c_uint64(1), ctypes.c_uint64(0),
        )  # fmt: skip
        if status != unicorn_const.UC_ERR_OK:
            raise UcError(status)

    def _map(self) -> None:
        """Map whole pages around what the firmware has, and no more: the rest faults."""
        access: dict[int, int] = {
            SYSTEM_CONTROL: unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_WRITE
        }
        for address, size, writable in self.job["regions"]:
            kind = unicorn_const.UC_PROT_READ | (
                unicorn_const.UC_PROT_WRITE if writable else unicorn_const.UC_PROT_EXEC
            )
            for page in range(address // PAGE * PAGE, address + size, PAGE):
                access[page] = access.get(page, 0) | kind
        for start, pages, kind in _runs(access):
            self.engine.mem_map(start, pages * PAGE, kind)
        content = Path(self.job["image"]).read_bytes()
        for address, offset, size in self.job["segments"]:
            self.engine.mem_write(address, content[offset : offset + size])

    def _enable_floating_point(self) -> None:
        self.engine.reg_write(arm_const.UC_ARM_REG_C1_C0_2, 0xF << 20)
        self.engine.reg_write(arm_const.UC_ARM_REG_FPEXC, 1 << 30)

    def _on_exception(self, engine: Any, number: int, _unused: Any) -> None:
        if number != BREAKPOINT:
            self.fault = f"exception {number}"
            engine.emu_stop()
            return
        operation = engine.reg_read(arm_const.UC_ARM_REG_R0)
        argument = engine.reg_read(arm_const.UC_ARM_REG_R1)
        engine.reg_write(
            arm_const.UC_ARM_REG_R0, self._semihosting(operation, argument) & 0xFFFFFFFF
        )
        engine.reg_write(
            arm_const.UC_ARM_REG_PC, (engine.reg_read(arm_const.UC_ARM_REG_PC) + 2) | 1
        )
        if self.exit_code is not None:
            engine.emu_stop()

    def _semihosting(self, operation: int, argument: int) -> int:
        if operation == PRINT:
            return 0  # faults are known here without it
        first, second, third = struct.unpack("<3I", self.engine.mem_read(argument, 12))
        if operation == OPEN:
            name = self.engine.mem_read(first, third).decode("ascii")
            path = self.folder / name
            if name not in FILES or (MODES[second] == "rb" and not path.exists()):
                return -1
            self.files.append(path.open(MODES[second]))
            return len(self.files)
        if operation == READ:
            data = self.files[first - 1].read(third)
            self.engine.mem_write(second, data)
            return int(third - len(data))
        if operation == WRITE:
            self.files[first - 1].write(self.engine.mem_read(second, third))
            return 0
        if operation == EXIT:
            self.exit_code = second
            return 0
        self.fault = f"semihosting operation {operation}"
        self.engine.emu_stop()
        return -1


def _runs(access: dict[int, int]) -> list[tuple[int, int, int]]:
    """Return (first page, number of pages, access) of pages that follow each other alike."""
    runs: list[tuple[int, int, int]] = []
    for page in sorted(access):
        if runs and runs[-1][0] + runs[-1][1] * PAGE == page and runs[-1][2] == access[page]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, access[page])
        else:
            runs.append((page, 1, access[page]))
    return runs


def main(request_path: str, result_path: str) -> None:
    """Carry out the jobs in one file and leave how they ended in the other."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    library = ctypes.CDLL(request["library"]) if request["library"] else None
    results = []
    for job in request["jobs"]:
        machine = Machine(request["core"], job)
        if library is not None:
            machine.count_with(library)
        results.append(machine.run())
        if library is not None and not library.counter_write(
            os.fsencode(job["folder"] + "/counts")
        ):
            raise OSError("the counts cannot be written")
        if results[-1]["exit"] != 0:
            break
    unfinished = Path(result_path + ".partial")
    unfinished.write_text(json.dumps(results), encoding="utf-8")
    unfinished.replace(result_path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
