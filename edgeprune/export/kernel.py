"""A call of a kernel, as the generator of C code writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Constant:
    """An array in flash; `role` becomes part of its name."""

    role: str
    ctype: str
    values: NDArray[Any]

    @property
    def bytes(self) -> int:
        """Size in flash."""
        return int(self.values.nbytes)


@dataclass(frozen=True)
class Kernel:
    """A call: `macro` of the template layers.c.j2, its arguments and constants.

    `scratch` counts pointers as the 4 bytes that they have on the device; `pointers` of them lie in
    it, for the host, where they are larger. `functions` are those of CMSIS-NN that it calls.
    """

    macro: str
    arguments: dict[str, Any]
    constants: tuple[Constant, ...] = ()
    scratch: int = 0
    pointers: int = 0
    functions: tuple[str, ...] = field(default=())
