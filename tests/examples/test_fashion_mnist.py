from __future__ import annotations

import gzip
import hashlib
import http.server
import importlib.util
import struct
import sys
import threading
import types
from pathlib import Path

import pytest
import torch

from edgeprune.data import Data

FOLDER = Path(__file__).resolve().parents[2] / "examples/fashion_mnist"
NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def imported(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"fashion_mnist_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def idx(array: torch.Tensor) -> bytes:
    """Return an array in the IDX format, packed."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + bytes(array.flatten().tolist()), mtime=0)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A tiny data set in the format of the real one."""
    generator = torch.Generator().manual_seed(0)
    content = {}
    for part, count in (("train", 90), ("t10k", 12)):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=generator, dtype=torch.uint8)
        content[f"{part}-images-idx3-ubyte.gz"] = idx(pixels)
        content[f"{part}-labels-idx1-ubyte.gz"] = idx(labels)
    return content


@pytest.fixture
def data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> types.ModuleType:
    """The data module on a machine that has nothing and reaches nothing, and knows the tiny set."""
    module = imported("data")
    monkeypatch.setattr(module, "DEBIAN_FOLDER", Path("/usr/share/datasets/none-such"))
    monkeypatch.setattr(module, "PUBLIC_HOME", "http://127.0.0.1:9/")
    monkeypatch.setattr(
        module,
        "SHA256",
        {n.removesuffix(".gz"): hash_of(gzip.decompress(c)) for n, c in files.items()},
    )
    monkeypatch.setattr(module, "VALIDATION", 10)
    monkeypatch.setattr(module, "CALIBRATION", 5)
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    return module


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, data: types.ModuleType, tmp_path: Path):
    """A public home on this machine: what it serves (name -> content), and what it was asked for."""
    served: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            asked.append(name)
            content = served.get(name)
            self.send_response(404 if content is None else 200)
            missing = 1000 if served.get("breaks off") == name.encode() else 0
            self.send_header("Content-Length", str(len(content or b"") + missing))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setattr(data, "PUBLIC_HOME", f"http://127.0.0.1:{server.server_port}/fashion/")
    yield served, asked
    server.shutdown()
    thread.join()
    server.server_close()


# -------------------------------------------------------------------------------- finding the data


@pytest.mark.parametrize("below", ["", "fashion-mnist"])
def test_the_folder_of_the_environment_comes_first(
    data, files, tmp_path: Path, monkeypatch, below: str
) -> None:
    put(tmp_path / "cache/edgeprune/fashion-mnist", files)
    mine = put(tmp_path / "mine" / below, files)
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "mine"))
    assert data.folder() == mine


def test_then_the_folder_of_the_debian_package_then_the_cache(
    data, files, tmp_path: Path, monkeypatch
) -> None:
    cache = put(tmp_path / "cache/edgeprune/fashion-mnist", files)
    assert data.folder() == cache
    monkeypatch.setattr(data, "DEBIAN_FOLDER", put(tmp_path / "debian", files))
    assert data.folder() == tmp_path / "debian"


def test_a_folder_that_lacks_a_file_is_passed_over(
    data, files, tmp_path: Path, monkeypatch
) -> None:
    put(tmp_path / "mine", {name: files[name] for name in NAMES[:3]})
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "mine"))
    cache = put(tmp_path / "cache/edgeprune/fashion-mnist", files)
    assert data.folder() == cache


def test_nothing_anywhere_tells_what_was_tried_and_what_to_do(
    data, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "mine"))
    with pytest.raises(data.DataNotFoundError) as caught:
        data.folder()
    message = str(caught.value)
    for part in (str(tmp_path / "mine"), str(tmp_path / "cache"), "debian package", "apt-get", "public home",
                 "EDGEPRUNE_DATA"):  # fmt: skip
        assert part in message
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------------------------- fetching it


