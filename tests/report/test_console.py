import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.errors import JobError, UsageError
from edgeprune.records import Gate
from edgeprune.report.console import Console
from tests import factories
from tests.report import test_plan_summary

ESCAPE = "\x1b"
EVERYTHING = """
from pathlib import Path
from edgeprune.report.console import Console
from tests import factories as f
console = Console(verbose=True)
with console.stage("Pricing [bold]layers") as stage:
    stage.update(1, 3, "stem")
    stage.note("almost")
console.detail("a detail")
console.warning("careful")
console.error("wrong")
console.profile(f.a_profile())
console.plan(f.a_plan(), f.a_table())
console.verdict(f.a_verdict())
console.verdict(f.a_failure(), Path("deploy"))
console.comparison(f.a_comparison(), f.a_verdict().parity, "a.onnx", "b.onnx", "measured", "us")
console.devices([("mobile_cpu", "Local CPU", "measured", "ready")])
console.methods([("importance", "fisher", "available", "mean squared per-sample gradient")])
console.checks([("onnxruntime", False, "absent", "pip install onnxruntime")])
"""


def on_terminal(script, **environment):
    """Run `script` with stderr on a pseudo-terminal; return what arrived there."""
    outer, inner = pty.openpty()
    root = str(Path(__file__).parents[2])
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=inner,
        stdout=subprocess.PIPE,
        cwd=root,
        env={**clean, "TERM": "xterm-256color", "PYTHONPATH": root, **environment},
    )
    os.close(inner)
    chunks = []
    while True:
        try:
            chunk = os.read(outer, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(outer)
    stdout, _ = process.communicate(timeout=60)
    text = b"".join(chunks).decode()
    assert process.returncode == 0, text
    assert stdout == b""
    return text


@pytest.fixture
def shown(capsys, monkeypatch):
    """Return what was printed since the last call; standard output stays empty."""
    monkeypatch.delenv("COLUMNS", raising=False)  # a test runner may set it

    def read():
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return read


def test_terminal_gets_colours_and_a_bar():
    text = on_terminal(EVERYTHING)
    assert ESCAPE in text
    assert "Pricing [bold]layers: done in" in text


def test_no_color_gives_no_escape_codes():
    text = on_terminal(EVERYTHING, NO_COLOR="1")
    assert ESCAPE not in text
    assert "Pricing [bold]layers: done in" in text


def test_dumb_terminal_gets_no_bar():
    assert "\x1b[?25l" not in on_terminal(EVERYTHING, TERM="dumb")


def test_narrow_terminal_loses_nothing():
    name = "features.denseblock3.denselayer17.conv2"
    script = (
        "from edgeprune.report.console import Console\n"
        "from tests import factories as f\n"
        f"layer = f.a_profile().layers[0].model_copy(update={{'name': {name!r}}})\n"
        "Console().profile(f.a_profile(layers=(layer,)))\n"
    )
    text = on_terminal(script, NO_COLOR="1", COLUMNS="60")
    assert max(map(len, text.splitlines()[2:12])) <= 60
    assert "…" not in text
    rows = [line.split("  ")[0].strip() for line in text.splitlines()]
    assert name in "".join(rows)


def test_pipe_gets_one_line_at_start_and_one_at_the_end(shown):
    with Console().stage("Pricing") as stage:
        for done in range(100):
            stage.update(done, 100)
    lines = shown().splitlines()
    assert lines[0] == "Pricing …"
    assert re.fullmatch(r"Pricing: done in \d+\.\d s", lines[1])
    assert len(lines) == 2


def test_pipe_gets_a_line_of_progress_now_and_then(shown, monkeypatch):
    monkeypatch.setattr("edgeprune.report.progress.LINE_EVERY_S", 0.0)
    with Console().stage("Pricing") as stage:
        stage.update(3, 8, "stem")
    assert "Pricing: 3/8 stem" in shown()


def test_pipe_gets_no_line_of_progress_twice(shown, monkeypatch):
    monkeypatch.setattr("edgeprune.report.progress.LINE_EVERY_S", 0.0)
    with Console().stage("Pricing") as stage:
        for done in (0, 0, 1, 1, 1, 0):
            stage.update(done, 6, "whole plans settled")
    assert shown().splitlines()[1:-1] == [
        f"Pricing: {done}/6 whole plans settled" for done in (0, 1, 0)
    ]


def test_stage_that_fails_is_not_called_done(shown):
    with pytest.raises(UsageError), Console().stage("Pricing"):
        raise UsageError("no")
    text = shown()
    assert "Pricing: stopped after" in text
    assert "done" not in text


def test_forced_colour_draws_no_bar_into_a_pipe(shown, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Console().stage("Pricing") as stage:
        stage.update(1, 2)
    assert ESCAPE not in shown()


def test_quiet_keeps_results_warnings_and_errors(shown):
    console = Console(quiet=True)
    with console.stage("Pricing") as stage:
        stage.update(1, 2)
    console.skipped("Pricing")
    console.info("hello")
    assert shown() == ""
    console.warning("careful")
    console.error("wrong")
    console.verdict(factories.a_verdict())
    text = shown()
    assert text.startswith("warning: careful\nerror: wrong\n")
    assert "Passed: every gate is met." in text


def test_details_are_for_verbose(shown):
    Console().detail("fine print")
    assert shown() == ""
    Console(verbose=True).detail("fine print")
    assert shown() == "fine print\n"


def test_skipped_stage_is_announced(shown):
    Console().skipped("2-profile")
    assert shown() == "2-profile: finished earlier, skipped\n"


def test_error_shows_what_and_the_hint_below_without_reading_markup(shown):
    Console().error(UsageError("budget '[red]5[/red]' :smile: cannot be read", "write [b]50%[/b]"))
    assert shown() == ("error: budget '[red]5[/red]' :smile: cannot be read\n  write [b]50%[/b]\n")


def test_error_keeps_every_line_whole(shown):
    Console().error(JobError("job.toml", ["a" * 200, "[/] second"]))
    assert shown() == f"error: job.toml: 2 faults\n  - {'a' * 200}\n  - [/] second\n"


def test_control_characters_of_others_do_not_reach_the_terminal(shown):
    console = Console()
    console.error("layer \x1b[2Jx")
    console.profile(factories.a_profile(model="\x1b]0;title\x07"))
    assert ESCAPE not in shown()


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_no_row_of_a_profile_is_broken(shown, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    Console().profile(factories.a_profile())
    text = shown()
    table = text.partition("changes of layout")[0].splitlines()
    rows = [line for line in table if line.strip().partition(" ")[0] in factories.COSTS]
    assert len(rows) == len(factories.COSTS)
    assert all(re.search(r" % .*µs \[.*\]", row) for row in rows)
    assert max(map(len, table)) <= columns
    assert ("activations" in text.partition("stem")[0]) == (columns == 200)
    assert ("too wide for here" in text) == (columns < 200)


def test_profile_is_sorted_by_cost_and_accounts_for_everything(shown):
    Console().profile(factories.a_profile())
    text = shown()
    names = [name for name in re.findall(r"^ (\S+)", text, re.MULTILINE) if name in factories.COSTS]
    assert names == sorted(names, key=lambda name: -factories.COSTS[name][0])
    assert len(names) == len(factories.COSTS)
    for part in (
        "measured on the device",
        "changes of layout",
        "985.3 µs [979.0, 992.8], measured",
        "92 % of a run belongs to named layers",
        "294.0 KiB (exact, from shapes)",
        "324.0 KiB",
    ):
        assert part in text
    shares = [float(share) for share in re.findall(r"([\d.]+) % ", text.split("coverage")[0])]
    assert sum(shares) == pytest.approx(91.7 + 1.4, abs=0.6)


def test_profile_says_what_the_runtime_does_not_report(shown):
    gone = factories.a_profile().layers[0].model_copy(update={"cost": 0.0, "low": 0.0, "high": 0.0})
    Console().profile(
        factories.a_profile(slim=True, layers=(gone, factories.a_profile().layers[1]))
    )
    text = " ".join(shown().split())
    assert "reported by the runtime not reported" in text
    assert "removed by the runtime stem" in text


def test_plan_shows_widths_prediction_and_rounds(shown):
    Console().plan(factories.a_plan(), factories.a_table())
    text = " ".join(shown().split())
    for part in (
        "stages.2.0.conv2 128 48 38 %",
        "predicted 489 µs, 99.3 % of the budget, from",
        "off by 8.3 %",
        "16 to 64 by 16",
        "+8.3 %",
        "486.0 µs [484.1, 488.3]",
    ):
        assert part in text


def test_plan_shows_what_was_tried_with_a_short_recovery(shown):
    Console().plan(factories.a_plan(), factories.a_table())
    assert "widths tried" not in shown()
    Console().plan(test_plan_summary.tried(0.2511, 0.2612), factories.a_table())
    text = " ".join(shown().split())
    assert "loss re-fitted after 100 steps" in text
    assert "trials loss of whole plans on validation data" in text
    assert "0.2511 taken" in text
    assert "0.2612" in text


def test_plan_that_was_never_built_does_not_pretend_to_know_its_error(shown):
    Console().plan(factories.a_plan(rounds=()), factories.a_table())
    text = shown()
    assert "not checked yet" in text
    assert "off by" not in text


def test_verdict_shows_ratio_parity_gates_and_ends_with_the_outcome(shown):
    Console().verdict(factories.a_verdict(), Path("deploy/x"))
    text = shown()
    assert "speed-up  2.027\N{MULTIPLICATION SIGN}, 95 % interval 2.019 to 2.036" in text
    assert "holds: largest difference 2.4e-06" in text
    assert "widths    stem 32 -> 16, stages.0.0.conv1 32 -> 16, " in text
    assert text.splitlines()[-2:] == ["Passed: every gate is met.", "files: deploy/x"]


@pytest.mark.parametrize(
    ("precision", "told"), [(None, "cost (measured)"), ("int8", "cost (measured, int8)")]
)
def test_verdict_says_what_its_costs_are_of(shown, precision, told):
    Console().verdict(factories.a_verdict(precision=precision))
    assert told in shown()


def test_verdict_names_the_gates_that_failed(shown):
    Console().verdict(factories.a_failure())
    text = shown()
    assert text.splitlines()[-1] == "Not passed: accuracy and budget not met; not measured: ram."
    assert re.search(r"budget +not met", text)
    assert re.search(r"ram +not measured +- ", text)


def test_estimates_are_never_called_a_speed_up(shown):
    console = Console()
    console.verdict(factories.an_estimate())
    console.plan(factories.a_plan(), factories.a_table(kind="estimated"))
    console.comparison(
        factories.a_comparison(), factories.a_verdict().parity, "a", "b", "estimated", "us"
    )
    text = shown()
    assert not re.search(r"speed.?up|measured on", text, re.IGNORECASE)
    assert text.count("estimated by a formula, not measured") == 3
    assert "estimated ratio" in text


def test_comparison_that_proves_nothing_says_so(shown):
    found = factories.a_comparison(median=1.01, low=0.97, high=1.05)
    Console().comparison(found, factories.a_verdict().parity, "a.onnx", "b.onnx", "measured", "us")
    text = shown()
    assert "not significant" in text
    assert "900 in 3 processes" in text


def test_comparison_tells_what_its_device_is(shown):
    note = "times of this device mean nothing: it imitates a GPU"
    Console().comparison(
        factories.a_comparison(),
        factories.a_verdict().parity,
        "a",
        "b",
        "measured",
        "us",
        note=note,
    )
    assert shown().splitlines()[-1] == "Times of this device mean nothing: it imitates a GPU."


def test_what_was_not_measured_is_not_told_as_if_of_parity(shown):
    why = "not measured: this device yields estimates only"
    gate = Gate(name="speedup", met=None, limit=1.0, value=1.0, note=why)
    Console().comparison(
        factories.a_comparison(), factories.a_verdict().parity, "a", "b", "estimated", "us", (gate,)
    )
    text = shown()
    assert re.search(rf"ratio of costs +{why}", text)
    assert "speed-up" not in text


def test_emulated_comparison_is_exact(shown):
    found = factories.a_comparison(
        median=2.0, low=2.0, high=2.0, pairs=1, processes=1, stopped="exact"
    )
    Console().comparison(
        found, factories.a_verdict().parity, "a.onnx", "b.onnx", "emulated", "instructions"
    )
    text = shown()
    assert "exact" in text
    assert "instructions" in text
    assert "µs" not in text


def test_devices_and_checks_are_tables(shown):
    console = Console()
    console.devices([("mobile_cpu", "Local [CPU]", "measured", "ready")])
    console.checks(
        [("onnxruntime", True, "1.31", "unused"), ("qemu", False, "absent", "apt install q")]
    )
    text = shown()
    assert "Local [CPU]" in text
    assert re.search(r"onnxruntime +ok +1\.31", text)
    assert "unused" not in text
    assert re.search(r"qemu +missing +absent +apt install q", text)


def test_importing_the_console_imports_nothing_heavy():
    script = (
        "import sys, edgeprune.report.console\n"
        "sys.exit(bool({'rich', 'pydantic'} & {*sys.modules}))"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": root}
    )
