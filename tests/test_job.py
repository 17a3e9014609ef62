from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.budget import FACTORS, parse_budget
from edgeprune.errors import JobError, UsageError
from edgeprune.job import Job, load_job

GOOD = """\
# a comment = with an equals sign
name = "fashion_resnet"
seed = 3
[model]
factory = "model:build"
weights = "dense.safetensors"
[data]
factory = "data:load"
[budget]
latency = "50%"
max_accuracy_drop = 0.02
[prune]
importance = "taylor"
keep = ["stem"]
[recover]
steps = 10
"""
SHORTEST = 'name = "j"\nmodel.factory = "m:f"\ndata.factory = "d:f"\n'


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str | bytes) -> Path:
        path = tmp_path / "job.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def faults(path: Path) -> tuple[str, ...]:
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value.faults


def test_a_whole_job(write) -> None:
    job = load_job(write(GOOD))
    assert (job.name, job.seed) == ("fashion_resnet", 3)
    assert job.model.factory == "model:build"
    assert job.model.weights == "dense.safetensors"
    assert job.data.factory == "data:load"
    assert job.prune.keep == ("stem",)
    assert job.budget.max_accuracy_drop == 0.02
    assert job.request.share == 0.5


def test_the_shortest_job_has_the_defaults_of_the_contract(write) -> None:
    job = load_job(write(SHORTEST))
    assert job.recover.steps == 400
    assert job.recover.distill is True
    assert job.prune.allocation == "exact"
    assert job.export.precision == "float32"
    assert job.budget.max_accuracy_drop == 0.01
    with pytest.raises(UsageError, match="no budget") as caught:
        _ = job.request
    assert "--budget" in caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    assert faults(tmp_path / "nowhere.toml") == ("cannot be read: No such file or directory",)


def test_a_folder_is_not_a_job(tmp_path: Path) -> None:
    assert "cannot be read" in faults(tmp_path)[0]


def test_not_utf8(write) -> None:
    assert faults(write(b'name = "\xff"')) == ("cannot be read: is not UTF-8 text",)


def test_not_toml_tells_the_line(write) -> None:
    (fault,) = faults(write('name = "a"\nseed = = 3\n'))
    assert "not TOML" in fault
    assert "line 2" in fault


def test_a_number_of_thousands_of_digits_is_a_fault(write) -> None:
    (fault,) = faults(write(f'name = "a"\nseed = {"7" * 5000}\n'))
    assert fault == "not TOML: a number has too many digits (line 2)"


