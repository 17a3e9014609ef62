"""This machine as the device: the worker in a fresh process, answers by file."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edgeprune.devices.advice import command
from edgeprune.devices.processes import Done, run
from edgeprune.devices.protocol import Answer, Obstacle, Request
from edgeprune.errors import DeadlineError, DeviceError, UnsupportedModelError
from edgeprune.records import DeviceSpec

IMPORT = (
    'import os; os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1"); '
    "import onnxruntime as o; print(*o.get_available_providers())"
)
RUNTIME = "onnxruntime>=1.31,<2"  # as pyproject.toml has it
GRACE_SECONDS = 120.0  # for the start of the process, opening of sessions and warm-up
# What onnxruntime says of its own sources and error classes before it says what is wrong.
NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:\s*"
    r"|/\S*onnxruntime_src/\S+ .*?\) (?=[A-Z])"
)
ADVICE = {
    "Opset": "export the model for an opset that this onnxruntime supports",
    "not a registered function/op": "export it without that operator, or where it is registered",
    "No Op registered": "export it without that operator, or with an opset that has it",
}
# The line of a traceback that names the class; what the error says may go on after it.
RAISED = re.compile(r"(?:\w+\.)*(?:onnxruntime_pybind11_state\.\w+|\w*(?:Error|Exception))(?:: |$)")
LONGEST = 600  # characters that are told of what an error says
WORKER = Path(__file__).resolve().parent.parent / "profiler" / "worker.py"


@dataclass(frozen=True)
class LocalDevice:
    """The machine that edgeprune itself runs on; `python` runs the worker (None: this one)."""

    spec: DeviceSpec
    python: str | None = None

    def ask(self, request: Request) -> Answer:
        """Run the worker on `request` and return its answer; this process sleeps meanwhile."""
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
            asked, answered = Path(scratch, "request.json"), Path(scratch, "result.json")
            asked.write_text(
                json.dumps({**request.model_dump(), "session": session_of(self.spec)}),
                encoding="utf-8",
            )
            command = [self.python or sys.executable, "-I", str(WORKER), str(asked), str(answered)]
            limit = request.deadline_seconds + GRACE_SECONDS + 2.0 * len(request.models)
            try:
                done = run(command, Path(scratch), limit)
            except subprocess.TimeoutExpired:
                raise DeadlineError(
                    f"device {self.spec.name}: no answer within {limit:.0f} s",
                    "is the machine overloaded?",
                ) from None
            if done.code != 0:
                raise failure(self.spec, request, done, "edgeprune doctor checks this machine")
            try:
                return Answer.model_validate_json(answered.read_bytes())
            except (OSError, ValidationError) as error:
                raise DeviceError(f"device {self.spec.name}: unreadable answer: {error}") from error


def session_of(spec: DeviceSpec) -> dict[str, object]:
    """Return what the worker has to know to open a session as `spec` asks."""
    return {
        "threads": spec.threads,
        "affinity": spec.affinity,
        "providers": spec.providers,
        "provider_options": spec.provider_options,
        "graph_optimization": spec.graph_optimization,
        "config": spec.session_config,
    }


def failure(
    spec: DeviceSpec, request: Request, done: Done, hint: str
) -> DeviceError | UnsupportedModelError:
    """Tell a model that the runtime refuses from a device that fails, by the worker's end."""
    code, last = done.code, _last_words(done)
    models = ", ".join(dict.fromkeys(model.name for model in request.models[:3]))
    if "onnxruntime_pybind11_state" in last or last.startswith("ValueError"):
        reason = NOISE.sub("", last.partition(": ")[2] or last)
        advice = next((advice for sign, advice in ADVICE.items() if sign in reason), "")
        return UnsupportedModelError(
            f"onnxruntime on {spec.name} refuses {models}: {reason}", advice
        )
    if "MemoryError" in last or "bad_alloc" in last:
        return UnsupportedModelError(
            f"{models} needs more memory than {spec.name} has: {last.partition(': ')[2] or last}"
        )
    if code < 0:
        last = f"its process was ended by signal {-code}"
        if code == -9:
            hint = f"the system does that when memory runs out; {hint}"
    return DeviceError(f"device {spec.name}: the worker failed: {last}", hint)


def _last_words(done: Done) -> str:
    """Return the worker's error in one line, or its last line where it names none."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raised = [i for i, line in enumerate(lines) if RAISED.match(line)]
    if not raised or done.code < 0:  # a signal ends it without a traceback
        return lines[-1] if lines else "no message"
    words = " ".join(line.strip() for line in lines[raised[-1] :])
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."


def obstacle(spec: DeviceSpec) -> Obstacle | None:
    """Return what keeps this machine from being the device: a missing runtime or provider."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Obstacle("onnxruntime is not installed", command("setup"))
    providers = runtime_providers()
    missing = [name for name in spec.providers if name not in providers]
    if missing:
        return Obstacle(
            f"onnxruntime here has no {', '.join(missing)} (it has {', '.join(providers)})"
        )
    return None


def runtime_providers(python: str | None = None) -> tuple[str, ...]:
    """Return the execution providers of the installed onnxruntime, asked in a fresh process.

    Args:
        python: the interpreter whose onnxruntime is meant; by default that of edgeprune.

    Raises:
        DeviceError: it does not start.
    """
    program = IMPORT
    command = [python or sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command, cwd=Path("/"), capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{command[0]} does not start: {error}") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise DeviceError(
            f"onnxruntime does not start: {last[0]}",
            shlex.join([command[0], "-m", "pip", "install", "--force-reinstall", RUNTIME]),
        )
    return tuple(done.stdout.split())
