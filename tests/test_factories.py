"""What factories of a job may do when they are called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeprune.cli import execute
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
