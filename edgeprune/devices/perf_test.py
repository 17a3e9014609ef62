"""onnxruntime's own perf_test on an Android device: whole runs of float models, and nothing else.

It answers the task `time`. It tells neither the cost of a layer nor an output, and it cannot say
whether a provider fell back to the CPU, so that it is used with the CPU provider alone. Its models
take turns process by process, not run by run as the worker's do.
"""

from __future__ import annotations

import csv
import math
import re
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edgeprune.devices.bundle import bundle_of, digest_of
from edgeprune.devices.channel import Channel, Closed, Silent
from edgeprune.devices.protocol import Answer, ModelAnswer, ModelFile, Request
from edgeprune.errors import DeadlineError, DeviceError, LostDeviceError, UnsupportedModelError
from edgeprune.export.segments import read_graph
from edgeprune.records import Adb, DeviceSpec, Environment

PLACE = "/data/local/tmp"
PATIENCE = 60.0
LEVELS = {"disabled": "0", "basic": "1", "extended": "2", "all": "99"}
PROPERTIES = {
    "device": "ro.product.model",
    "processor": "ro.soc.model",
    "architecture": "ro.product.cpu.abi",
    "system": "ro.build.version.release",
}
COMPARABLE = (
    "device", "processor", "architecture", "binary", "providers", "threads", "graph_optimization",
    "affinity",
)  # fmt: skip
LOADING = re.compile(r"Session creation time cost:\s*([0-9.eE+-]+)\s*s")
REFUSED = re.compile(r"Load model from|invalid model|not a registered|NOT_IMPLEMENTED|Type Error")
# The scratch folder lives as long as the standard input of this script is open.
KEEP = """
folder=$(mktemp -d "$0/edgeprune-XXXXXXXX") || exit 1
trap 'rm -rf "$folder"; exit 1' HUP INT TERM
echo "$folder"
while read -r line; do :; done
rm -rf "$folder"
"""
# The program is ended when standard input closes: when we leave, or the cable does.
RUN = """
cd "$0" || exit 1
exec 3<&0
LD_LIBRARY_PATH=. "$@" </dev/null 3<&- &
program=$!
( while read -r line <&3; do :; done; kill -9 $program ) >/dev/null 2>&1 &
watch=$!
wait $program
code=$?
kill $watch 2>/dev/null
exit $code
"""