def test_all_faults_are_told_at_once_with_key_and_line(write) -> None:
    told = faults(
        write(
            'name = "no/slashes"\n'
            "speed = 3\n"
            "[model]\n"
            'factory = "build"\n'
            "[budget]\n"
            'latency = "half"\n'
            "ram_kb = -1\n"
            "[prune]\n"
            'keep = [\n  "a",\n  3,\n]\n'
            "[recover]\n"
            'steps = "many"\n'
        )
    )
    joined = "\n".join(told)
    assert len(told) == 8, joined
    for start, end in [
        ("name (line 1):", "names a folder)"),
        ("speed (line 2):", "unknown key"),
        ("model.factory (line 4):", 'not of the form "module:function"'),
        ("data:", "missing"),
        ("budget.latency (line 6):", "cannot be read"),
        ("budget.ram_kb (line 7):", "not -1"),
        ("prune.keep.1 (line 9):", "not 3"),
        ("recover.steps (line 14):", "not 'many'"),
    ]:
        assert any(fault.startswith(start) and end in fault for fault in told), (start, joined)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('export.precision = "int4"', "export.precision (line 4)"),
        ("export.opset = 9", "export.opset (line 4)"),
        (
            'prune.importance = "luck"',
            "prune.importance (line 4): no importance 'luck' (known: auto",
        ),
        ('prune.importance = "tailor"', "did you mean 'taylor'?"),
        ('prune.fused.fusion = "best"', "prune.fused.fusion (line 4): no fusion 'best'"),
        ("prune.fused.families = []", "prune.fused.families (line 4)"),
        ("seed = -1", "seed (line 4)"),
        ("budget.max_accuracy_drop = 2", "budget.max_accuracy_drop (line 4)"),
        ("budget.latency = 50", "budget.latency (line 4)"),
        ("recover.learning_rate = 0", "recover.learning_rate (line 4)"),
        ("recover.learning_rate = nan", "recover.learning_rate (line 4)"),
        ("budget.ram_kb = inf", "budget.ram_kb (line 4)"),
        ('recover = "much"', "recover (line 4)"),
        ('collapse.enabled = "yes"', "collapse.enabled (line 4): should be true or false"),
        ("prune.blocks = 1", "prune.blocks (line 4): should be true or false, not 1"),
        ('prune.keep = [""]', "prune.keep.0 (line 4)"),
        ('guards.layers = [""]', "guards.layers.0 (line 4)"),
        ("mask.amount = 0", "mask.amount (line 4): input should be greater than 0, not 0"),
        ("mask.amount = []", "mask.amount (line 4): tuple should have at least 1 item"),
        (
            'mask = {kind = "iterative", amount = [0.5, 1.5]}',
            "mask.amount.1 (line 4): input should be less than 1, not 1.5",
        ),
        ('prune.fused.families = ["base", "base"]', "each family once"),
        ('prune = {polish = true, allocation = "uniform"}', "polish lowers the measured loss"),
        ('prune = {polish = true, loss = "importance"}', "polish lowers the measured loss"),
        (
            'mask.amount = 0.5\nregularise.kind = "growing"',
            "job: [regularise] would fill the weights that [mask] makes zero",
        ),
        (
            "model.depth = 3",
            "model.depth (line 4): unknown key (known: factory, weights, licence)",
        ),
        (
            'budget.lattency = "50%"',
            "budget.lattency (line 4): unknown key; did you mean 'latency'? (known: latency, macs,",
        ),
        ('[bugdet]\nlatency = "50%"', "bugdet (line 4): unknown key; did you mean 'budget'?"),
        ("mask.amout = 0.5", "mask.amout (line 4): unknown key; did you mean 'amount'?"),
        (
            "prune.fused.removal = 3",
            "prune.fused.removal (line 4): unknown key; did you mean 'removals'?",
        ),
    ],
)
def test_a_single_fault(write, line: str, fault: str) -> None:
    (told,) = faults(write(f"{SHORTEST}{line}\n"))
    assert fault in told


@pytest.mark.parametrize(
    "factory", ["model", "model:", ":build", "model build", "a-b:c", "m:f:g", "../m:f", ""]
)
def test_factories_of_another_form(write, factory: str) -> None:
    (told,) = faults(write(SHORTEST.replace("m:f", factory, 1)))
    assert "module:function" in told


@pytest.mark.parametrize("name", ["..", "a/b", "", ".run", "-x", "a b", "a\\\\b"])
def test_names_that_cannot_be_a_folder(write, name: str) -> None:
    (told,) = faults(write(SHORTEST.replace('"j"', f'"{name}"')))
    assert told.startswith("name (line 1)")


@pytest.mark.parametrize(
    ("text", "share"),
    [("50%", 0.5), ("100%", 1.0), (" 35 % ", 0.35), ("2x", 0.5), ("1x", 1.0), (".5%", 0.005)],
)
def test_shares(text: str, share: float) -> None:
    request = parse_budget(text)
    assert request.share == pytest.approx(share)
    assert request.absolute is None
    assert request.limit(800.0, "us") == pytest.approx(800 * share)
    assert request.limit(800.0, "instructions") == pytest.approx(800 * share)


@pytest.mark.parametrize(
    ("text", "absolute", "unit"),
    [
        ("0.8ms", 800.0, "us"), ("900us", 900.0, "us"), ("2s", 2e6, "us"), ("7insn", 7.0, "instructions"),
        ("3kinsn", 3e3, "instructions"), ("1.2Minsn", 1.2e6, "instructions"), ("1Ginsn", 1e9, "instructions"),
    ],
)  # fmt: skip
def test_figures(text: str, absolute: float, unit: str) -> None:
    request = parse_budget(text)
    assert request.share is None
    assert request.limit(1.0, unit) == pytest.approx(absolute)


@pytest.mark.parametrize(
    "text",
    ["", "50", "%", "0%", "101%", "-5%", "0.5x", "0x", "0ms", "ms", "5 m s", "1e3us", "nan%", "infx", "50%%", "1minsn",
     "2X", "5\u0663%", "1.2.3ms"],
)  # fmt: skip
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert repr(text) in str(caught.value)
    assert "50%" in caught.value.hint


