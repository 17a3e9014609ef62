import errno
import json
import os
import re
import subprocess
import sys

import onnxruntime
import pytest

from edgeprune.errors import InternalCheckError, OutputError, UsageError
from edgeprune.records import Verdict
from edgeprune.ship import REPORT_DATA, indexed, require_ours, rewrite_report, ship, ship_index
from edgeprune.store import sha256_of
from tests import factories

NAMES = ["model.onnx", "verdict.json", "README.md", "report.html", "manifest.json", "SHA256SUMS"]


def ship_into(out, model, **changes):
    document = factories.a_document()
    arguments = {
        "verdict": factories.a_verdict(),
        "plan": document.plan,
        "table": document.table,
        "curves": document.curves,
        "history": document.history,
        "skipped": document.skipped,
        "dense_profile": document.dense_profile,
        "slim_profile": document.slim_profile,
        "model": model,
        "artifact": factories.an_artifact(model),
        "versions": {"edgeprune": "0.1.0"},
        "licence": "MIT",
        "job_title": "fashion_resnet",
    }
    return ship(out, **{**arguments, **changes})


@pytest.fixture
def model(tmp_path):
    return factories.a_model(tmp_path / "slim.onnx")


@pytest.fixture
def out(tmp_path, model):
    ship_into(tmp_path / "out", model)
    return tmp_path / "out"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def check(folder):
    return subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_everything_is_shipped_and_nothing_else(tmp_path, model):
    paths = ship_into(tmp_path / "out", model)
    assert [path.name for path in paths] == NAMES
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*NAMES, ".run"}


def test_checksums_hold_and_cover_every_file(out):
    done = check(out)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split(": OK\n")[:-1]) == sorted(set(NAMES) - {"SHA256SUMS"})
    (out / "README.md").write_text("changed", encoding="utf-8")
    assert check(out).returncode != 0


def test_manifest_lists_every_file_but_itself_and_the_checksums(out):
    manifest = read(out / "manifest.json")
    assert [entry["name"] for entry in manifest["files"]] == NAMES[:4]
    for entry in manifest["files"]:
        assert entry["sha256"] == sha256_of(out / entry["name"])
        assert entry["bytes"] == (out / entry["name"]).stat().st_size
    assert {k: manifest[k] for k in ("schema", "job", "device", "opset", "seed", "licence")} == {
        "schema": 1, "job": "fashion_resnet", "device": "mobile_cpu", "opset": 20, "seed": 0,
        "licence": "MIT",
    }  # fmt: skip
    assert manifest["inputs"] == [{"name": "input", "dtype": "float32", "shape": [1, 1, 28, 28]}]
    assert manifest["plan"]["digest"] == factories.a_plan().digest
    assert manifest["plan"]["widths"]["stages.2.0.conv2"] == [128, 48]


def test_verdict_has_the_promised_fields_and_reads_back(out):
    document = read(out / "verdict.json")
    assert {
        "schema", "job", "device", "kind", "unit", "passed", "dense", "slim", "speedup", "parity",
        "budget", "predicted", "plan", "gates",
    } <= document.keys()  # fmt: skip
    assert document["schema"] == 1
    assert document["plan"]["widths"]["stem"] == [32, 16]
    assert document["gates"][1] == {
        "name": "accuracy", "met": True, "limit": 0.01, "value": 0.0031, "note": "", "command": "",
    }  # fmt: skip
    assert Verdict.model_validate(document) == factories.a_verdict()


def test_model_is_the_one_that_was_verified(out, model, tmp_path):
    assert (out / "model.onnx").read_bytes() == model.read_bytes()
    artifact = factories.an_artifact(model)
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(InternalCheckError, match=r"slim\.onnx is not the file"):
        ship_into(tmp_path / "other", model, artifact=artifact)
    assert not (tmp_path / "other").exists()


