from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeprune.errors import OutputError, ResumeError, UsageError
from edgeprune.records import ModelProfile, Parity, Prediction
from edgeprune.store import RunFolder, atomic, output_error, sha256_of, write_bytes, write_text

RESULT = Prediction(cost=1.25, error=0.5)
IDENTITY = {"job": "a", "seed": "0"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "out", IDENTITY, resume=False) as folder:
        yield folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------ atomic files


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"edge")
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"edge").hexdigest()


def test_files_are_written_with_their_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b/t.txt", "naïve\n")
    write_bytes(tmp_path / "a/b/b.bin", b"\x00\xff")
    assert (tmp_path / "a/b/t.txt").read_bytes() == "naïve\n".encode()
    assert (tmp_path / "a/b/b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a/b") == {"t.txt", "b.bin"}


def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as partial:
            partial.write_text("half of the n")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"f"}


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with atomic(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == path.parent  # a rename across file systems would not be atomic
    assert path.read_text() == "new"


def test_who_has_the_old_file_open_keeps_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with path.open() as reader:
        write_text(path, "new")  # another file under this name, not the same one written over
        assert reader.read() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeprune.store import atomic
with atomic(Path(sys.argv[1])) as partial:
    partial.write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_between_the_writing_and_the_renaming_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "newer")  # and what was left of it is not in the way
    assert path.read_text() == "newer"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*a/b") as caught:
        write_text(tmp_path / "a/b", "text")
    assert "--out" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_folder_that_takes_no_files() -> None:
    with pytest.raises(OutputError, match="cannot write /proc/edgeprune/f"):
        write_text(Path("/proc/edgeprune/f"), "text")


def test_a_full_device(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    (tmp_path / f".f.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left") as caught:
        write_bytes(path, b"x" * 100_000)
    assert "free some space" in caught.value.hint
    assert "--resume" in caught.value.hint
    assert path.read_text() == "old"
    assert names(tmp_path) == {"f"}


def test_what_safetensors_cannot_write_is_told(tmp_path: Path) -> None:
    told = pytest.raises(OutputError, match=r"cannot write .*a\.safetensors")
    with told, atomic(tmp_path / "a.safetensors"):
        save_file({"a": torch.ones(2)}, tmp_path / "gone" / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_errors_of_unknown_number_still_say_something() -> None:
    assert "oops" in str(output_error(Path("f"), OSError("oops")))


# ------------------------------------------------------------------------------------- run folders


def test_a_stage_is_done_once(run: RunFolder) -> None:
    calls: list[str] = []
    skipped: list[str] = []

    def work() -> Prediction:
        calls.append("worked")
        return RESULT

    assert run.stage("price", Prediction, work, on_skip=skipped.append) == RESULT
    assert run.stage("price", Prediction, work, on_skip=skipped.append) == RESULT
    assert (calls, skipped) == (["worked"], ["price"])


def test_a_stage_that_fails_leaves_nothing(run: RunFolder) -> None:
    def work() -> Prediction:
        raise RuntimeError("stop")

    before = names(run.path)
    with pytest.raises(RuntimeError, match="stop"):
        run.stage("price", Prediction, work)
    assert names(run.path) == before
    assert run.load("price", Prediction) is None


def test_results_survive_the_process(tmp_path: Path) -> None:
    with RunFolder(tmp_path, IDENTITY, resume=False) as first:
        first.save("price", RESULT)
    with RunFolder(tmp_path, IDENTITY, resume=True) as second:
        assert second.load("price", Prediction) == RESULT


def test_without_resume_the_older_state_is_set_aside(tmp_path: Path) -> None:
    for _ in range(3):
        with RunFolder(tmp_path, IDENTITY, resume=False) as run:
            assert run.load("price", Prediction) is None
            run.save("price", RESULT)
    assert (tmp_path / ".run.previous/price.json").is_file()


def test_a_run_that_is_refused_before_its_first_result_leaves_the_older_one(
    tmp_path: Path,
) -> None:
    def work() -> Prediction:
        raise UsageError("no such layer")

    with RunFolder(tmp_path, IDENTITY, resume=False) as run:
        run.save("price", RESULT)
    with (
        pytest.raises(UsageError, match="no such layer"),
        RunFolder(tmp_path, {"job": "b"}, resume=False) as other,
    ):
        other.stage("price", Prediction, work)
    assert not (tmp_path / ".run.previous").exists()
    with RunFolder(tmp_path, IDENTITY, resume=True) as run:
        assert run.load("price", Prediction) == RESULT
    with RunFolder(tmp_path, {"job": "b"}, resume=False) as other:
        assert other.load("price", Prediction) is None
        other.file("scores").write_text("the first thing to keep")
    assert (tmp_path / ".run.previous/price.json").is_file()
    assert names(tmp_path / ".run") == {"identity.json", "scores"}


def test_what_was_shipped_before_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("shipped")
    with RunFolder(tmp_path, IDENTITY, resume=False):
        pass
    assert (tmp_path / "model.onnx").read_text() == "shipped"


def test_resume_in_an_empty_folder_starts_anew(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "new", IDENTITY, resume=True) as run:
        assert json.loads((run.path / "identity.json").read_text()) == IDENTITY


def test_stages_without_identity_are_not_believed(tmp_path: Path) -> None:
    with RunFolder(tmp_path, IDENTITY, resume=False) as run:
        run.save("price", RESULT)
        (run.path / "identity.json").unlink()
    with RunFolder(tmp_path, IDENTITY, resume=True) as run:
        assert run.load("price", Prediction) is None


@pytest.mark.parametrize(
    ("identity", "listed"),
    [
        ({"job": "b", "seed": "0"}, ["job: was a, is b"]),
        ({"job": "a"}, ["seed: was 0, is absent"]),
        ({**IDENTITY, "device": "x" * 64}, ["device: was absent, is xxx"]),
        ({"job": "b", "seed": "1"}, ["job: was a, is b", "seed: was 0, is 1"]),
    ],
)
def test_resume_of_another_run_is_refused(
    tmp_path: Path, identity: dict[str, str], listed: list[str]
) -> None:
    with RunFolder(tmp_path, IDENTITY, resume=False) as run:
        run.save("price", RESULT)
    with pytest.raises(ResumeError, match="another one") as caught:
        RunFolder(tmp_path, identity, resume=True)
    assert all(line in str(caught.value) for line in listed)
    assert "without --resume" in caught.value.hint
    with RunFolder(tmp_path, IDENTITY, resume=True) as run:  # given free, and nothing lost
        assert run.load("price", Prediction) == RESULT


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"text"', "\x00"])
def test_an_identity_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    with RunFolder(tmp_path, IDENTITY, resume=False) as run:
        (run.path / "identity.json").write_text(content)
    with pytest.raises(ResumeError, match=r"identity\.json") as caught:
        RunFolder(tmp_path, IDENTITY, resume=True)
    assert "without --resume" in caught.value.hint
    RunFolder(tmp_path, IDENTITY, resume=False).close()


def test_a_folder_in_use_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, IDENTITY, resume=False),
        pytest.raises(ResumeError, match="in use by another run"),
    ):
        RunFolder(tmp_path, IDENTITY, resume=True)
    RunFolder(tmp_path, IDENTITY, resume=True).close()


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EAGAIN, ResumeError, "in use by another run"),
        (errno.EACCES, ResumeError, "in use by another run"),
        (errno.ENOLCK, OutputError, "cannot be locked: No locks available"),
        (errno.EOPNOTSUPP, OutputError, "cannot be locked: Operation not supported"),
    ],
)
def test_a_lock_that_fails_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch, number: int, kind: type[Exception], told: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(kind, match=told) as caught:
        RunFolder(tmp_path, IDENTITY, resume=False)
    assert "--out" in caught.value.hint
    monkeypatch.undo()
    RunFolder(tmp_path, IDENTITY, resume=False).close()


