"""`edgeprune verify` from the outside."""

from __future__ import annotations

import json
from pathlib import Path


def test_what_a_profile_says_of_its_device_stands_beside_the_comparison(
    inside, convolutions: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    device = tmp_path / "noted.toml"
    device.write_text('alias = "simulated"\ntitle = "noted"\nnote = "its times mean nothing"\n')
    done = inside("verify", convolutions, convolutions, "--device", device, "--json")
    assert json.loads(done.stdout)["note"] == "its times mean nothing", done.stderr
    assert "Its times mean nothing." in done.stderr.splitlines()
