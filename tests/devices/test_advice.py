"""What is advised exists where edgeprune was installed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.devices.advice import INSTALLED, command
from edgeprune.devices.spec import PACKAGE


@pytest.mark.parametrize("target", INSTALLED)
def test_make_is_advised_where_there_is_a_makefile(target: str, tmp_path: Path) -> None:
    assert command(target) == f"make {target}"
    assert f"\n{target}:" in (PACKAGE.parent / "Makefile").read_text()
    elsewhere = command(target, tmp_path / "edgeprune")
    assert "make" not in elsewhere
    if elsewhere.startswith("bash "):
        assert Path(elsewhere.removeprefix("bash ")).is_file()
