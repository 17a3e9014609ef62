"""What an ELF file of firmware holds: sections, segments to load, functions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

IN_MEMORY = 2  # SHF_ALLOC


class Section(NamedTuple):
    """A section in memory: address and size in bytes."""

    address: int
    bytes: int


class Segment(NamedTuple):
    """Bytes of the file to load: where they go, where they lie in the file, how many."""

    address: int
    offset: int
    bytes: int


class Function(NamedTuple):
    """A function of the code: first address and size in bytes."""

    address: int
    bytes: int


class Image(NamedTuple):
    """The parts of an ELF file that an emulator and a counter need."""

    path: Path
    sections: dict[str, Section]
    segments: tuple[Segment, ...]
    functions: dict[str, Function]
    symbols: dict[str, int]

    def size(self, *names: str) -> int:
        """Return the bytes of the sections called `names` together; a missing one has none."""
        return sum(self.sections[name].bytes for name in names if name in self.sections)

    def where(self, address: int) -> str:
        """Return the function that holds `address`, for messages."""
        for name, function in self.functions.items():
            if function.address <= address < function.address + max(function.bytes, 2):
                return f"{name} (0x{address:08x})"
        return f"0x{address:08x}"


def read_image(path: Path) -> Image:
    """Return what the ELF file at `path` holds."""
    from elftools.elf.elffile import ELFFile  # of an extra that need not be installed

    with path.open("rb") as stream:
        elf = ELFFile(stream)
        sections = {
            section.name: Section(section["sh_addr"], section["sh_size"])
            for section in elf.iter_sections()
            if section["sh_flags"] & IN_MEMORY
        }
        loaded = [
            Segment(segment["p_paddr"], segment["p_offset"], segment["p_filesz"])
            for segment in elf.iter_segments("PT_LOAD")
            if segment["p_filesz"]
        ]
        functions, symbols = {}, {}
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            symbols[symbol.name] = symbol["st_value"]
            if symbol["st_info"]["type"] == "STT_FUNC":
                functions[symbol.name] = Function(symbol["st_value"] & ~1, symbol["st_size"])
        return Image(path, sections, tuple(loaded), functions, symbols)
