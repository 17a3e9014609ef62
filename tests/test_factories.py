"""What factories of a job may do when they are called."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from edgeprune import pipeline
from edgeprune.cli import execute
from edgeprune.errors import UsageError
from edgeprune.loading import call_factory


@pytest.fixture
def folder(tmp_path: Path):
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == path  # nothing of a job stays on the path
    for name in set(sys.modules) - modules:
        if name.startswith("toy_"):
            del sys.modules[name]


def test_a_factory_imports_what_lies_beside_it_when_it_is_called(folder: Path) -> None:
    (folder / "toy_helper.py").write_text("VALUE = 7\n")
    (folder / "toy_late.py").write_text(
        "def load():\n    import toy_helper\n    return toy_helper.VALUE\n"
    )
    assert call_factory("toy_late:load", folder, "data.factory") == 7


def test_a_factory_may_clean_the_path_itself(folder: Path) -> None:
    (folder / "toy_tidy.py").write_text(
        "import sys\ndef load():\n    sys.path.pop(0)\n    return 3\n"
    )
    assert call_factory("toy_tidy:load", folder, "data.factory") == 3


def test_a_program_that_ends_itself_is_no_finished_run(folder: Path, capfd) -> None:
    (folder / "toy_script.py").write_text(
        "import sys\ndef build():\n    return None\nsys.exit(0)\n"
    )
    (folder / "job.toml").write_text(
        'name = "n"\n[model]\nfactory = "toy_script:build"\n'
        '[data]\nfactory = "toy_script:build"\n[budget]\nlatency = "50%"\n'
    )
    code = execute(["run", str(folder / "job.toml"), "--device", "simulated"])
    assert code == 2
    assert "importing toy_script failed: SystemExit: 0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", "; with --resume, run goes on from what is finished"),
        ("sensitivity", "; repeat the command: finished groups are kept"),
        ("plan", "; repeat the command: finished groups are kept"),
        ("importance", ""),
    ],
)
def test_an_interrupted_command_says_how_itself_goes_on(
    folder: Path, capfd, monkeypatch, command: str, said: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (folder / "toy_stopped.py").write_text(
        "import os, signal, time\n"
        "def build():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
    )
    (folder / "job.toml").write_text(
        'name = "n"\n[model]\nfactory = "toy_stopped:build"\n'
        '[data]\nfactory = "toy_stopped:build"\n[budget]\nlatency = "50%"\n'
    )
    rest = ["--out", "scores"] if command == "importance" else ["--device", "simulated"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert execute([command, str(folder / "job.toml"), *rest]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err.splitlines()[-1] == f"error: interrupted{said}"


GOES = """\
import os
import torch
from edgeprune.data import Data

def build():
    os.chdir({there!r})
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))

def load():
    batch = [(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))]
    return Data(batch[0][0][:1], batch, batch, batch)
"""


def test_the_folder_of_the_job_is_settled_before_a_factory_leaves(
    folder: Path, monkeypatch, capfd
) -> None:
    (folder / "there").mkdir()
    (folder / "toy_leaves.py").write_text(GOES.format(there=str(folder / "there")))
    (folder / "job.toml").write_text(
        'name = "n"\n[model]\nfactory = "toy_leaves:build"\n'
        '[data]\nfactory = "toy_leaves:load"\n[budget]\nlatency = "50%"\n'
    )
    asked: list[Path] = []

    def noted(job, folder, scores, merge):
        asked.append(folder)
        raise UsageError("far enough")

    monkeypatch.setattr(pipeline, "load_given", noted)
    here = Path.cwd()
    monkeypatch.chdir(folder)
    try:
        code = execute(["run", "job.toml", "--device", "simulated"])
    finally:
        os.chdir(here)
    assert (code, "far enough" in capfd.readouterr().err) == (2, True)
    assert asked == [folder.resolve()]
