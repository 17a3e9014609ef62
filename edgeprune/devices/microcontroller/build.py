"""From C code to firmware: compile, link with the harness, keep the result."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from edgeprune.devices.microcontroller.cache import cache_folder, content_key, keep, trim
from edgeprune.devices.microcontroller.elf import Image, read_image
from edgeprune.devices.microcontroller.sources import Sources
from edgeprune.devices.microcontroller.toolchain import (
    Toolchain,
    harness_folder,
    run_compiler,
    toolchain,
)
from edgeprune.errors import DeviceError, InternalCheckError, UnsupportedModelError
from edgeprune.export.c_text import FREESTANDING
from edgeprune.records import Footprint, Microcontroller

HARNESS = ("start.c", "host.c", "main.c")
OVERFLOW = re.compile(r"region [`']?(FLASH|RAM)'?:? overflowed by (\d+) bytes")
UNDEFINED = re.compile(
    r"(?:undefined symbol: |undefined reference to [`']|undeclared function ')(\w+)"
)


class Firmware(NamedTuple):
    """Firmware that runs a model over samples, as harness.h describes."""

    image: Image
    sources: Sources

    def footprint(self, stack_bytes: int, scratch_used_bytes: int) -> Footprint:
        """Return what the model takes, given what an inference was seen to use."""
        image, sources = self.image, self.sources
        # Only the harness calls these; a program that never asks leaves them out.
        helpers = sum(image.functions[n].bytes for n in sources.helpers if n in image.functions)
        code = image.size(".text", ".ARM.exidx") - helpers
        constants, variables = image.size(".rodata"), image.size(".data")
        static = variables + image.size(".bss")
        return Footprint(
            flash_bytes=code + constants + variables,
            ram_bytes=static + stack_bytes,
            code_bytes=code,
            constant_bytes=constants,
            variable_bytes=variables,
            static_bytes=static,
            stack_bytes=stack_bytes,
            arena_bytes=sources.arena_bytes,
            scratch_bytes=sources.scratch_bytes,
            scratch_used_bytes=scratch_used_bytes,
            io_bytes=sources.io_bytes,
        )


def build(sources: Sources, chip: Microcontroller, machine: str, model: str) -> Firmware:
    """Return firmware of `sources` for `chip`, laid out for `machine` (a .ld file of the harness).

    `model` is its name in messages.
    What was built before from the same content with the same compiler and flags is taken from the
    cache.

    Raises:
        UnsupportedModelError: it does not fit the emulated machine, or calls a function that the
            compiler's library does not have.
        DeviceError: no compiler, or it fails otherwise.
        DeadlineError: the compiler hangs.
    """
    tools = toolchain(chip)
    script = _script(sources, machine)
    texts = [path.read_bytes() for path in sorted(sources.folder.rglob("*.[ch]"))]
    names = [
        str(path.relative_to(sources.folder)) for path in sorted(sources.folder.rglob("*.[ch]"))
    ]
    key = content_key([
        tools.identity, script, sources.adapter, *_harness_texts(), *sources.files,
        *sources.include_dirs, *sources.defines, *names, *texts,
    ])  # fmt: skip
    folder = cache_folder("firmware")
    place = folder / f"{key}.elf"
    if place.exists():
        os.utime(place)
    else:
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            keep(_compile(sources, tools, script, Path(scratch), model), place)
        trim(folder)
    firmware = Firmware(read_image(place), sources)
    _check(firmware)
    return firmware


def _compile(sources: Sources, tools: Toolchain, script: str, scratch: Path, model: str) -> Path:
    """Compile and link in `scratch`; return the ELF file."""
    objects = _harness(tools)
    adapter, linker, elf = scratch / "adapter.c", scratch / "link.ld", scratch / "firmware.elf"
    adapter.write_text(sources.adapter, encoding="utf-8")
    linker.write_text(script, encoding="utf-8")
    compiler = (*tools.command, *tools.flags)
    includes = tuple(f"-I{sources.folder / folder}" for folder in sources.include_dirs)
    library = ("-isystem", str(FREESTANDING)) if tools.bare else ()
    made = scratch / "harness_adapter.o"  # the linker script tells the harness by its file names
    fault = run_compiler(
        (*compiler, *includes, f"-I{harness_folder()}", "-c", str(adapter), "-o", str(made)),
        scratch,
    )
    if not fault:
        ends = () if tools.bare else ("-nostartfiles", "-lm")
        defines = tuple(f"-D{define}" for define in sources.defines)
        files = tuple(str(sources.folder / file) for file in sources.files)
        parts = (*files, str(made), *map(str, objects), "-T", str(linker), "-Wl,--gc-sections")
        fault = run_compiler(
            (*compiler, *defines, *includes, *library, *parts, *ends, "-o", str(elf)), scratch
        )
    if fault:
        raise _explained(fault, tools, model)
    return elf


def _harness(tools: Toolchain) -> list[Path]:
    """Return the compiled harness; the same for every model."""
    place = cache_folder("harness") / content_key([tools.identity, *_harness_texts()])
    if not place.is_dir():
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            made = Path(scratch, "objects")
            made.mkdir()
            pairs = [(file, f"harness_{Path(file).stem}.o") for file in HARNESS]
            if tools.bare:
                pairs.append(("math.c", "math.o"))  # not part of the harness: models call it
            library = ("-isystem", str(FREESTANDING)) if tools.bare else ()
            for file, name in pairs:
                source = str(harness_folder() / file)
                command = (*tools.command, *tools.flags, *library, "-c", source)
                fault = run_compiler((*command, "-o", str(made / name)), made)
                if fault:
                    raise _explained(fault, tools, file)
            keep(made, place)
    return sorted(place.glob("*.o"))


def _script(sources: Sources, machine: str) -> str:
    stack = -(-sources.stack_bytes // 16) * 16
    parts = [(harness_folder() / name).read_text() for name in (f"{machine}.ld", "firmware.ld")]
    return "\n".join([f"__stack_size = {stack};", *parts])


def _harness_texts() -> list[bytes]:
    own = [harness_folder() / name for name in (*HARNESS, "harness.h", "math.c")]
    return [path.read_bytes() for path in (*own, *sorted(FREESTANDING.iterdir()))]


def _explained(fault: str, tools: Toolchain, model: str) -> DeviceError | UnsupportedModelError:
    """Tell a model that cannot become firmware from a compiler that fails."""
    overflow = OVERFLOW.search(fault)
    if overflow:
        what = {"FLASH": "flash", "RAM": "RAM"}[overflow[1]]
        return UnsupportedModelError(
            f"{model} does not fit the emulated machine: {overflow[2]} bytes of {what} too much",
            "a smaller model, or int8 instead of float32",
        )
    missing = sorted(set(UNDEFINED.findall(fault)))
    if missing:
        return UnsupportedModelError(
            f"{model} calls {', '.join(missing)}, which {tools.version} does not bring",
            'a profile with [microcontroller] compiler = "gcc" has the whole C library',
        )
    lines = fault.splitlines()
    first = next((line for line in lines if "error" in line), lines[0])
    return DeviceError(f"{tools.version} does not compile {model}: {first}", "edgeprune doctor")


def _check(firmware: Firmware) -> None:
    """Ensure that every layer is a function of its own: otherwise its count would be another's."""
    known = {name.partition(".")[0] for name in firmware.image.functions}
    lost = [layer.symbol for layer in firmware.sources.layers if layer.symbol not in known]
    if firmware.sources.infer not in known:
        lost.append(firmware.sources.infer)
    if lost:
        raise InternalCheckError(f"the compiler left no function {', '.join(lost[:3])}")
