"""Several budgets in one run, on an exact simulated device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.records import WidthPlan


@pytest.mark.slow
def test_each_member_starts_from_the_one_before(job, inside, tmp_path) -> None:
    job.write_text(job.read_text().replace("steps = 40", "steps = 8"))
    out = tmp_path / "out"
    words = ["run", job, "--device", job.with_name("exact.toml"), "--out", out, "--json"]
    done = inside(*words, "--budget", "45%,75%")
    document = json.loads(done.stdout)
    assert {"schema", "job", "device", "kind", "unit", "passed", "members"} == document.keys()
    assert [member["budget"]["asked"] for member in document["members"]] == ["75%", "45%"]
    assert done.returncode == (0 if document["passed"] else 1)
    assert all(member["budget"]["met"] for member in document["members"])
    for name, member in zip(("75%", "45%"), document["members"], strict=True):
        assert json.loads((out / name / "verdict.json").read_text()) == member
        assert {"model.onnx", "manifest.json", "README.md", "report.html", "SHA256SUMS"} <= {
            path.name for path in (out / name).iterdir()
        }
    index = json.loads((out / "index.json").read_text())
    assert [m["folder"] for m in index["members"]] == ["75%", "45%"]
    assert index["passed"] == document["passed"]
    assert "| [45%](45%25/README.md) |" in (out / "README.md").read_text()

    def plan(budget: str) -> WidthPlan:
        text = (out / ".run" / f"{budget}-5-allocate.json").read_text()
        return WidthPlan.model_validate(json.loads(text)["result"])

    wide, narrow = plan("75%"), plan("45%")
    for name, group in narrow.groups.items():
        assert set(group.kept) <= set(wide.groups[name].kept)
    assert sum(g.after for g in narrow.groups.values()) < sum(g.after for g in wide.groups.values())
    _starts_from_the_recovered_weights(out, wide, narrow)

    stages = {path: path.read_bytes() for path in (out / ".run").glob("*-*.json")}
    for path in (out / ".run").glob("45%-9*"):
        path.unlink()
    again = inside(*words, "--budget", "45%,75%", "--resume")
    assert json.loads(again.stdout)["members"][0] == document["members"][0]
    for path, content in stages.items():
        if not path.name.startswith("45%-9"):
            assert path.read_bytes() == content, path
    other = inside(*words, "--budget", "50%,75%", "--resume")
    assert (other.returncode, "budget: was 45%, 75%, is 50%, 75%" in other.stderr) == (2, True)


def _starts_from_the_recovered_weights(
    out, wide: WidthPlan, narrow: WidthPlan, first: str = "75%", second: str = "45%"
) -> None:
    """The second member's first layer, as cut, holds weights of the first one's recovered layer."""
    from safetensors.torch import load_file

    recovered = load_file(out / ".run" / f"{first}-recovered.safetensors")["0.weight"]
    cut = load_file(out / ".run" / f"{second}-shrunk.safetensors")["0.weight"]
    places = [wide.groups["0"].kept.index(channel) for channel in narrow.groups["0"].kept]
    assert (recovered[places] == cut).all()


@pytest.mark.slow
def test_one_failed_gate_fails_the_family(job, inside, tmp_path) -> None:
    text = job.read_text().replace("max_accuracy_drop = 0.05", "max_accuracy_drop = 0.0")
    job.write_text(text.replace("steps = 40", "steps = 0\nreconstruct = false"))
    words = ["run", job, "--device", job.with_name("exact.toml"), "--out", tmp_path / "out"]
    done = inside(*words, "--budget", "99%,30%", "--json")
    document = json.loads(done.stdout)
    assert [member["passed"] for member in document["members"]] == [True, False]
    assert (document["passed"], done.returncode) == (False, 1)
    assert "not met: accuracy" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_plans_of_a_family(job, inside) -> None:
    device = job.with_name("exact.toml")
    done = inside("plan", job, "--device", device, "--budget", "75%,45%", "--json")
    assert done.returncode == 0, done.stderr
    members = json.loads(done.stdout)["members"]
    assert [member["budget"]["asked"] for member in members] == ["75%", "45%"]
    for name, (_, after) in members[1]["widths"].items():
        assert after <= members[0]["widths"][name][1]


@pytest.mark.parametrize(
    ("budget", "code", "message"),
    [
        ("75%,75%", 2, "a budget is named twice"),
        ("50%,2x", 2, "a budget is named twice: 50% and 2x are the same"),
        ("50%,50.0%", 2, "a budget is named twice: 50% and 50.0% are the same"),
        ("50%,", 2, "budget '' cannot be read"),
        ("50%,1%", 1, "cannot be reached"),
    ],
)
def test_bad_families(job, inside, tmp_path, budget: str, code: int, message: str) -> None:
    device, out = job.with_name("exact.toml"), tmp_path / "out"
    done = inside("run", job, "--device", device, "--budget", budget, "--out", out)
    assert done.returncode == code
    assert message in done.stderr
    assert not list(out.glob("*%"))
    assert code == 1 or not out.exists()  # faults of the command line are told before any work


MASK = '[mask]\nkind = "ln_structured"\namount = 0.3\n'
REGULARISE = '[regularise]\nkind = "group_norm"\nsteps = 4\n'


def widths_of(member: Path) -> dict[str, int]:
    verdict = json.loads((member / "verdict.json").read_text())
    return {name: after for name, (_, after) in verdict["plan"]["widths"].items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budgets", "tight"), [("99%,45%", True), ("99%,98%", False)], ids=["one", "all"]
)
def test_a_mask_that_is_enough_for_some_budgets(
    job, inside, tmp_path, budgets: str, tight: bool
) -> None:
    job.write_text(
        job.read_text().replace("steps = 40", "steps = 2").replace("drop = 0.05", "drop = 1.0")
        + MASK
    )
    out, device = tmp_path / "out", job.with_name("exact.toml")
    done = inside("run", job, "--device", device, "--budget", budgets, "--out", out)
    assert done.returncode == 0, done.stderr
    wide, narrow = (widths_of(out / name) for name in budgets.split(","))
    assert bool(narrow) == tight  # the mask alone meets 98 %, so that nothing is cut
    assert not tight or sum(narrow.values()) < sum(wide.values())


@pytest.mark.slow
def test_folders_are_named_after_the_budget_alone(job, inside, tmp_path) -> None:
    text = job.read_text().replace("steps = 40", "steps = 2").replace("drop = 0.05", "drop = 1.0")
    job.write_text(text.replace("[budget]", "[budget]\nram_kb = 1000") + REGULARISE)
    out, device = tmp_path / "out", job.with_name("exact.toml")
    single = inside("run", job, "--device", device, "--budget", "80%", "--out", out)
    assert single.returncode == 0, single.stderr
    assert (out / "SHA256SUMS").is_file()  # goes with the model, once there are several
    done = inside("run", job, "--device", device, "--budget", "80%,50%", "--out", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "80%", "50%", "README.md", "index.json",
    }  # fmt: skip
    # with regularised training too, the second member goes on from the first one
    wide, narrow = (
        WidthPlan.model_validate(
            json.loads((out / ".run" / f"{name}-5-allocate.json").read_text())["result"]
        )
        for name in ("80%", "50%")
    )
    assert any(set(g.kept) < set(wide.groups[n].kept) for n, g in narrow.groups.items())
    _starts_from_the_recovered_weights(out, wide, narrow, "80%", "50%")
    assert "[80%](80%25/README.md)" in (out / "README.md").read_text()

    # and a single budget again: the index would say nothing of what is there then
    single = inside("run", job, "--device", device, "--budget", "80%", "--out", out)
    assert single.returncode == 0, single.stderr
    assert not (out / "index.json").exists()
    assert "verdict.json" in (out / "SHA256SUMS").read_text()
    assert "models of that earlier run are still in 80%, 50%" in " ".join(single.stderr.split())
    assert all((out / name / "model.onnx").is_file() for name in ("80%", "50%"))