class Shell(Protocol):
    """What is needed of adb."""

    @property
    def label(self) -> str:
        """The device in messages."""

    @property
    def settings(self) -> Adb:
        """What the profile says about the device."""

    @property
    def facts(self) -> dict[str, str]:
        """How the device was reached."""

    def adb(self, *words: str) -> list[str]:
        """Return an adb command."""

    def shell(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` over there."""

    def explain(self, closed: Closed) -> DeviceError:
        """Return what the end of the transport means."""


class PerfTestDevice:
    """An Android device that times models with a pushed onnxruntime_perf_test."""

    def __init__(self, spec: DeviceSpec, shell: Shell) -> None:
        self._spec = spec
        self._shell = shell
        self._keeper: Channel | None = None
        self._folder = ""
        self._pushed: set[str] = set()
        self._facts: dict[str, str] = {}
        self._program = ""
        self._runs = 0
        self._answered = False

    @property
    def spec(self) -> DeviceSpec:
        """The profile of the device."""
        return self._spec

    def close(self) -> None:
        """Give up the scratch folder over there; a later question makes a new one."""
        if self._keeper is not None:
            self._keeper.close()
        self._keeper = None
        self._pushed.clear()

    def ask(self, request: Request) -> Answer:
        """Answer `request`, whose task must be `time`."""
        self._check(request)
        started = time.monotonic()
        until = started + request.deadline_seconds
        self._prepare()
        names = [self._push(model) for model in request.models]
        values: list[list[float]] = [[] for _ in names]
        loads = [0.0] * len(names)
        stopped = False
        for opening in range(request.openings):
            order = list(range(len(names)))
            for index in order if opening % 2 == 0 else order[::-1]:
                model = request.models[index]
                load, costs = self._time(model, names[index], request, opening)
                values[index] += costs
                loads[index] = max(loads[index], load)
            if time.monotonic() > until:
                stopped = opening + 1 < request.openings
                break
        self._answered = True
        return Answer(
            stopped="time" if stopped else "fixed",
            models=tuple(
                ModelAnswer(
                    name=m.name, load_seconds=s, warmup=request.warmup_runs, values=tuple(v)
                )
                for m, s, v in zip(request.models, loads, values, strict=True)
            ),
            environment=self._environment(),
        )

    def _check(self, request: Request) -> None:
        if request.task != "time":
            raise DeviceError(
                f"device {self._spec.name}: perf_test times whole runs; it cannot answer "
                f"{'the cost of layers' if request.task == 'layers' else 'the outputs of a model'}",
                'set mode = "termux" under [adb] in its profile for that',
            )
        if self._spec.providers != ("CPUExecutionProvider",):
            raise DeviceError(
                f"device {self._spec.name}: perf_test cannot tell whether "
                f"{self._spec.providers[0]} fell back to the CPU",
                'set mode = "termux", or providers = ["CPUExecutionProvider"]',
            )
        for model in request.models:
            read_graph(Path(model.file))  # perf_test takes an unknown size for 1 and says nothing

    def _time(
        self, model: ModelFile, name: str, request: Request, opening: int
    ) -> tuple[float, list[float]]:
        """Return the seconds of loading, and the cost of every run after the warm-up."""
        runs = request.warmup_runs + request.rounds * request.inner
        self._runs += 1
        result = f"{self._runs}.csv"  # a new one each time: perf_test adds to what it finds
        pinned = self._spec.affinity
        mask = ["taskset", f"{sum(1 << cpu for cpu in pinned):x}"] if pinned else []
        seed = str(request.seed + opening)
        options = ["-I", "-m", "times", "-r", str(runs), "-e", "cpu", "-S", seed]
        options += ["-x", str(self._spec.threads), "-y", "1"]
        options += ["-o", LEVELS[self._spec.graph_optimization]]
        if self._spec.session_config:
            raise DeviceError(
                f"device {self._spec.name}: onnxruntime_perf_test is not given session_config",
                "leave it out of the profile, or run Python on the device",
            )
        limit = request.deadline_seconds + self._shell.settings.grace_seconds
        words = [*mask, f"./{self._program}", *options, name, result]
        code, text = self._run(words, limit)
        found = LOADING.search(text)
        if code != 0 or found is None:
            raise self._failure(model, code, text)
        return float(found[1]), self._costs(result, runs)[request.warmup_runs :]

    def _run(self, words: Sequence[str], limit: float) -> tuple[int, str]:
        """Run a program in the scratch folder; return its exit code and all it said."""
        channel = Channel(self._shell.shell(["sh", "-c", RUN, self._folder, *words]))
        said: list[str] = []
        until = time.monotonic() + limit
        try:
            while True:
                line = channel.read_line(max(0.0, until - time.monotonic()))
                said.append(line.decode("utf-8", "replace"))
        except Closed as closed:
            if _of_adb(closed):
                raise self._gone(self._shell.explain(closed)) from None
            return closed.code, "\n".join([*said, closed.words])
        except Silent:
            raise DeadlineError(
                f"device {self._spec.name}: no answer within {limit:.0f} s",
                "grace_seconds under [adb] in its profile allows it more",
            ) from None
        finally:
            channel.close()

    def _failure(
        self, model: ModelFile, code: int, text: str
    ) -> DeviceError | UnsupportedModelError:
        lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
        refused = next((line for line in lines if REFUSED.search(line)), None)
        if refused is not None:
            return UnsupportedModelError(
                f"onnxruntime on {self._spec.name} refuses {model.name}: {refused}"
            )
        hint = "is the binary built for this device, with its libraries beside it?"
        if code in (128 + 9, -9):
            hint = (
                "a system that runs out of memory ends processes so: is the model too large for it?"
            )
        return DeviceError(
            f"device {self._spec.name}: perf_test failed (exit code {code}): {lines[-1]}", hint
        )

    def _costs(self, result: str, runs: int) -> list[float]:
        """Return the cost of every run in microseconds: the second column of perf_test's file."""
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            fetched = Path(scratch, "result.csv")
            self._adb("pull", f"{self._folder}/{result}", str(fetched))
            text = fetched.read_text(encoding="utf-8", errors="replace")
        try:
            costs = [1e6 * float(row[1]) for row in csv.reader(text.splitlines()) if len(row) == 5]
        except ValueError:
            costs = []
        if len(costs) != runs or not all(math.isfinite(c) and c >= 0 for c in costs):
            raise DeviceError(
                f"device {self._spec.name}: perf_test wrote {len(costs)} times of {runs} runs: "
                f"{text[:80]!r}",
                "is the binary onnxruntime_perf_test of version 1.16 or later?",
            )
        return costs

    def _prepare(self) -> None:
        """Make the scratch folder, unless it is there, and push the program into it."""
        if self._keeper is not None and self._keeper.alive:
            return
        self.close()
        place = self._shell.settings.folder or PLACE
        keeper = Channel(self._shell.shell(["sh", "-c", KEEP, place]))
        weakref.finalize(self, keeper.close)
        self._keeper = keeper
        try:
            self._folder = keeper.read_line(PATIENCE).decode("utf-8").strip()
        except Closed as closed:
            raise self._gone(self._shell.explain(closed)) from None
        except Silent:
            silent = DeviceError(f"{self._shell.label} went silent", "is it still plugged in?")
            raise self._gone(silent) from None
        binary = Path(self._shell.settings.binary or "").expanduser()
        files = [binary, *sorted(binary.parent.glob("*.so*"))]
        for file in files:
            self._adb("push", str(file), f"{self._folder}/{file.name}")
        self._carry_out(self._shell.shell(["chmod", "700", f"{self._folder}/{binary.name}"]))
        self._program = binary.name
        self._facts = {key: self._property(name) for key, name in PROPERTIES.items()}
        self._facts["binary"] = " ".join(digest_of(file)[:12] for file in files)

    def _push(self, model: ModelFile) -> str:
        bundle = bundle_of(Path(model.file))
        for name, path in bundle.files.items():
            if name not in self._pushed:
                target = f"{self._folder}/{name}"
                if "/" in name:
                    self._carry_out(self._shell.shell(["mkdir", "-p", str(Path(target).parent)]))
                self._adb("push", str(path), target)
                self._pushed.add(name)
        return bundle.main

    def _property(self, name: str) -> str:
        return self._carry_out(self._shell.shell(["getprop", name])).strip() or "unknown"

    def _adb(self, *words: str) -> None:
        self._carry_out(self._shell.adb(*words))

    def _carry_out(self, command: Sequence[str]) -> str:
        """Run a short adb command and return what it printed."""
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=10 * PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self._shell.label}: adb does not end: {command}") from None
        if done.returncode != 0:
            closed = Closed(done.returncode, done.stderr or done.stdout)
            raise self._gone(self._shell.explain(closed))
        return done.stdout

    def _gone(self, error: DeviceError) -> DeviceError:
        """Return the error that tells that the phone went away, if it answered before."""
        return LostDeviceError(error.what, error.hint) if self._answered else error

    def _environment(self) -> Environment:
        spec = self._spec
        facts = {
            **self._facts,
            "providers": ",".join(spec.providers),
            "threads": str(spec.threads),
            "graph_optimization": spec.graph_optimization,
            "affinity": ",".join(map(str, spec.affinity or ())) or "any",
            **self._shell.facts,
        }
        return Environment(facts=facts, comparable=COMPARABLE)


def _of_adb(closed: Closed) -> bool:
    return any(line.startswith(("error: ", "adb: ")) for line in closed.words.splitlines())