def test_the_debian_package_is_fetched_without_root_into_the_cache(
    data, files, tmp_path: Path
) -> None:
    put(tmp_path / "content", files)
    program(
        tmp_path,
        "apt-get",
        f'[ "$*" = "download {data.DEBIAN_PACKAGE}" ] && echo deb > {data.DEBIAN_PACKAGE}_1.deb',
    )
    target = data.DEBIAN_FOLDER.relative_to("/")
    program(
        tmp_path, "dpkg-deb",
        f'[ "$1" = -x ] && [ -f "$2" ] && mkdir -p "$3/{target}" && cp {tmp_path}/content/* "$3/{target}"',
    )  # fmt: skip
    found = data.folder()
    assert found == tmp_path / "cache/edgeprune/fashion-mnist"
    assert {p.name: p.read_bytes() for p in found.iterdir()} == files
    (tmp_path / "bin/apt-get").unlink()
    assert data.folder() == found  # once is enough


def test_failing_that_the_public_home_is_asked(data, home, files, tmp_path: Path) -> None:
    program(tmp_path, "apt-get", "echo E: Unable to locate package >&2; exit 100")
    served, asked = home
    served.update(files)
    found = data.folder()
    assert sorted(asked) == sorted(NAMES)
    assert {p.name: p.read_bytes() for p in found.iterdir()} == files


def test_both_failures_are_told(data, home, tmp_path: Path) -> None:
    program(tmp_path, "apt-get", "echo E: Unable to locate package >&2; exit 100")
    with pytest.raises(data.DataNotFoundError, match="Unable to locate package") as caught:
        data.folder()
    assert "404" in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fault", ["no archive", "no files", "three files", "dpkg-deb fails"])
def test_a_package_that_does_not_hold_the_data_leads_to_the_public_home(
    data, home, files, tmp_path: Path, fault: str
) -> None:
    put(tmp_path / "content", {name: files[name] for name in NAMES[:3]})
    target = data.DEBIAN_FOLDER.relative_to("/")
    program(tmp_path, "apt-get", "true" if fault == "no archive" else "echo deb > a.deb")
    program(tmp_path, "dpkg-deb", {
        "no archive": "true",
        "no files": "true",
        "three files": f'mkdir -p "$3/{target}" && cp {tmp_path}/content/* "$3/{target}"',
        "dpkg-deb fails": "exit 2",
    }[fault])  # fmt: skip
    home[0].update(files)
    found = data.folder()
    assert {p.name: p.read_bytes() for p in found.iterdir()} == files


def test_a_download_that_breaks_off_is_a_clear_error(data, home, files, tmp_path: Path) -> None:
    home[0].update(files)
    home[0]["breaks off"] = NAMES[1].encode()
    with pytest.raises(data.DataNotFoundError, match="public home"):
        data.folder()
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.gz"))


def test_a_cache_that_cannot_be_written_is_a_clear_error(data, home, files, tmp_path: Path) -> None:
    home[0].update(files)
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(data.DataNotFoundError, match="cache"):
        data.folder()


def test_no_partial_file_stays_in_the_cache(data, home, files) -> None:
    home[0].update(files)
    assert {path.name for path in data.folder().iterdir()} == set(NAMES)


# ------------------------------------------------------------------------------------ its contents


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["garbage", "truncated", "empty", "other", "flipped"])
def test_wrong_contents_are_never_served(
    data, files, tmp_path: Path, monkeypatch, name: str, fault: str
) -> None:
    whole = files[name]
    wrong = {
        "garbage": b"not packed at all",
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "other": gzip.compress(b"other contents"),
        "flipped": whole[:-20] + bytes([whole[-20] ^ 0xFF]) + whole[-19:],
    }[fault]
    mine = put(tmp_path / "mine", {**files, name: wrong})
    monkeypatch.setenv("EDGEPRUNE_DATA", str(mine))
    with pytest.raises(data.DataNotFoundError, match=name) as caught:
        data.load()
    assert str(mine / name) in str(caught.value)
    assert "delete it and run again" in str(caught.value)


def test_wrong_contents_from_the_public_home_are_never_served(data, home, files) -> None:
    home[0].update({**files, NAMES[0]: gzip.compress(b"<html>")})
    with pytest.raises(data.DataNotFoundError):
        data.load()


def test_images_and_labels_are_read_as_they_stand(data, files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(put(tmp_path / "mine", files)))
    images, labels = data.read("t10k")
    assert (images.shape, images.dtype, labels.dtype) == (
        (12, 1, 28, 28),
        torch.float32,
        torch.int64,
    )
    pixels = gzip.decompress(files["t10k-images-idx3-ubyte.gz"])[16:]
    assert images[1, 0, 0, 5].item() == pytest.approx(
        (pixels[784 + 5] / 255 - data.MEAN) / data.STD, abs=1e-6
    )
    assert labels.tolist() == list(gzip.decompress(files["t10k-labels-idx1-ubyte.gz"])[8:])