@pytest.mark.parametrize("unit", ["x", "s", "insn"])
def test_a_figure_beyond_all_numbers_is_refused(unit: str) -> None:
    with pytest.raises(UsageError):
        parse_budget("9" * 400 + unit)


def test_a_figure_in_the_unit_of_another_device() -> None:
    with pytest.raises(UsageError, match="this device's unit is instructions"):
        parse_budget("0.8ms").limit(1.0, "instructions")
    with pytest.raises(UsageError, match="this device's unit is us"):
        parse_budget("1Minsn").limit(1.0, "us")


@given(st.decimals(0, 10**6, places=3), st.sampled_from(["%", "x", *FACTORS]))
def test_every_budget_that_is_read_means_what_it_says(value, unit: str) -> None:
    text = f"{value}{unit}"
    number = float(value)
    allowed = 0 < number <= 100 if unit == "%" else number >= 1 if unit == "x" else number > 0
    if not allowed:
        with pytest.raises(UsageError):
            parse_budget(text)
        return
    request = parse_budget(f" {value} {unit} ")
    assert parse_budget(request.text) == request  # what is recorded can be read again
    device = "instructions" if unit.endswith("insn") else "us"
    limit = request.limit(1000.0, device)
    expected = {"%": 10 * number, "x": 1000 / number}.get(unit, number * FACTORS.get(unit, 1))
    assert limit == pytest.approx(expected)


@given(st.text(max_size=8) | st.text("0123456789.%xmsuin ", max_size=8))
def test_any_other_text_is_an_error_and_never_a_traceback(text: str) -> None:
    try:
        request = parse_budget(text)
    except UsageError:
        return
    assert request.share or request.absolute


def test_overrides(write) -> None:
    job = load_job(write(GOOD))
    changed = job.with_overrides(budget="2x", seed=9)
    assert (changed.budget.latency, changed.seed) == ("2x", 9)
    assert changed.budget.max_accuracy_drop == 0.02
    assert (job.budget.latency, job.seed) == ("50%", 3)
    assert job.with_overrides() == job


def test_overrides_are_checked_like_the_file(write) -> None:
    job: Job = load_job(write(GOOD))
    with pytest.raises(UsageError, match="half"):
        job.with_overrides(budget="half")
    with pytest.raises(UsageError):
        job.with_overrides(seed=-1)


@pytest.mark.parametrize(
    ("macs", "limit"),
    [
        ("'50%'", 500.0),
        ("'2x'", 500.0),
        ("'1.5k'", 1500.0),
        ("700", 700.0),
        ("1e16", 1e16),
        ("0.00005", 0.00005),
        ("1e-9", 1e-9),
    ],
)
def test_limits_of_counts(write, macs: str, limit: float) -> None:
    text = f'name = "a"\nmodel.factory = "m:f"\ndata.factory = "d:f"\nbudget.macs = {macs}\n'
    job = load_job(write(text))
    assert job.budget.limit_of("macs", 1000) == limit
    assert job.request.share == 1.0
    assert job.budget.asked.startswith("macs ")
    assert job.with_overrides(budget="30%").request.share == 0.3


@pytest.mark.parametrize("macs", ["'0%'", "'many'", "true", "-3", "'0'", "[1]"])
def test_what_is_no_limit_of_a_count(write, macs: str) -> None:
    text = f'name = "a"\nmodel.factory = "m:f"\ndata.factory = "d:f"\nbudget.macs = {macs}\n'
    (fault,) = faults(write(text))
    assert fault.startswith("budget.macs (line 4): ")


def test_a_job_without_any_limit(write) -> None:
    job = load_job(write('name = "a"\nmodel.factory = "m:f"\ndata.factory = "d:f"\n'))
    with pytest.raises(UsageError, match="has no budget"):
        _ = job.request


def test_normalisation_is_for_rankings_of_several_groups(write) -> None:
    prune = "prune.normalise = {!r}\nprune.allocation = {!r}\n"
    job = load_job(write(SHORTEST + prune.format("rank", "global")))
    assert job.prune.normalise == "rank"
    assert load_job(write(SHORTEST)).prune.normalise == "mean"
    (fault,) = faults(write(SHORTEST + prune.format("rank", "uniform")))
    assert "only allocation global, isomorphic ranks several groups together" in fault
    (fault,) = faults(write(SHORTEST + prune.format("means", "global")))
    assert "no normalisation 'means'; did you mean 'mean'?" in fault
