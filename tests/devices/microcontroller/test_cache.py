from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeprune.devices.microcontroller.cache import (
    cache_folder,
    content_key,
    keep,
    trim,
    weekly_folder,
)
from edgeprune.errors import DeviceError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeprune"


def test_the_key_tells_where_a_part_ends() -> None:
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])
    assert content_key(["ab", b"c"]) == content_key([b"ab", "c"])


def test_what_is_kept_is_whole(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.o").write_bytes(b"object")
    keep(tmp_path / "made", cache_folder("harness") / "key")
    keep(tmp_path / "made", cache_folder("harness") / "key")  # another process was faster
    keep(tmp_path / "made" / "a.o", cache_folder("firmware") / "key.elf")
    found = sorted(
        str(path.relative_to(own_cache)) for path in own_cache.rglob("*") if path.is_file()
    )
    assert found == ["firmware/key.elf", "harness/key/a.o"]


def test_trimming_removes_what_was_used_longest_ago() -> None:
    folder = cache_folder("firmware")
    for age, name in enumerate(("new", "older", "oldest")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    trim(folder, limit=250)
    assert {path.name for path in folder.iterdir()} == {"new", "older"}


def test_last_week_is_forgotten() -> None:
    (cache_folder("objects/2020-07") / "net.o").write_bytes(b"object")
    this_week = weekly_folder("objects")
    assert [path.name for path in this_week.parent.iterdir()] == [this_week.name]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="cannot be made") as caught:
        cache_folder("firmware")
    assert "XDG_CACHE_HOME" in caught.value.hint
