"""A whole int8 job on an emulated Cortex-M4."""

from __future__ import annotations

import importlib.util
import json
import subprocess

import pytest

PACKAGES = ("ziglang", "unicorn", "elftools", "emx_onnx_cgen", "bakenn")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.microcontroller,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{', '.join(MISSING)} not installed: pip install -c constraints.txt -e '.[microcontroller]'",
    ),
]


def test_an_int8_job_ships_firmware_that_meets_its_budget(job, edgeprune, tmp_path) -> None:
    text = job.read_text().replace('"60%"', '"60%"\nram_kb = 64\nflash_kb = 64')
    job.write_text(text + '[export]\nprecision = "int8"\n')
    out = tmp_path / "out"
    done = edgeprune("run", job, "--device", "cortex_m4", "--out", out, "--json", timeout=500)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert {gate["name"]: gate["met"] for gate in verdict["gates"]} == dict.fromkeys(
        ("parity", "accuracy", "budget", "speedup", "firmware", "ram", "flash"), True
    )
    budget = verdict["budget"]
    # Widths of so small a network are coarse: no plan of this grid lies above 97 %.
    assert 0.94 * budget["limit"] <= budget["reached"] <= budget["limit"]
    assert (verdict["kind"], verdict["precision"]) == ("emulated", "int8")
    assert verdict["firmware"]["samples"] >= 200
    assert verdict["firmware"]["max_units"] <= 1
    for model in ("dense", "slim"):
        assert verdict[model]["footprint"]["ram_bytes"] > 1000
    assert (
        verdict["slim"]["footprint"]["flash_bytes"] < verdict["dense"]["footprint"]["flash_bytes"]
    )
    listed = {e["name"] for e in json.loads((out / "manifest.json").read_text())["files"]}
    code = {str(p.relative_to(out)) for p in (out / "c").rglob("*") if p.is_file()}
    assert code | {"model.onnx", "model.int8.onnx"} <= listed
    assert {"c/quadrants.c", "c/quadrants.h", "c/README.md"} <= code
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=True)
    card = (out / "README.md").read_text()
    assert '"model.int8.onnx", options' in card
    assert "`c/README.md`" in card
    report = (out / "report.html").read_text()
    section = report[report.index('<section id="memory">') :]
    footprint = verdict["slim"]["footprint"]
    for part in ("arena", "scratch", "stack"):
        assert f'>{part}</th><td class="n">{footprint[f"{part}_bytes"]:,}</td>' in section
    for name in code:
        assert str(tmp_path).encode() not in (out / name).read_bytes(), name


def test_ram_is_a_budget_like_any_other(job, edgeprune) -> None:
    plain = job.read_text() + '[export]\nprecision = "int8"\n'
    job.write_text(plain)
    done = edgeprune("profile", job, "--device", "cortex_m4", "--json", timeout=100)
    assert done.returncode == 0, done.stderr
    dense = json.loads(done.stdout)["runtime_peak_bytes"]
    limit = 0.6 * dense / 1024
    job.write_text(plain.replace('latency = "60%"', f"ram_kb = {limit}"))
    done = edgeprune("plan", job, "--device", "cortex_m4", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (ram,) = document["resources"]
    assert ram["name"] == "ram"
    assert 0.5 * dense < ram["used"] <= 0.6 * dense  # found in the emulator, not predicted
    assert document["held_by"] == ["ram"]
    job.write_text(plain.replace('latency = "60%"', "ram_kb = 0.3"))
    done = edgeprune("plan", job, "--device", "cortex_m4", timeout=300)
    assert done.returncode == 1
    assert "the budget ram of 307 bytes cannot be reached: the smallest value" in done.stderr
    assert "[budget] ram_kb must be at least" in done.stderr
