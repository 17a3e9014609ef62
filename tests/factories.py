"""Records as a finished run leaves them, built by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.records import (
    Artifact,
    Budget,
    Comparison,
    CostTable,
    CSource,
    Environment,
    Figures,
    Footprint,
    Gate,
    LayerFunction,
    LayerProfile,
    Lifetime,
    ModelProfile,
    Parity,
    PlannedGroup,
    PlanSummary,
    Prediction,
    Price,
    PricedLayer,
    QuantizedTensor,
    Record,
    Round,
    SensitivityCurve,
    SkippedGroup,
    Speedup,
    TensorInfo,
    Verdict,
    WidthPlan,
)
from edgeprune.report.html import ReportData

R = TypeVar("R", bound=Record)

WIDTHS = {
    "stem": (32, 16),
    "stages.0.0.conv1": (32, 16),
    "stages.1.0.conv1": (64, 48),
    "stages.1.0.conv2": (64, 32),
    "stages.2.0.conv1": (128, 64),
    "stages.2.0.conv2": (128, 48),
}
COSTS = {
    "stem": (34.0, 21.0),
    "stages.0.0.conv1": (180.2, 61.0),
    "stages.1.0.conv1": (122.9, 68.4),
    "stages.1.0.conv2": (231.0, 90.1),
    "stages.2.0.conv1": (118.4, 61.7),
    "stages.2.0.conv2": (214.6, 61.9),
    "classifier": (2.1, 1.2),
}


def _with(record: R, overrides: dict[str, Any]) -> R:
    return type(record).model_validate({**dict(record), **overrides})


def an_environment(**overrides: Any) -> Environment:
    facts = {
        "architecture": "x86_64",
        "processor": "AMD EPYC 7B13",
        "onnxruntime": "1.31.1",
        "threads": "1",
        "load_before": "0.42",
    }
    record = Environment(
        facts=facts, comparable=("architecture", "processor", "onnxruntime", "threads")
    )
    return _with(record, overrides)


def a_profile(slim: bool = False, **overrides: Any) -> ModelProfile:
    layers = tuple(
        LayerProfile(
            name=name,
            operator="Gemm" if name == "classifier" else "Conv",
            cost=cost[slim],
            low=cost[slim] * 0.985,
            high=cost[slim] * 1.02,
            input_shape=(1, 1, 28, 28),
            output_shape=(1, WIDTHS.get(name, (10, 10))[slim], 28, 28),
            macs=1_806_336,
            parameter_bytes=36_864,
            activation_bytes=100_352,
        )
        for name, cost in COSTS.items()
    )
    record = ModelProfile(
        model="fashion_resnet",
        device="mobile_cpu",
        kind="measured",
        unit="us",
        total=401.2 if slim else 985.3,
        total_low=398.9 if slim else 979.0,
        total_high=404.4 if slim else 992.8,
        coverage=sum(layer.cost for layer in layers) / (401.2 if slim else 985.3),
        sum_of_layers=sum(layer.cost for layer in layers),
        layout=14.2,
        peak_activation_bytes=150_528 if slim else 301_056,
        runtime_peak_bytes=None if slim else 331_776,
        parameters=81_290 if slim else 308_394,
        macs=14_820_112 if slim else 39_100_416,
        file_bytes=331_204 if slim else 1_240_331,
        environment=an_environment(),
        layers=layers,
    )
    return _with(record, overrides)


def a_table(**overrides: Any) -> CostTable:
    record = CostTable(
        device="mobile_cpu",
        kind="measured",
        unit="us",
        dense_cost=985.3,
        scale=1.04,
        layers=(
            PricedLayer(
                name="stem",
                operator="Conv",
                group_in=None,
                group_out="stem",
                width_in=1,
                width_out=32,
            ),
        ),
        widths={name: tuple(range(16, before + 1, 16)) for name, (before, _) in WIDTHS.items()},
        prices=(
            Price(layer="stem", width_in=1, width_out=16, cost=21.0, origin="measured"),
            Price(layer="stem", width_in=1, width_out=32, cost=34.0, origin="measured"),
        ),
        probes=120,
        environment=an_environment(),
    )
    return _with(record, overrides)


def a_plan(**overrides: Any) -> WidthPlan:
    widths = {name: after for name, (_, after) in WIDTHS.items()}
    record = WidthPlan(
        groups={
            name: PlannedGroup(
                before=before, after=after, kept=tuple(range(after)), criterion="taylor"
            )
            for name, (before, after) in WIDTHS.items()
        },
        budget=492.7,
        unit="us",
        predicted=489.1,
        predicted_error=0.083,
        corrected=486.0,
        gap=0.0,
        loss=0.0213,
        rounds=(
            Round(widths=widths, predicted=489.1, measured=451.6, low=449.8, high=454.0),
            Round(widths=widths, predicted=491.2, measured=486.0, low=484.1, high=488.3),
        ),
    )
    return _with(record, overrides)


def curves() -> tuple[SensitivityCurve, ...]:
    return tuple(
        SensitivityCurve(
            group=name,
            criterion=criterion,
            widths=tuple(range(before // 8, before + 1, before // 8)),
            increases=tuple(scale * (1 - k / 8) ** 3 for k in range(1, 9)),
        )
        for rank, (name, (before, _)) in enumerate(WIDTHS.items())
        for criterion, scale in (("taylor", 0.2 + 0.3 * rank), ("l2", 0.3 + 0.35 * rank))
    )


def history() -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (step, 0.22 + 0.5 / (1 + step / 40), 0.921 - 0.1 / (1 + step / 30))
        for step in range(0, 401, 20)
    )


def a_verdict(**overrides: Any) -> Verdict:
    plan = a_plan()
    record = Verdict(
        job="fashion_resnet",
        device="mobile_cpu",
        kind="measured",
        unit="us",
        passed=True,
        dense=Figures(
            cost=985.3,
            parameters=308_394,
            macs=39_100_416,
            accuracy=0.9312,
            file_bytes=1_240_331,
            peak_activation_bytes=301_056,
        ),
        slim=Figures(
            cost=486.0,
            parameters=81_290,
            macs=14_820_112,
            accuracy=0.9281,
            file_bytes=331_204,
            peak_activation_bytes=150_528,
        ),
        speedup=Speedup(median=2.027, low=2.019, high=2.036, confidence=0.95, pairs=900),
        parity=Parity(max_abs=2.4e-6, max_rel=3.1e-5, samples=512, passed=True),
        budget=Budget(asked="50%", limit=492.7, reached=486.0, met=True),
        predicted=Prediction(cost=489.1, error=0.083),
        plan=PlanSummary(
            widths=WIDTHS, gap=0.0, digest=plan.digest, criteria=dict.fromkeys(WIDTHS, "taylor")
        ),
        gates=(
            Gate(name="parity", met=True, limit=1e-4, value=2.4e-6),
            Gate(name="accuracy", met=True, limit=0.01, value=0.0031),
            Gate(name="budget", met=True, limit=492.7, value=486.0),
            Gate(name="speedup", met=True, limit=1.0, value=2.019),
        ),
        metric="top-1 accuracy",
        accuracy_on="test",
        accuracy_samples=10_000,
        accuracy_drop_interval=(0.0004, 0.0058),
        recalibrated_accuracy=0.8127,
        seed=0,
        environment=an_environment(),
    )
    return _with(record, overrides)


def a_failure(**overrides: Any) -> Verdict:
    """A verdict with accuracy and budget gates not met, and ram not measured."""
    gates = (
        Gate(name="parity", met=True, limit=1e-4, value=2.4e-6),
        Gate(name="accuracy", met=False, limit=0.01, value=0.0431),
        Gate(name="budget", met=False, limit=300.0, value=486.0),
        Gate(name="ram", met=None, limit=256.0, value=0.0, note="the runtime does not say"),
    )
    return a_verdict(**{"passed": False, "gates": gates, **overrides})


def an_estimate(**overrides: Any) -> Verdict:
    """A verdict of a device that yields estimates only."""
    gates = (
        Gate(name="parity", met=True, limit=1e-4, value=2.4e-6),
        Gate(
            name="speedup",
            met=None,
            limit=1.0,
            value=2.019,
            note="this device yields estimates only",
        ),
    )
    return a_verdict(**{"device": "simulated", "kind": "estimated", "gates": gates, **overrides})


def a_comparison(**overrides: Any) -> Comparison:
    record = Comparison(
        median=2.027,
        low=2.019,
        high=2.036,
        confidence=0.95,
        pairs=900,
        processes=3,
        first_cost=985.3,
        second_cost=486.0,
        minimum_ratio=2.031,
        stopped="enough",
    )
    return _with(record, overrides)


def an_artifact(model: Path | None = None, **overrides: Any) -> Artifact:
    """The artifact of the file `model`, or of no file."""
    content = model.read_bytes() if model else b""
    record = Artifact(
        path=model.name if model else "slim.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        opset=20,
        inputs=(TensorInfo(name="input", dtype="float32", shape=(1, 1, 28, 28)),),
        outputs=(TensorInfo(name="output", dtype="float32", shape=(1, 10)),),
        metadata={"edgeprune.job": "fashion_resnet"},
    )
    return _with(record, overrides)


def a_code(**overrides: Any) -> CSource:
    """Two layers: 100 bytes of input and 60 of the first result, then 60 and 20."""
    border = {"permutation": (0, 1), "scale": 0.5, "zero_point": 0}
    common = {"operator": "Conv", "macs": 0, "weight_bytes": 8, "activation_bytes": 60}
    record = CSource(
        name="net",
        target="dsp",
        folder="c",
        sources=("net.c",),
        headers=("net.h",),
        include_dirs=(".",),
        defines=(),
        documents=("README.md",),
        functions=tuple(
            LayerFunction(
                symbol=f"net_layer_{index}",
                layer=layer,
                input_shape=(1, 100),
                output_shape=(1, 60),
                scratch_bytes=16 * index,
                **common,
            )
            for index, layer in enumerate(("stem", "head"))
        ),
        input=QuantizedTensor(name="x", shape=(1, 100), **border),
        output=QuantizedTensor(name="y", shape=(1, 20), **border),
        arena_bytes=160,
        liveness_bytes=160,
        scratch_bytes=16,
        state_bytes=32,
        weight_bytes=16,
        lifetimes=(
            Lifetime(tensor="x_QuantizeLinear_Output", bytes=100, offset=0, first=0, last=0),
            Lifetime(tensor="stem:0_QuantizeLinear_Output", bytes=60, offset=100, first=0, last=1),
            Lifetime(tensor="y_QuantizeLinear_Output", bytes=20, offset=0, first=1, last=1),
        ),
    )
    return _with(record, overrides)


def a_footprint(**overrides: Any) -> Footprint:
    """That of `a_code`, with 8 bytes of alignment and 40 of stack."""
    record = Footprint(
        flash_bytes=1000,
        ram_bytes=256,
        code_bytes=984,
        constant_bytes=16,
        variable_bytes=0,
        static_bytes=216,
        stack_bytes=40,
        arena_bytes=160,
        scratch_bytes=16,
        scratch_used_bytes=16,
        io_bytes=0,
    )
    return _with(record, overrides)


def a_document(**overrides: Any) -> ReportData:
    record = ReportData(
        title="fashion_resnet",
        verdict=a_verdict(),
        dense_profile=a_profile(),
        slim_profile=a_profile(slim=True),
        table=a_table(),
        plan=a_plan(),
        curves=curves(),
        history=history(),
        skipped=(
            SkippedGroup(
                name="classifier", width=10, reason="its channels are the outputs of the model"
            ),
        ),
        artifact=an_artifact(),
        files={"model.onnx": "0" * 64, "verdict.json": "1" * 64, "README.md": "2" * 64},
        versions={"edgeprune": "0.1.0", "torch": "2.13.0"},
        licence="Apache-2.0",
    )
    return _with(record, overrides)


def a_model(path: Path) -> Path:
    """Write a real ONNX file: [1, 1, 28, 28] -> flatten -> linear -> [1, 10]."""
    weight = numpy_helper.from_array(np.zeros((784, 10), dtype=np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["output"]),
        ],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path