def test_the_parts_do_not_overlap_and_do_not_depend_on_the_seed(
    data, files, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(put(tmp_path / "mine", files)))
    train, validation, calibration = (set(part.tolist()) for part in data.split(90))
    assert (len(train), len(validation), len(calibration)) == (80, 10, 5)
    assert not train & validation
    assert calibration <= train
    first, second = data.load(seed=0), data.load(seed=1)
    assert isinstance(first, Data)
    first.check()
    assert first.example_inputs.shape == (1, 1, 28, 28)
    assert torch.equal(first.validation.images, second.validation.images)
    assert sum(len(target) for _, target in first.test) == 12


# ----------------------------------------------------------------------------------------- batches


@pytest.fixture
def numbered(data):
    """Images that tell their own number, and it as the label."""
    labels = torch.arange(10)
    return labels[:, None, None, None].expand(10, 1, 28, 28).float(), labels


def test_plain_batches_keep_the_order_and_the_rest(data, numbered) -> None:
    batches = data.Batches(*numbered, 4)
    for _ in range(2):
        passed = list(batches)
        assert [len(target) for _, target in passed] == [4, 4, 2]
        assert torch.equal(torch.cat([target for _, target in passed]), numbered[1])
    assert len(batches) == 3


def test_augmented_batches_have_another_order_every_pass_from_the_seed(data, numbered) -> None:
    def passes(seed: int) -> list[list[int]]:
        batches = data.Batches(*numbered, 5, augment=True, seed=seed)
        assert len(batches) == 2
        return [torch.cat([target for _, target in batches]).tolist() for _ in range(2)]

    first = passes(3)
    assert all(sorted(order) == list(range(10)) for order in first)
    assert first[0] != first[1]
    assert passes(3) == first
    assert passes(4) != first


def test_an_augmented_pass_has_whole_batches_only(data, numbered) -> None:
    batches = data.Batches(*numbered, 4, augment=True)
    assert [len(target) for _, target in batches] == [4, 4]
    assert len(batches) == 2


def test_augmentation_keeps_image_and_label_together(data, numbered) -> None:
    for images, labels in data.Batches(*numbered, 5, augment=True):
        for image, label in zip(images, labels, strict=True):
            floor = (0.0 - data.MEAN) / data.STD
            inside = image[(image - floor).abs() > 1e-6]
            assert bool((inside == float(label)).all())
            assert len(inside) > 784 // 2


def test_augmentation_mirrors_shifts_and_erases_but_not_everything(data) -> None:
    images = torch.arange(784.0).view(1, 1, 28, 28).expand(200, 1, 28, 28) + 1000
    result = data.augmented(images, torch.Generator().manual_seed(0))
    assert result.shape == images.shape
    floor = (0.0 - data.MEAN) / data.STD
    middle = result[:, 0, 14, 10:18]
    rising = (middle.diff(dim=1) == 1).all(1)
    falling = (middle.diff(dim=1) == -1).all(1)
    assert 30 < int(rising.sum()) < 170
    assert 30 < int(falling.sum()) < 170
    assert len({float(v) for v in result[rising, 0, 14, 14]}) > 10  # up to 5 x 5 shifts
    erased = ((result - floor).abs() < 1e-6).flatten(1).sum(1)
    assert int((erased > 49 // 2).sum()) > 50
    assert bool((images == images[0]).all())  # the source is not touched


# ------------------------------------------------------------------------------------ the real data


@pytest.mark.slow
def test_the_real_data_set_is_found_or_fetched() -> None:
    module = imported("data")
    data = module.load()
    data.check()
    assert len(data.train.labels) == 55_000
    assert len(data.validation.labels) == 5_000
    assert len(data.calibration.labels) == 2_000
    assert len(data.test.labels) == 10_000
    assert data.test.labels.bincount().tolist() == [1000] * 10
    everything = torch.cat([data.train.images, data.validation.images])
    assert float(everything.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(everything.std()) == pytest.approx(1.0, abs=1e-3)