HOLDING = """
import sys, time
from pathlib import Path
from edgeprune.store import RunFolder
run = RunFolder(Path(sys.argv[1]), {"job": "a", "seed": "0"}, resume=False)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ResumeError, match="in use"):
            RunFolder(tmp_path, IDENTITY, resume=True)
        process.kill()
        process.wait()
    RunFolder(tmp_path, IDENTITY, resume=True).close()


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/out", Path("/proc/edgeprune")):
        with pytest.raises(OutputError, match="cannot write"):
            RunFolder(out, IDENTITY, resume=False)


def corruptions(document: dict[str, Any]) -> Iterator[str]:
    text = json.dumps(document)
    yield from ("", text[: len(text) // 2], "[]", "null", "\x00" * 20)
    for key in ("schema", "record", "files", "result"):
        yield json.dumps({k: v for k, v in document.items() if k != key})
        for value in (None, [], "x", 7):
            yield json.dumps({**document, key: value})
    yield json.dumps({**document, "result": {**document["result"], "cost": "much"}})
    yield json.dumps({**document, "result": {**document["result"], "more": 1}})
    yield json.dumps({**document, "files": {"weights.bin": "0" * 64}})


def test_a_corrupted_stage_is_done_again(run: RunFolder) -> None:
    (run.path / "weights.bin").write_bytes(b"weights")
    run.save("price", RESULT, files=("weights.bin",))
    path = run.path / "price.json"
    good = path.read_text()
    for text in corruptions(json.loads(good)):
        path.write_text(text)
        assert run.load("price", Prediction, files=("weights.bin",)) is None, text
        other = Prediction(cost=2.0, error=0.0)
        assert run.stage("price", Prediction, lambda o=other: o, files=("weights.bin",)) == other
    path.write_text(good)
    assert run.load("price", Prediction, files=("weights.bin",)) == RESULT


def test_a_stage_of_another_record_is_done_again(run: RunFolder) -> None:
    run.save("price", RESULT)
    assert run.load("price", Parity) is None
    assert run.load("price", ModelProfile) is None


def test_files_of_a_stage_must_be_unchanged(run: RunFolder) -> None:
    file = run.file("slim.bin")
    assert file == run.path / "slim.bin"
    file.write_bytes(b"one")
    run.save("recover", RESULT, files=("slim.bin",))
    assert run.load("recover", Prediction, files=("slim.bin",)) == RESULT
    assert run.load("recover", Prediction, files=("slim.bin", "other.bin")) is None
    file.write_bytes(b"two")
    assert run.load("recover", Prediction, files=("slim.bin",)) is None
    file.unlink()
    assert run.load("recover", Prediction, files=("slim.bin",)) is None


def test_floats_come_back_to_the_last_bit(run: RunFolder) -> None:
    exact = Prediction(cost=0.1 + 0.2, error=1e-300)
    run.save("price", exact)
    assert run.load("price", Prediction) == exact