def test_report_states_the_checksums_of_what_it_describes(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    for name in ("model.onnx", "verdict.json", "README.md"):
        assert sha256_of(out / name) in text


def test_no_path_of_this_machine_is_shipped(out, tmp_path):
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content
            assert sys.prefix.encode() not in content
            assert b"slim.onnx" not in content


def test_example_of_the_card_runs_in_plain_onnxruntime(out):
    text = (out / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "edgeprune" not in program
    done = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True)
    assert done.stdout == "[(1, 10)]\n", done.stderr
    assert onnxruntime.InferenceSession(out / "model.onnx").get_inputs()[0].name == "input"


def test_failed_gates_are_named_in_card_and_report(tmp_path, model):
    ship_into(tmp_path / "out", model, verdict=factories.a_failure())
    for name in ("README.md", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Not passed: accuracy and budget not met" in text
    assert read(tmp_path / "out" / "verdict.json")["passed"] is False


def test_estimates_are_never_called_a_speed_up(tmp_path, model):
    ship_into(
        tmp_path / "out",
        model,
        verdict=factories.an_estimate(),
        dense_profile=factories.a_profile(kind="estimated"),
        slim_profile=None,
    )
    for name in ("README.md", "report.html", "manifest.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert not re.search(r"speed.?up", text, re.IGNORECASE)


def test_shipping_again_gives_the_same_bytes(out, model):
    before = {name: (out / name).read_bytes() for name in NAMES}
    ship_into(out, model)
    assert {name: (out / name).read_bytes() for name in NAMES} == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("again", "files"), [("shipped", 7), ("rewritten", 3)])
def test_a_full_disk_leaves_the_older_shipment_whole(out, model, monkeypatch, again, files):
    """Whichever of the files it is that finds no room."""
    data, flush, left = out / REPORT_DATA, os.fsync, 0

    def fsync(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    def change():
        if again == "shipped":
            ship_into(out, model, job_title="another")
        else:
            rewrite_report(out)

    if again == "rewritten":
        data.write_text(data.read_text().replace('"title": "fashion_resnet"', '"title": "another"'))
    before = contents(out)
    monkeypatch.setattr(os, "fsync", fsync)
    for room in range(files):
        left = room
        with pytest.raises(OutputError, match="No space left") as caught:
            change()
        assert "--resume" in caught.value.hint
        assert contents(out) == before
    left = files
    change()
    assert check(out).returncode == 0
    assert contents(out).keys() == before.keys()
    assert "<h1>another</h1>" in (out / "report.html").read_text(encoding="utf-8")


def test_a_full_disk_leaves_nothing_of_a_first_shipment(tmp_path, model, monkeypatch):
    def render(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgeprune.ship.render", render)
    with pytest.raises(OutputError, match="No space left"):
        ship_into(tmp_path / "out", model)
    assert contents(tmp_path / "out") == {}
    require_ours(tmp_path / "out")  # so that a second attempt is not refused


def test_rewritten_report_is_covered_by_manifest_and_checksums(out):
    before = {name: (out / name).read_bytes() for name in NAMES}
    (out / "report.html").write_text("lost", encoding="utf-8")
    assert check(out).returncode != 0
    assert rewrite_report(out) == out / "report.html"
    assert {name: (out / name).read_bytes() for name in NAMES} == before


def test_rewriting_follows_changed_data(out):
    data = out / ".run" / "report_data.json"
    data.write_text(
        data.read_text(encoding="utf-8").replace('"title": "fashion_resnet"', '"title": "renamed"'),
        encoding="utf-8",
    )
    rewrite_report(out)
    assert "<h1>renamed</h1>" in (out / "report.html").read_text(encoding="utf-8")
    assert check(out).returncode == 0
    entry = next(e for e in read(out / "manifest.json")["files"] if e["name"] == "report.html")
    assert entry["sha256"] == sha256_of(out / "report.html")


def test_rewriting_hides_no_change_of_other_files(out):
    (out / "verdict.json").write_text("{}", encoding="utf-8")
    rewrite_report(out)
    done = check(out)
    assert done.returncode != 0
    assert "verdict.json: FAILED" in done.stdout


def test_report_of_an_unfinished_run_names_what_finishes_it(out):
    (out / ".run" / "report_data.json").unlink()  # as after a second run that was interrupted
    (out / ".run" / "identity.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no report data") as caught:
        rewrite_report(out)
    assert caught.value.hint == ("an unfinished run lies there: edgeprune run --resume finishes it")
    members = [{"folder": name, "model_sha256": "0"} for name in ("70%", "45%")]
    (out / "index.json").write_text(json.dumps({"members": members}), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        rewrite_report(out)
    assert str(out / "70%") in caught.value.hint


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no report data") as caught:
        rewrite_report(tmp_path)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"title": 3}'])
def test_damaged_report_data_is_refused(out, content):
    (out / ".run" / "report_data.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be used"):
        rewrite_report(out)
    assert check(out).returncode == 0


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_missing_manifest_or_checksums_are_refused(out, name):
    (out / name).unlink()
    with pytest.raises(UsageError, match=name):
        rewrite_report(out)


@pytest.mark.parametrize("content", ["[]", '{"files": [1]}', '{"files": [{}]}', "{"])
def test_damaged_manifest_is_refused(out, content):
    (out / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        rewrite_report(out)


def test_folder_that_cannot_be_made(tmp_path, model):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"file is a file, not a folder"):
        ship_into(tmp_path / "file" / "out", model)


def test_forms_of_an_older_model_go(tmp_path, model):
    out = tmp_path / "out"
    ship_into(out, model, integer_model=model)
    assert (out / "model.int8.onnx").exists()
    assert '"model.int8.onnx", options' in (out / "README.md").read_text()
    assert "&#34;model.int8.onnx&#34;, options" in (out / "report.html").read_text()
    assert list(json.loads((out / REPORT_DATA).read_text())["files"]) == [
        *("model.onnx", "model.int8.onnx", "verdict.json", "README.md")
    ]
    (out / "c").mkdir()
    (out / "c" / "network.c").write_text("old")
    (out / "notes.txt").write_text("mine")
    ship_into(out, model)
    assert {path.name for path in out.iterdir()} == {*NAMES, ".run", "notes.txt"}
    assert check(out).returncode == 0
    (out / "c").mkdir()  # a report that is written again leaves the model's forms alone
    rewrite_report(out)
    assert (out / "c").exists()


INDEX = {"README.md": "# several", "index.json": "{}"}


def test_an_index_of_several_models_takes_the_place_of_a_single_one(tmp_path, model):
    out = tmp_path / "out"
    ship_into(out, model, integer_model=model)
    (out / "50%").mkdir()
    (out / "notes.txt").write_text("mine")
    ship_index(out, INDEX)
    ship_index(out, INDEX)  # and of itself
    assert {path.name for path in out.iterdir()} == {*INDEX, "50%", ".run", "notes.txt"}
    assert (out / "README.md").read_text() == "# several"
    assert not (out / ".run" / "shipping").exists()


OURS = {
    "members": [{"folder": "70%", "model_sha256": "ab"}, {"folder": "50%", "model_sha256": "cd"}]
}


def test_a_single_model_takes_the_place_of_an_index_and_leaves_its_models(tmp_path, model):
    out = tmp_path / "out"
    ship_into(out / "50%", model)
    ship_index(out, {"README.md": "# several", "index.json": json.dumps(OURS)})
    assert indexed(out) == ("70%", "50%")
    require_ours(out)  # its README.md is ours too
    ship_into(out, model)
    assert {path.name for path in out.iterdir()} == {*NAMES, "50%", ".run"}
    assert indexed(out) == ()
    for folder in (out, out / "50%"):
        assert check(folder).returncode == 0


@pytest.mark.parametrize("text", ["mine", "[]", '{"members": 3}', '{"members": [{"name": "me"}]}'])
def test_an_index_of_others_stays(tmp_path, model, text):
    (tmp_path / "index.json").write_text(text)
    ship_into(tmp_path, model)
    assert (tmp_path / "index.json").read_text() == text


def test_an_index_leaves_alone_what_no_manifest_lists(tmp_path, out):
    (out / "c").mkdir()
    (out / "c" / "mine.c").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.onnx").write_text("mine")
    for folder in (out, tmp_path / "other"):
        ship_index(folder, INDEX)
    assert (out / "c" / "mine.c").exists()
    assert (tmp_path / "other" / "model.onnx").read_text() == "mine"


def test_an_index_that_cannot_be_written_leaves_the_older_shipment_whole(out, monkeypatch):
    before = {path.name for path in out.iterdir()}

    def full(self, *arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(out), "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        ship_index(out, INDEX)
    assert {path.name for path in out.iterdir()} == before
    assert check(out).returncode == 0


@pytest.mark.parametrize("name", [*NAMES, "model.int8.onnx", "c/network.c"])
def test_files_of_others_are_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / ".run").mkdir()  # a folder of this name is no sign of a run of ours
    with pytest.raises(OutputError, match=f"holds {name.partition('/')[0]}"):
        require_ours(tmp_path)
    (tmp_path / ".run" / "identity.json").write_text("{}")
    require_ours(tmp_path)


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "50%").write_text("mine")
    with pytest.raises(OutputError, match="50% is no folder"):
        require_ours(tmp_path / "50%")


def test_other_files_are_no_obstacle(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    require_ours(tmp_path)
