"""Hand-made firmware, and the tools that these tests need."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgeprune.devices.microcontroller import emulate as unicorn
from edgeprune.devices.microcontroller import qemu
from edgeprune.devices.microcontroller.build import Firmware, build
from edgeprune.devices.microcontroller.sources import Sources, float_sources
from edgeprune.export.float_source import FloatSource, FloatTensor, NodeFunction
from edgeprune.records import Microcontroller

PACKAGES = ("ziglang", "unicorn", "elftools", "emx_onnx_cgen", "bakenn")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("microcontroller"):
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(
                f"{', '.join(missing)} not installed: pip install -c constraints.txt -e '.[microcontroller]'"
            )
    if item.get_closest_marker("qemu") and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm not installed: apt-get install qemu-system-arm gcc")


@pytest.fixture(scope="session")
def m4() -> Microcontroller:
    return Microcontroller(cpu="cortex-m4", machine="mps2-an386")


@pytest.fixture(params=["unicorn", pytest.param("qemu", marks=pytest.mark.qemu)])
def engine(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two emulators: a module with `emulate`."""
    return {"unicorn": unicorn, "qemu": qemu}[request.param]


@pytest.fixture
def hand_made(tmp_path: Path, m4: Microcontroller) -> Callable[..., Firmware]:
    """C text of `net(x, y)`, 4 floats each, and its layers -> firmware for Cortex-M4."""

    def firmware(code: str, *layers: str, engine: ModuleType = unicorn) -> Firmware:
        machine = "unicorn" if engine is unicorn else m4.machine
        return build(hand_made_sources(tmp_path, code, *layers), m4, machine, "made")

    return firmware


def hand_made_sources(folder: Path, code: str, *layers: str) -> Sources:
    place = folder / "made"
    place.mkdir(exist_ok=True)
    (place / "net.c").write_text("#include <stdint.h>\n#include <math.h>\n" + code)
    tensors = (FloatTensor("x", (1, 4)),), (FloatTensor("y", (1, 4)),)
    functions = tuple(NodeFunction(name, "Op", f"{name}_out") for name in layers)
    return float_sources(FloatSource(("net.c",), *tensors, functions, 0), place)
