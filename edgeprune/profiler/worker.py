"""The part that runs on the device: `python3 worker.py REQUEST.json RESULT.json`.

It imports the standard library, numpy and onnxruntime only, so that the same file runs on this
machine, over ssh, and inside an emulator. The request names models and says what to do with them;
raw samples go into the result file, written whole or not at all. Nothing is summarised here. Tasks:

    time    run the models in turn, in random order (or alternating, for two), and time every run
    layers  the same with onnxruntime's profiler on: the time of every node of every run
    memory  how much resident memory one model takes while it loads and runs
    run     run one model over the inputs in an .npz file and write its outputs to another
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Dict

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: nobody is told of a model
import numpy as np
import onnxruntime as ort

Facts = Dict[str, Any]  # not dict[...]: evaluated on import, and the device may have Python 3.8
LEVELS = {name: ort.GraphOptimizationLevel.__members__["ORT_" + level] for name, level in (
    ("disabled", "DISABLE_ALL"), ("basic", "ENABLE_BASIC"), ("extended", "ENABLE_EXTENDED"),
    ("all", "ENABLE_ALL"),
)}  # fmt: skip
ALIKE = ("double", "float16", "int64", "int32", "int8", "uint8", "bool")  # named as numpy names it
TYPES = {"tensor(float)": np.dtype("float32"), **{"tensor(%s)" % k: np.dtype(k) for k in ALIKE}}
COMPARABLE = [
    "architecture", "processor", "processors", "instruction_set", "onnxruntime", "providers",
    "threads", "graph_optimization", "affinity", "governor", "accelerator",
]  # fmt: skip
INSTRUCTIONS = [
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm",
    "sve", "sme",
]  # fmt: skip


def main(request_path: str, result_path: str) -> None:
    """Carry out the request in one file and leave the result in the other."""
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    affinity = request["session"].get("affinity")
    if affinity:
        os.sched_setaffinity(0, set(affinity) & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    if request["session"]["providers"][0].startswith(("CUDA", "Tensorrt")):
        # Float32 as elsewhere, so that parity can be a gate: Ampere rounds products to TF32.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        if request["task"] == "layers":  # each kernel ends before its node does
            os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    _end_with_parent()
    load_before, before = _load(), _usage()
    with tempfile.TemporaryDirectory() as scratch:
        tasks = {"time": timed, "layers": profiled, "run": outputs, "memory": resident}
        result = tasks[request["task"]](request, scratch)
    result["environment"] = environment(request, load_before)
    result["environment"]["facts"].update(_disturbance(before, _usage()))
    unfinished = result_path + ".partial"
    with open(unfinished, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    os.replace(unfinished, result_path)


def open_session(
    model: Facts, options: Facts, trace: str | None = None, pattern: bool = True
) -> tuple[Any, float]:
    """Return a session and the seconds it took to open; a provider that is missing is an error."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_mem_pattern = pattern
    settings.graph_optimization_level = LEVELS[options["graph_optimization"]]
    for name, value in options.get("config", {}).items():
        settings.add_session_config_entry(name, value)
    if trace is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = trace  # one of its own: names hold only whole seconds
    free, file = _kib("/proc/meminfo", "MemAvailable"), model["file"]
    needed = os.path.getsize(file) >> 10 if os.path.exists(file) else 0
    if free and needed > free:
        raise ValueError("its file takes %d KiB, but %d KiB of memory are free" % (needed, free))
    started = time.perf_counter()
    providers = [(n, options.get("provider_options", {}).get(n, {})) for n in options["providers"]]
    session = ort.InferenceSession(model["file"], settings, providers=providers)
    seconds = time.perf_counter() - started
    got, wanted = session.get_providers()[0], options["providers"][0]
    if got != wanted:
        raise RuntimeError("the session runs on %s, not on %s" % (got, wanted))
    return session, seconds


