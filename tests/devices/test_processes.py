from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from edgeprune.devices.processes import end_all, run
from tests.running import command, wait_until_ended

# A child that starts a child of its own, as zig does, and waits.
NESTED = (
    "import subprocess, sys; "
    "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', *sys.argv[1:]])"
)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_output_and_exit_code_come_back(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd()); print('a\\nlast', file=sys.stderr); sys.exit(3)"
    done = run([sys.executable, "-c", code], tmp_path, 30.0)
    assert (done.code, done.stdout.strip(), done.last_line) == (3, str(tmp_path), "last")


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = str(tmp_path)  # tests beside this one start such processes too
    with pytest.raises(subprocess.TimeoutExpired):
        run([sys.executable, "-c", NESTED, mark], tmp_path, 5.0)
    assert children() == []
    assert [p for p in psutil.process_iter() if mark in command(p)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of the dead")
def test_a_tethered_command_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "import sys; from pathlib import Path\n"
        "from edgeprune.devices.processes import run\n"
        f"run([sys.executable, '-c', {child!r}], Path({str(tmp_path)!r}), 60.0, tethered=True)"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as started:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.02)
        tied = psutil.Process(int(pid.read_text()))
        started.kill()
    wait_until_ended([tied])


def test_what_other_threads_wait_for_can_be_ended(tmp_path: Path) -> None:
    codes: list[int] = []
    nested = [sys.executable, "-c", NESTED]
    thread = threading.Thread(target=lambda: codes.append(run(nested, tmp_path, 60.0).code))
    thread.start()
    while len(children()) < 2:
        time.sleep(0.01)
    end_all()
    thread.join(10.0)
    assert codes == [-9]
