from __future__ import annotations

import pytest

from edgeprune.devices.arm64.device import Arm64Device, obstacle
from edgeprune.devices.spec import load_spec


@pytest.fixture(scope="session")
def arm64() -> Arm64Device:
    """The emulated Cortex-A76; tests that need it are skipped where it is not set up."""
    spec = load_spec("arm64_emulated")
    if (found := obstacle(spec)) is not None:
        pytest.skip(f"NOT TESTED, {found.why}. Set it up with: {found.help}")
    return Arm64Device(spec)