def feeds_for(session: Any, seed: int) -> dict[str, Any]:
    """Return random inputs of the shapes and types that the session asks for."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for value in session.get_inputs():
        if any(not isinstance(size, int) for size in value.shape):
            raise ValueError("input %r has no fixed shape: %s" % (value.name, value.shape))
        kind = TYPES.get(value.type)
        if kind is None:
            raise ValueError("input %r is a %s, which is not supported" % (value.name, value.type))
        sample = generator.standard_normal(value.shape)
        feeds[value.name] = sample.astype(kind) if kind.kind == "f" else np.zeros(value.shape, kind)
    return feeds


def warm_up(runners: Sequence[Callable[[], Any]], seconds: float, at_least: int) -> list[int]:
    """Run each model until its fastest run has not improved for a while; return the runs made."""
    made = []
    for run in runners:
        count, best, since, until = 0, float("inf"), 0, time.perf_counter() + seconds
        while count < at_least or (since < at_least and time.perf_counter() < until):
            started = time.perf_counter_ns()
            run()
            taken = time.perf_counter_ns() - started
            count += 1
            since = 0 if taken < 0.99 * best else since + 1
            best = min(best, taken)
        made.append(count)
    return made


def schedule(count: int, rounds: int, paired: bool, seed: int) -> Iterator[list[int]]:
    """Yield the order of the models for every round: alternating for pairs, random otherwise."""
    shuffle = random.Random(seed)
    order = list(range(count))
    for number in range(rounds):
        if paired:
            yield order if number % 2 == 0 else order[::-1]
        else:
            shuffle.shuffle(order)
            yield list(order)


def visit(
    request: Facts, runners: Sequence[Callable[[], Any]], seed: int, until: float
) -> tuple[list[list[float]], str]:
    """Run the runners round by round; return microseconds in the order taken, and why it ended."""
    values: list[list[float]] = [[] for _ in runners]
    clock = time.perf_counter_ns
    for order in schedule(len(runners), request["rounds"], request["paired"], seed):
        for index in order:
            run = runners[index]
            for _ in range(request["inner"]):
                started = clock()
                run()
                values[index].append((clock() - started) / 1000.0)
        if time.perf_counter() > until:
            return values, "time"
    return values, "fixed"


def timed(request: Facts, scratch: str) -> Facts:
    """Time whole runs; values are microseconds in the order in which they were taken.

    The sessions are opened `openings` times, in random order: where their memory lies differs each
    time, and that alone moves a model by some per cent.
    """
    start = {"warmup": 0, "load_seconds": 0.0}
    models: list[Facts] = [dict(start, name=m["name"], values=[]) for m in request["models"]]
    stopped, until = "fixed", time.perf_counter() + request["deadline_seconds"]
    for opening in range(request["openings"]):
        seed = request["seed"] * 1000 + opening
        sessions: dict[int, Any] = {}
        for index in random.Random(seed).sample(range(len(models)), len(models)):
            sessions[index], seconds = open_session(request["models"][index], request["session"])
            models[index]["load_seconds"] = max(models[index]["load_seconds"], seconds)
        opened = [sessions[index] for index in range(len(models))]
        runners = [partial(s.run, None, feeds_for(s, request["seed"])) for s in opened]
        made = warm_up(runners, request["warmup_seconds"], request["warmup_runs"])
        values, stopped = visit(request, runners, seed, until)
        for model, runs, found in zip(models, made, values):
            model["warmup"] = max(model["warmup"], runs)
            model["values"] += found
        if stopped == "time":
            break
    return {"stopped": stopped, "models": models}


def profiled(request: Facts, scratch: str) -> Facts:
    """Profile runs; for every node its time in microseconds in every run after the warm-up.

    With `unprofiled`, each model has a second session without the profiler, visited in the same
    rounds: the difference of the two is what profiling costs. All are opened `openings` times.
    """
    parts = [_profiled_once(request, scratch, opening) for opening in range(request["openings"])]
    for part in parts[1:]:
        for model, more in zip(parts[0]["models"], part["models"]):
            for found, again in [(model, more), *zip(model["nodes"], more["nodes"])]:
                for key in {"values", "starts", "runs"} & set(found):
                    found[key] += again[key]
    return dict(parts[0], stopped=parts[-1]["stopped"])


def _profiled_once(request: Facts, scratch: str, opening: int) -> Facts:
    count, both = len(request["models"]), request.get("unprofiled", False)
    seed, opened = request["seed"] * 1000 + opening, {}
    order = list(range(2 * count)) if both else list(range(count))
    for index in random.Random(seed).sample(order, len(order)) if both else order:
        trace = os.path.join(scratch, "trace%d" % index) if index < count else None
        opened[index] = open_session(request["models"][index % count], request["session"], trace)
    sessions = [opened[index][0] for index in sorted(opened)]
    runners = [partial(s.run, None, feeds_for(s, request["seed"])) for s in sessions]
    made = warm_up(runners, request["warmup_seconds"] if both else 0.0, request["warmup_runs"])
    until = time.perf_counter() + request["deadline_seconds"] / request["openings"]
    values, stopped = visit(request, runners, seed, until)
    models = []
    for index, model in enumerate(request["models"]):
        session, seconds = opened[index]
        trace = session.end_profiling()
        with open(trace, encoding="utf-8") as stream:
            events = json.load(stream)
        os.remove(trace)
        found = dict(_nodes(events, made[index]), name=model["name"], warmup=made[index])
        models.append(dict(found, load_seconds=seconds))
        if both:
            models[-1]["values"] = values[count + index]
    return {"stopped": stopped, "models": models}


def _nodes(events: list[Facts], warmup: int) -> Facts:
    """Sort a trace into nodes, and read the largest activation memory of the first run.

    Weights that the runtime keeps are in the sum that it states: what was there before the first
    node ran is not activation.
    """
    nodes: dict[tuple[str, Any], Facts] = {}
    runs = [e for e in events if e.get("cat") == "Session" and e["name"] == "model_run"]
    peak: int | None = None
    weights = 0
    programs: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Api":  # a program of a GPU: <node>&<operator>&<program>
            programs.setdefault(event["name"].rsplit("&", 2)[0], []).append(event["dur"])
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        args = event["args"]
        name = event["name"][: -len("_kernel_time")]
        kind = {"name": name, "operator": args.get("op_name"), "provider": args.get("provider")}
        place = (name, args.get("node_index"))
        node = nodes.setdefault(place, dict(kind, values=[], starts=[]))
        if not node["values"] and "mem_bytes_requested_in_use" in args:
            used = int(args["mem_bytes_requested_in_use"])
            if peak is None:
                weights = used - int(args.get("mem_requested_in_use_delta", used))
            peak = max(peak or 0, used - weights)
        node["values"].append(event["dur"])
        node["starts"].append(event["ts"])
    for node in nodes.values():
        node.update({key: node[key][warmup:] for key in ("values", "starts")})
    spent = [event["dur"] for event in runs[warmup:]]
    return {"runs": spent, "peak_bytes": peak, "programs": programs, "nodes": list(nodes.values())}


def resident(request: Facts, scratch: str) -> Facts:
    """Return the resident memory of this process before, while loading and while running a model.

    The arena is on and the memory pattern off, so that buffers come and go as tensors do.
    """
    model, memory = request["models"][0], {"before": _kib("/proc/self/status", "VmRSS")}
    _forget_peak()
    session, seconds = open_session(model, request["session"], pattern=False)
    feeds = feeds_for(session, request["seed"])
    memory["loading"] = _kib("/proc/self/status", "VmHWM")
    _forget_peak()
    for _ in range(request["rounds"]):
        session.run(None, feeds)
    memory["running"] = _kib("/proc/self/status", "VmHWM")
    sizes = {name: kib * 1024 for name, kib in memory.items()} if all(memory.values()) else None
    found = {"name": model["name"], "load_seconds": seconds, "memory": sizes}
    return {"stopped": "fixed", "models": [found]}


def outputs(request: Facts, scratch: str) -> Facts:
    """Run one model over the arrays in `inputs`: each run takes the rows that fit it."""
    model, parts = request["models"][0], []
    runs: list[float] = []
    session, seconds = open_session(model, request["session"])
    shapes = {value.name: value.shape for value in session.get_inputs()}
    for name, shape in shapes.items():
        if shape and not isinstance(shape[0], int):
            raise ValueError("input %r has no fixed shape" % name)
    with np.load(request["inputs"], allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in shapes}
    name, shape = next(iter(shapes.items()))
    size, count = max([1, *shape[:1]]), len(columns[name])
    until = time.perf_counter() + request["deadline_seconds"]
    for start in range(0, count, size):
        began, turn = time.perf_counter(), start // size
        if runs and began + max(runs) / 1e6 > until:
            break  # the next run would end too late; `made` tells how many there are
        rows = {n: np.arange(s[0]) + turn * s[0] if s else turn for n, s in shapes.items()}
        # Clipped: the last row fills up the last batch.
        feeds = {n: np.asarray(x.take(rows[n], 0, mode="clip")) for n, x in columns.items()}
        answer = np.atleast_1d(session.run(None, feeds)[0])
        parts.append(answer[: -(-len(answer) * min(size, count - start) // size)])
        runs.append((time.perf_counter() - began) * 1e6)
    unfinished = request["outputs"] + ".partial.npy"
    np.save(unfinished, np.concatenate(parts))
    os.replace(unfinished, request["outputs"])
    found = {"name": model["name"], "load_seconds": seconds, "made": len(runs)}
    return {"stopped": "time" if len(runs) * size < count else "fixed", "models": [found]}


def environment(request: Facts, load_before: str) -> Facts:
    """Return what this device is, as text facts, and which of them decide comparability."""
    options = request["session"]
    facts = {
        "architecture": platform.machine(), "system": platform.platform(),
        "processor": _cpuinfo("model name", "Model") or platform.processor() or "unknown",
        "processors": str(os.cpu_count()), "instruction_set": _instruction_set(),
        "python": platform.python_version(), "numpy": np.__version__,
        "onnxruntime": ort.__version__, "providers": ",".join(options["providers"]),
        "threads": str(options["threads"]), "affinity": _affinity(),
        "graph_optimization": options["graph_optimization"]
        + "".join(" %s=%s" % entry for entry in sorted(options.get("config", {}).items())),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "load_before": load_before, "load_after": _load(),
    }  # fmt: skip
    return {"facts": facts, "comparable": [name for name in COMPARABLE if name in facts]}


def _affinity() -> str:
    found = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()  # not on macOS
    return ",".join(str(cpu) for cpu in sorted(found)) or "unknown"


def _instruction_set() -> str:
    flags = set((_cpuinfo("flags", "Features") or "").split())
    return " ".join(name for name in INSTRUCTIONS if name in flags) or "baseline"


def _cpuinfo(*keys: str) -> str | None:
    lines = [line.partition(":") for line in (_read("/proc/cpuinfo") or "").splitlines()]
    return next((value.strip() for name, _, value in lines if name.strip() in keys), None)


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it ends, however that happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL


def _usage() -> list[float]:
    """Return seconds of the clock, of all processors' work, taken by the host, and of our own."""
    fields = (_read("/proc/stat") or "cpu").splitlines()[0].split()[1:] + ["0"] * 8
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    own = os.times()
    busy = sum(ticks[:3]) + sum(ticks[5:7])  # not idle, not waiting for a disk
    return [time.perf_counter(), busy, ticks[7], own.user + own.system]


def _disturbance(before: list[float], after: list[float]) -> dict[str, str]:
    """Return how many processors others kept busy meanwhile, and how many the host took away."""
    clock, busy, stolen, own = (b - a for a, b in zip(before, after))
    if not after[1]:
        return {"others_busy": "unknown", "stolen": "unknown"}
    shares = {"others_busy": max(0.0, busy - own), "stolen": stolen}
    return {name: "%.2f" % (seconds / max(clock, 1e-9)) for name, seconds in shares.items()}


def _kib(path: str, key: str) -> int:
    """Return a figure of a file such as /proc/meminfo in KiB; 0 where there is none."""
    lines = (_read(path) or "").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)


def _forget_peak() -> None:
    """Let the largest resident memory be counted anew."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def _load() -> str:
    with contextlib.suppress(OSError):
        return "%.2f" % os.getloadavg()[0]
    return "unknown"


def _read(path: str) -> str | None:
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
        return stream.read().strip()
    return None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
