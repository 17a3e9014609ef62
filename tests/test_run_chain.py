"""A finished stage counts only with the results that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from edgeprune.errors import OutputError, ResumeError
from edgeprune.records import Prediction
from edgeprune.store import RunFolder, atomic

NAMES = ("1-groups", "2-price", "3-plan", "4-cut")
IDENTITY = {"job": "a"}
DEEP = "[" * 200_000


class Run:
    """Runs all stages in a folder; each gives the sum of `gives` so far."""

    def __init__(self, out: Path) -> None:
        self.out, self.gives = out, dict.fromkeys(NAMES, 1.0)
        self.told: list[str] = []

    def __call__(self, last: int = len(NAMES), *, aside: tuple[str, ...] = ()) -> list[str]:
        """Go on until before stage `last`; return what was done, not skipped."""
        done: list[str] = []
        total = 0.0
        with RunFolder(self.out, IDENTITY, resume=True, warn=self.told.append) as folder:
            for name in NAMES[:last]:

                def work(name: str = name, before: float = total) -> Prediction:
                    done.append(name)
                    folder.file(f"{name}.bin").write_text(str(self.gives[name]))
                    return Prediction(cost=before + self.gives[name], error=0.0)

                files = (f"{name}.bin",)
                total = folder.stage(name, Prediction, work, files, aside=name in aside).cost
        return done

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.out / ".run" / f"{name}.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_an_interrupted_run_does_nothing_twice(run: Run) -> None:
    assert run(2) == list(NAMES[:2])
    assert run() == list(NAMES[2:])
    assert run() == []
    assert run.told == []


def test_an_edited_result_is_done_again_and_told(run: Run) -> None:
    run()
    run.edit("3-plan", lambda document: document["result"].update(cost=0.001))
    assert run() == ["3-plan"]  # it gives what it gave: what rests on it stays
    (told,) = run.told
    assert "stage 3-plan is of another version, or it or what it rests on has changed" in told
    assert run() == []


def test_what_rests_on_another_result_is_done_again(run: Run) -> None:
    run()
    (run.out / ".run" / "2-price.json").write_text("")  # lost, and now it comes out otherwise
    run.gives["2-price"] = 2.0
    assert run() == list(NAMES[1:])
    assert len(run.told) == 1
    assert run() == []


def test_what_rests_on_another_file_is_done_again(run: Run) -> None:
    """As with the weights of a cut, of which the record holds no more than how many."""
    run()
    (run.out / ".run" / "3-plan.bin").write_text("damaged")
    run.gives["3-plan"] = 1
    assert run() == ["3-plan", "4-cut"]


def test_a_stage_of_another_run_does_not_count(run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "other")
    other.gives["1-groups"] = 2.0
    run()
    other()
    for ending in ("json", "bin"):
        name = f"3-plan.{ending}"
        (run.out / ".run" / name).write_bytes((other.out / ".run" / name).read_bytes())
    assert run() == ["3-plan"]


def test_a_folder_of_an_older_version_is_done_again(run: Run) -> None:
    run()
    for name in NAMES:
        run.edit(name, lambda document: [document.pop(key) for key in ("before", "sha256")])
    assert run() == list(NAMES)
    assert len(run.told) == 1


def test_nothing_rests_on_what_stands_aside(run: Run) -> None:
    aside = NAMES[1:3]
    run(aside=aside)
    run.edit("2-price", lambda document: document["result"].update(cost=0.001))
    run.gives["2-price"] = 2.0
    assert run(aside=aside) == ["2-price"]
    run.edit("1-groups", lambda document: document["result"].update(cost=0.001))
    run.gives["1-groups"] = 2.0
    assert run(aside=aside) == list(NAMES)


def test_a_second_attempt_finds_the_stages_that_it_shares(tmp_path: Path) -> None:
    def stages(folder: RunFolder) -> list[str]:
        done: list[str] = []
        for name in ("step1", "step2", "step1", "again-step2"):
            folder.stage(
                name, Prediction, lambda n=name: done.append(n) or Prediction(cost=1.0, error=0.0)
            )
        return done

    with RunFolder(tmp_path, IDENTITY, resume=False) as folder:
        assert stages(folder) == ["step1", "step2", "again-step2"]
    with RunFolder(tmp_path, IDENTITY, resume=True) as folder:
        assert stages(folder) == []


def test_deeply_nested_files_are_damaged_ones(run: Run) -> None:
    run()
    (run.out / ".run" / "3-plan.json").write_text(DEEP)
    assert run() == ["3-plan"]
    (run.out / ".run" / "identity.json").write_text(DEEP)
    with pytest.raises(ResumeError, match=r"identity\.json cannot be read"):
        run()


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("I/O error: No space left on device (os error 28)", "No space left", "free some space"),
        ("I/O error: Permission denied (os error 13)", "Permission denied", "--out"),
        ("something else", "something else", "--out"),
    ],
)
def test_weights_that_cannot_be_written_are_told_as_other_files(
    tmp_path: Path, said: str, what: str, hint: str
) -> None:
    def write() -> None:
        with atomic(tmp_path / "a.safetensors"):
            raise SafetensorError(f"Error while serializing: {said}")

    with pytest.raises(OutputError, match=what) as caught:
        write()
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())
