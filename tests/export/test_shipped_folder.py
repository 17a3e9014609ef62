"""The C folder in a project of its own: nothing of this checkout but its README is followed."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.devices.microcontroller.elf import read_image
from edgeprune.devices.microcontroller.emulate import WORKER
from edgeprune.devices.microcontroller.toolchain import harness_folder
from edgeprune.devices.spec import load_spec
from edgeprune.errors import OutputError
from edgeprune.export.c_source import generate
from edgeprune.export.tensors import decode, encode
from edgeprune.records import CSource
from tests import factories
from tests.export.conftest import inputs, reference
from tests.test_ship import ship_into

pytestmark = pytest.mark.microcontroller
SHAPE = (1, 3, 11, 9)
SAMPLES = 8
# What another project brings: start-up code, semihosting, linker scripts, and this.
MAIN = """\
#include "harness.h"
#include "small.h"

static const int8_t samples[{count}][SMALL_INPUT_BYTES] = {{{values}}};
static int8_t result[SMALL_OUTPUT_BYTES + 1];

void run(void) {{
    const int file = host_open("output", 5);
    int8_t *const output = result + 1; /* not aligned */
    for (int i = 0; i < {count}; ++i) {{
        small_infer(samples[i], output);
        if (small_check() != 0) host_exit(1);
        if (host_write(file, output, SMALL_OUTPUT_BYTES) != 0) host_exit(2);
    }}
}}
"""
CALLS = {"gcc": "arm-none-eabi-gcc ", "zig": "python3 -m ziglang "}
MACHINES = {"scalar": "unicorn", "dsp": "unicorn", "mve": "mps3-an547"}


class Small(nn.Module):
    """Every kind of kernel: convolutions, pools, addition, concatenation, matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        self.largest, self.head = nn.MaxPool2d(2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.second(x) + self.depthwise(x)
        x = self.largest(torch.cat([x, torch.tanh(x)], 1))
        return self.head(x.mean((2, 3))).softmax(1)


@pytest.fixture(scope="module")
def model(quantized: Callable[..., Path]) -> Path:
    torch.manual_seed(0)
    return quantized(Small().eval(), SHAPE)


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("target", ["scalar", "dsp", pytest.param("mve", marks=pytest.mark.qemu)])
def test_a_project_follows_the_readme_and_gets_the_outputs_of_onnxruntime(
    model: Path, tmp_path: Path, target: str, compiler: str
) -> None:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("NO CROSS COMPILER: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi")
    if target == "mve" and shutil.which("qemu-system-arm") is None:
        pytest.skip("NO QEMU: apt-get install qemu-system-arm")
    source = generate(model, tmp_path / "shipped", name="small", target=target)
    project = tmp_path / "project"
    project.mkdir()
    network = project / "network"
    shutil.move(source.folder, network)  # so that no path leads back to where it was made
    command = documented(network / "README.md", compiler)
    execute(command, network)
    assert [path.name for path in network.glob("*.o")] == ["small.o"]
    samples = inputs(SHAPE, SAMPLES, seed=2)
    elf = link(command, project, source, samples, MACHINES[target])
    written = emulate(elf, project, target)
    size = int(np.prod(source.output.shape))
    got = np.frombuffer(written, np.int8).reshape(SAMPLES, size)
    outputs = np.concatenate([decode(source.output, row) for row in got])
    difference = np.rint((outputs - reference(model, samples)) / source.output.scale)
    assert np.abs(difference).max() <= 1


def test_code_that_is_shipped_again_replaces_all_of_the_older(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, chip = tmp_path / "out", load_spec("cortex_m4").microcontroller
    slim = factories.a_model(tmp_path / "slim.onnx")
    first = ship_into(out, slim, integer_model=model, chip=chip)
    assert {path.name for path in first} >= {"model.int8.onnx", "fashion_resnet.c"}
    (out / "c" / "older.c").write_text("no longer part of it")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("edgeprune.ship.render", full)  # after the code is written
        with pytest.raises(OutputError, match="No space left"):
            ship_into(out, slim, integer_model=model, chip=chip, job_title="another")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    again = ship_into(out, slim, integer_model=model, chip=chip)
    assert again == first
    assert {p for p in out.rglob("*") if p.is_file()} == {*first, out / ".run/report_data.json"}


def documented(readme: Path, compiler: str) -> list[str]:
    """Return the one command of the README that starts with the compiler."""
    lines = [line[4:] for line in readme.read_text().splitlines() if line.startswith("    ")]
    (found,) = [line for line in lines if line.startswith(CALLS[compiler])]
    return shlex.split(found)


def execute(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def link(
    command: list[str], project: Path, source: CSource, samples: np.ndarray, machine: str
) -> Path:
    """Add the project's own files to the objects of the network; return the program."""
    for file in ("start.c", "host.c", "harness.h"):
        shutil.copyfile(harness_folder() / file, project / file)
    scripts = [(harness_folder() / f"{name}.ld").read_text() for name in (machine, "firmware")]
    (project / "board.ld").write_text("\n".join(["__stack_size = 16384;", *scripts]))
    rows = ["{" + ",".join(map(str, encode(source.input, x[None]).ravel())) + "}" for x in samples]
    (project / "main.c").write_text(MAIN.format(count=len(rows), values=",\n".join(rows)))
    target = command[: command.index("-std=c11")]
    starts = [] if "ziglang" in command else ["-nostartfiles"]
    last = [*starts, "-Wl,--gc-sections", "-T", "board.ld", "-o", "program.elf"]
    files = ["main.c", "start.c", "host.c", "network/small.o"]
    execute([*target, "-O2", "-Inetwork", *files, *last], project)
    return project / "program.elf"


def emulate(elf: Path, project: Path, target: str) -> bytes:
    """Run the program to its end; return what it wrote."""
    if target == "mve":
        machine = ["-machine", MACHINES[target], "-display", "none", "-serial", "none"]
        command = ["qemu-system-arm", *machine, "-monitor", "none", "-kernel", str(elf)]
        command += ["-semihosting-config", "enable=on,target=native"]
        subprocess.run(command, cwd=project, check=True, timeout=120)
        return (project / "output").read_bytes()
    image = read_image(elf)
    bottom, end = image.symbols["__stack_bottom"], image.symbols["__bss_end"]
    regions = [*((s.address, s.bytes, False) for s in image.segments), (bottom, end - bottom, True)]
    job = {
        "folder": str(project),
        "image": str(elf),
        "entry": image.symbols["_start"],
        "stack": image.symbols["__stack_top"],
        "segments": image.segments,
        "regions": regions,
    }
    asked, answered = project / "jobs.json", project / "results.json"
    asked.write_text(json.dumps({"core": "cortex-m4", "library": None, "jobs": [job]}))
    command = [sys.executable, "-I", str(WORKER), str(asked), str(answered)]
    subprocess.run(command, check=True, timeout=120)
    (result,) = json.loads(answered.read_text())
    assert (result["exit"], result["fault"]) == (0, "")
    return (project / "output").read_bytes()
