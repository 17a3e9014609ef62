"""The part that runs on the device: `python3 worker.py REQUEST.json RESULT.json`.

It imports the standard library, numpy and onnxruntime only, so that the same file runs on this
machine, over ssh, and inside an emulator. The request names models and says what to do with them;
raw samples go into the result file, written whole or not at all. Nothing is summarised here.

Tasks:
    time    run the models in turn, in random order (or alternating, for two), and time every run
    layers  the same with onnxruntime's profiler on: the time of every node of every run
    run     run one model over the inputs in an .npz file and write its outputs to another
"""

from __future__ import annotations

import glob
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

Facts = dict[str, Any]
LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
COMPARABLE = [
    "architecture", "processor", "instruction_set", "onnxruntime", "providers", "threads",
    "graph_optimization", "accelerator",
]  # fmt: skip
CPU, WEBGPU = "CPUExecutionProvider", "WebGpuExecutionProvider"
NVIDIA = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}
HEAVY = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def main(request_path: str, result_path: str) -> None:
    """Carry out the request in one file and leave the result in the other."""
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    affinity = request["session"].get("affinity")
    if affinity:
        os.sched_setaffinity(0, set(affinity) & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    if request["session"]["providers"][0] in NVIDIA:
        # Float32 as elsewhere, so that parity can be a gate; Ampere rounds products to TF32.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        if request["task"] == "layers":  # each kernel ends before its node does
            os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    load_before = _load()
    with tempfile.TemporaryDirectory() as scratch:
        work = {"time": timed, "layers": profiled, "run": outputs}[request["task"]]
        result = work(request, scratch)
    result["environment"] = environment(request, load_before)
    unfinished = result_path + ".partial"
    with open(unfinished, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
    os.replace(unfinished, result_path)


def open_session(model: Facts, options: Facts, trace: str | None = None) -> tuple[Any, float]:
    """Return a session and the seconds it took to open; a provider that is missing is an error."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = LEVELS[options["graph_optimization"]]
    if trace is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = trace  # one of its own: names hold only whole seconds
    started = time.perf_counter()
    chosen = options.get("provider_options") or {}
    providers = [(name, chosen.get(name, {})) for name in options["providers"]]
    session = ort.InferenceSession(model["file"], settings, providers=providers)
    seconds = time.perf_counter() - started
    if session.get_providers()[0] != options["providers"][0]:
        raise RuntimeError(
            "the session runs on %s, not on %s"
            % (session.get_providers()[0], options["providers"][0])
        )
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
        feeds[value.name] = (
            sample.astype(kind) if np.issubdtype(kind, np.floating) else np.zeros(value.shape, kind)
        )
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


def timed(request: Facts, scratch: str) -> Facts:
    """Time whole runs; values are microseconds in the order in which they were taken.

    The sessions are opened `openings` times: where their memory lies differs each time, and that
    alone moves a model by some per cent.
    """
    count = len(request["models"])
    values: list[list[float]] = [[] for _ in range(count)]
    warmups, loads = [0] * count, [0.0] * count
    stopped, until = "fixed", time.perf_counter() + request["deadline_seconds"]
    clock = time.perf_counter_ns
    for opening in range(request["openings"]):
        if opening == 0 and request["session"]["providers"][0] != CPU:
            for model in request["models"]:
                check_placement(model, request["session"], scratch)
        opened = [open_session(model, request["session"]) for model in request["models"]]
        loads = [max(before, now) for before, (_, now) in zip(loads, opened)]
        runners = [partial(s.run, None, feeds_for(s, request["seed"])) for s, _ in opened]
        made = warm_up(runners, request["warmup_seconds"], request["warmup_runs"])
        warmups = [max(pair) for pair in zip(warmups, made)]
        seed = request["seed"] * 1000 + opening
        for order in schedule(count, request["rounds"], request["paired"], seed):
            for index in order:
                run = runners[index]
                for _ in range(request["inner"]):
                    started = clock()
                    run()
                    values[index].append((clock() - started) / 1000.0)
            if time.perf_counter() > until:
                stopped = "time"
                break
        if stopped == "time":
            break
    models = [
        {"name": m["name"], "warmup": w, "load_seconds": s, "values": v}
        for m, w, s, v in zip(request["models"], warmups, loads, values)
    ]
    return {"stopped": stopped, "models": models}


def check_placement(model: Facts, options: Facts, scratch: str) -> None:
    """Raise a RuntimeError if a heavy node of the model runs on the CPU."""
    session, _ = open_session(model, options, os.path.join(scratch, "placement"))
    session.run(None, feeds_for(session, 0))
    _placed(_nodes(_trace(session), 0)["nodes"])


def _placed(nodes: list[Facts]) -> None:
    for node in nodes:
        if node["operator"] in HEAVY and node["provider"] == CPU:
            raise RuntimeError("node %s (%s) runs on the CPU" % (node["name"], node["operator"]))


def _trace(session: Any) -> list[Facts]:
    """End the session's profile and return its events."""
    path = session.end_profiling()
    with open(path, encoding="utf-8") as stream:
        events: list[Facts] = json.load(stream)
    os.remove(path)
    return events


def profiled(request: Facts, scratch: str) -> Facts:
    """Profile runs; for every node its time in microseconds in every run after the warm-up.

    What the time of a node is depends on the provider: on the CPU, and where a provider waits for
    its sub-graph, that of the node; on CUDA too, since kernels are made to block; on WebGPU that of
    the node's GPU programs, and at least two runs are dropped, in which shaders are compiled.
    """
    provider = request["session"]["providers"][0]
    warmup = max(2, request["warmup_runs"]) if provider == WEBGPU else request["warmup_runs"]
    sessions = []
    for index, model in enumerate(request["models"]):
        trace = os.path.join(scratch, "trace%d" % index)
        session, seconds = open_session(model, request["session"], trace)
        sessions.append((session, feeds_for(session, request["seed"]), seconds))
    runners = [partial(session.run, None, feeds) for session, feeds, _ in sessions]
    for run in runners:
        for _ in range(warmup):
            run()
    stopped, until = "fixed", time.perf_counter() + request["deadline_seconds"]
    for order in schedule(len(runners), request["rounds"], request["paired"], request["seed"]):
        for index in order:
            for _ in range(request["inner"]):
                runners[index]()
        if time.perf_counter() > until:
            stopped = "time"
            break
    models = []
    for model, (session, _, seconds) in zip(request["models"], sessions):
        found = _nodes(_trace(session), warmup)
        if provider != CPU:
            _placed(found["nodes"])
        models.append(dict(found, name=model["name"], load_seconds=seconds))
    return {"stopped": stopped, "models": models}


def _nodes(events: list[Facts], warmup: int) -> Facts:
    """Sort a trace into nodes, and read the largest activation memory of the first run."""
    nodes: dict[tuple[str, Any], Facts] = {}
    runs: list[int] = []
    peak: int | None = None
    for event in events:
        if event.get("cat") == "Session" and event["name"] == "model_run":
            runs.append(event["dur"])
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        args = event["args"]
        name = event["name"][: -len("_kernel_time")]
        kind, provider = args.get("op_name"), args.get("provider")
        fresh = {"name": name, "operator": kind, "provider": provider, "values": []}
        node = nodes.setdefault((name, args.get("node_index")), fresh)
        if not node["values"] and "mem_bytes_requested_in_use" in args:
            peak = max(peak or 0, int(args["mem_bytes_requested_in_use"]))
        node["values"].append(event["dur"])
    found = list(nodes.values())
    if any(node["provider"] == WEBGPU for node in found):
        found = _gpu_times(events, found, len(runs))
    for node in found:
        node["values"] = node["values"][warmup:]
    return {"nodes": found, "runs": runs[warmup:], "peak_bytes": peak}


def _gpu_times(events: list[Facts], nodes: list[Facts], runs: int) -> list[Facts]:
    """Give WebGPU's nodes the times of their programs; their own are those of the dispatch.

    Programs are `Api` events called `<node>&<operator>&<program>`, in the order they ran in. A node
    without any is a change of view. What a node runs only once, in its first run, is left out.
    """
    programs: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Api":
            programs.setdefault(event["name"].rsplit("&", 2)[0], []).append(event["dur"])
    if not programs and any(node["operator"] in HEAVY for node in nodes):
        raise RuntimeError("the GPU reports no times of its own (no time-stamp queries)")
    found, seen = [], set()
    for node in nodes:
        if node["provider"] == WEBGPU:
            if node["name"] in seen:
                continue  # its programs are counted under its namesake
            seen.add(node["name"])
            spent = programs.get(node["name"], [])
            each = len(spent) // runs
            first = len(spent) - each * runs
            starts = range(first, len(spent), each) if each else [0] * runs
            node["values"] = [sum(spent[start : start + each]) for start in starts]
        found.append(node)
    if set(programs) - seen:
        raise RuntimeError("programs of no node: %s" % ", ".join(sorted(set(programs) - seen)))
    return found


def outputs(request: Facts, scratch: str) -> Facts:
    """Run one model over the first axis of the arrays in `inputs`, its own batch size at a time."""
    model = request["models"][0]
    session, seconds = open_session(model, request["session"])
    names = [value.name for value in session.get_inputs()]
    size = session.get_inputs()[0].shape[0]
    if not isinstance(size, int):
        raise ValueError("input %r has no fixed shape" % names[0])
    with np.load(request["inputs"], allow_pickle=False) as arrays:
        columns = [arrays[name] for name in names]
    count, parts = len(columns[0]), []
    for start in range(0, count, size):
        chunk = [column[start : start + size] for column in columns]
        missing = size - len(chunk[0])
        if missing:
            chunk = [np.concatenate([c, np.repeat(c[-1:], missing, axis=0)]) for c in chunk]
        answer = session.run(None, dict(zip(names, chunk)))[0]
        parts.append(answer[: size - missing] if missing else answer)
    unfinished = request["outputs"] + ".partial.npy"
    np.save(unfinished, np.concatenate(parts))
    os.replace(unfinished, request["outputs"])
    return {"stopped": "fixed", "models": [{"name": model["name"], "load_seconds": seconds}]}


def environment(request: Facts, load_before: str) -> Facts:
    """Return what this device is, as text facts, and which of them decide comparability."""
    options = request["session"]
    facts = {
        "architecture": platform.machine(),
        "system": platform.platform(),
        "processor": _cpuinfo("model name")
        or _cpuinfo("Model")
        or platform.processor()
        or "unknown",
        "processors": str(os.cpu_count()),
        "instruction_set": _instruction_set(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "providers": ",".join(options["providers"]),
        "threads": str(options["threads"]),
        "graph_optimization": options["graph_optimization"],
        "affinity": ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "load_before": load_before,
        "load_after": _load(),
    }
    if options["providers"][0] != CPU:
        facts["accelerator"] = _accelerator()
        facts["io_binding"] = "no: whole runs copy inputs to the device and outputs back"
    return {"facts": facts, "comparable": [name for name in COMPARABLE if name in facts]}


def _accelerator() -> str:
    """Return the name of an NVIDIA GPU or of the board, as far as the system tells."""
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        for line in (_read(path) or "").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return (_read("/proc/device-tree/model") or "unknown").rstrip("\0")


def _instruction_set() -> str:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    known = [
        "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm",
        "sve", "sme",
    ]  # fmt: skip
    return " ".join(name for name in known if name in flags) or "baseline"


def _cpuinfo(key: str) -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _load() -> str:
    try:
        return "%.2f" % os.getloadavg()[0]
    except OSError:
        return "unknown"


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
