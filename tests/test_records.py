from __future__ import annotations

import inspect
import random
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from edgeprune import records
from edgeprune.records import (
    BenchRow,
    ChannelGroup,
    DeviceSpec,
    Environment,
    Figures,
    Kernels,
    ModelProfile,
    Narrow,
    PlannedGroup,
    Price,
    Record,
    Samples,
    SensitivityCurve,
    Simulation,
    Stair,
    Verdict,
    WidthPlan,
)
from edgeprune.records.spec import NEEDS, YIELDS
from tests.factories import a_profile, a_table

RECORDS = [
    value
    for value in vars(records).values()
    if inspect.isclass(value) and issubclass(value, Record)
]
FIGURES = Figures(
    cost=1.5, parameters=2, macs=3, accuracy=0.5, file_bytes=4, peak_activation_bytes=5
)


def environment(**facts: str) -> Environment:
    return Environment(facts=facts, comparable=("processor", "threads"))


def plan(groups: dict[str, PlannedGroup], **changed: float) -> WidthPlan:
    figures = {
        "predicted": 1.0,
        "predicted_error": 0.0,
        "corrected": 1.0,
        "gap": 0.0,
        "loss": 0.0,
        "budget": 1.0,
    }
    return WidthPlan.model_validate({"groups": groups, "unit": "us", **figures, **changed})


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_every_record_is_frozen_strict_about_fields_and_refuses_nan(record: type[Record]) -> None:
    assert record.model_config["frozen"] is True
    assert record.model_config["extra"] == "forbid"
    assert record.model_config["allow_inf_nan"] is False


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_every_record_has_a_docstring(record: type[Record]) -> None:
    assert record.__doc__


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FIGURES.cost = 3.0  # type: ignore[misc]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Price(layer="a", width_in=1, width_out=1, cost=1, origin="measured", hurry=1)  # type: ignore[call-arg]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
st.register_type_strategy(float, FINITE)


def _constrained(field: FieldInfo) -> Any:
    """Return the type of a field with its limits, which pydantic keeps apart."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def anything(record: type[Record]) -> st.SearchStrategy[Record]:
    """Return records whose required fields hold anything; the others keep their defaults."""
    required = {
        field.alias or name: st.from_type(_constrained(field))
        for name, field in record.model_fields.items()
        if field.is_required()
    }
    found = st.fixed_dictionaries(required)
    if record is SensitivityCurve:
        found = found.map(_of_one_length)
    if record is DeviceSpec:
        found = st.builds(_without_contradiction, found, st.sampled_from(sorted(YIELDS)))
    return found.map(record.model_validate)


def _of_one_length(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a curve's fields with one increase a width."""
    pairs = list(zip(fields["widths"], fields["increases"], strict=False)) or [(1, 0.0)]
    widths, increases = zip(*pairs, strict=True)
    return {**fields, "widths": widths, "increases": increases}


def _without_contradiction(fields: dict[str, Any], transport: str) -> dict[str, Any]:
    """Return a device's fields with what its transport yields and the section it needs."""
    yields = dict(zip(("runtime", "figure", "unit"), YIELDS[transport], strict=True))
    sections = {
        "arm64": {"cpu": "cortex-a72"},
        "microcontroller": {"cpu": "cortex-m4", "machine": "mps2-an386"},
        "roofline": {
            "of": "board",
            "peak_gflops": 1.0,
            "bandwidth_gbs": 1.0,
            "tile": 1,
            "compute_efficiency": 0.5,
            "bandwidth_efficiency": 0.5,
            "overhead_us": 0.0,
        },
    }
    section = NEEDS.get(transport)
    needed = {section: sections[section]} if section else {}
    return {**fields, **yields, **needed, "transport": transport}


for _record in RECORDS:
    st.register_type_strategy(_record, anything)


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
@given(data=st.data())
def test_every_record_round_trips_through_json(record: type[Record], data: st.DataObject) -> None:
    value = data.draw(anything(record))
    document = value.model_dump_json(by_alias=True)
    assert "schema_" not in document
    assert record.model_validate_json(document) == value
    with pytest.raises(ValidationError):
        record.model_validate({**value.model_dump(by_alias=True), "hurry": 1})


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("record", [Verdict, ModelProfile], ids=lambda r: r.__name__)
@given(data=st.data())
def test_documents_of_another_schema_are_refused(record: type[Record], data: st.DataObject) -> None:
    document = data.draw(anything(record)).model_dump(by_alias=True)
    assert document["schema"] == 1
    with pytest.raises(ValidationError):
        record.model_validate({**document, "schema": 2})


@pytest.mark.parametrize("transport", sorted(YIELDS))
@pytest.mark.parametrize("key", ["runtime", "figure", "unit", "section"])
def test_a_device_that_contradicts_itself_is_refused(transport: str, key: str) -> None:
    base = {"name": "d", "title": "t", "kind": "cpu"}
    good = _without_contradiction(base, transport)
    assert DeviceSpec.model_validate(good).transport == transport
    wrong = {"runtime": ("onnxruntime", "simulated"), "figure": ("measured", "estimated"),
             "unit": ("us", "instructions")}  # fmt: skip
    if key == "section":
        if transport not in NEEDS:
            return
        bad = {name: value for name, value in good.items() if name != NEEDS[transport]}
    else:
        bad = {**good, key: next(value for value in wrong[key] if value != good[key])}
    with pytest.raises(ValidationError, match=f'transport = "{transport}" needs'):
        DeviceSpec.model_validate(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(ValidationError):
        plan({}, predicted=bad)


def test_differences_names_only_comparable_facts() -> None:
    here = environment(processor="A", threads="1", load="0.1")
    there = environment(processor="B", threads="1", load="9.9")
    assert here.differences(there) == ["processor: A against B"]
    assert here.differences(here) == []


def test_a_fact_missing_on_one_side_is_a_difference() -> None:
    lines = environment(processor="A", threads="1").differences(environment(processor="A"))
    assert lines == ["threads: 1 against unknown"]


def test_facts_comparable_on_either_side_count() -> None:
    loose = Environment(facts={"processor": "A"}, comparable=())
    strict = Environment(facts={"processor": "B"}, comparable=("processor",))
    assert loose.differences(strict) == ["processor: A against B"]
    assert strict.differences(loose) == ["processor: B against A"]


def test_samples_flatten_in_order() -> None:
    samples = Samples(
        name="m", unit="us", processes=((3.0, 1.0), (2.0,)), warmup=1, stopped="enough"
    )
    assert samples.values == (3.0, 1.0, 2.0)


@pytest.mark.parametrize(
    "field", [{"step": 0}, {"macs_per_us": 0}, {"cliff": 0.9}, {"noise": 0.5}, {"noise": -0.1}]
)
def test_impossible_simulations_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Simulation.model_validate(field)


@st.composite
def planned(draw: st.DrawFn) -> PlannedGroup:
    before = draw(st.integers(1, 20))
    kept = draw(st.sets(st.integers(0, before - 1), min_size=1))
    return PlannedGroup(before=before, after=len(kept), kept=tuple(sorted(kept)), criterion="l2")


plans = st.dictionaries(st.text(min_size=1, max_size=5), planned(), min_size=1, max_size=5)


@given(plans, st.randoms(use_true_random=False), st.floats(0, 1e9))
def test_digest_depends_on_groups_and_kept_channels_alone(
    groups: dict[str, PlannedGroup], order: random.Random, figure: float
) -> None:
    shuffled = list(groups.items())
    order.shuffle(shuffled)
    other = {name: group.model_copy(update={"criterion": "taylor"}) for name, group in shuffled}
    assert plan(groups).digest == plan(other, predicted=figure, budget=figure, loss=figure).digest
    restored = WidthPlan.model_validate_json(plan(groups).model_dump_json())
    assert restored.digest == plan(groups).digest


@given(plans)
def test_digest_does_not_depend_on_the_order_in_which_channels_are_listed(
    groups: dict[str, PlannedGroup],
) -> None:
    turned = {n: g.model_copy(update={"kept": g.kept[::-1]}) for n, g in groups.items()}
    assert plan(groups).digest == plan(turned).digest


@given(plans, st.data())
def test_digest_changes_with_any_channel_or_width(
    groups: dict[str, PlannedGroup], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(groups)))
    group = groups[name]
    changes = [group.model_copy(update={"before": group.before + 1})]
    if group.after > 1:
        changes.append(group.model_copy(update={"kept": group.kept[1:], "after": group.after - 1}))
    for changed in changes:
        assert plan({**groups, name: changed}).digest != plan(groups).digest
    assert plan({**groups, f"{name}!": group}).digest != plan(groups).digest


LAYER = {"layer": "a", "width_in": 1, "width_out": 1, "origin": "measured"}
ROW = {
    "method": "exact", "target": 0.5, "seed": 0, "steps": 0, "cost_ratio": 0.5, "macs_ratio": 0.5,
    "accuracy_before_recovery": None, "accuracy": 0.5, "seconds": 0.0,
}  # fmt: skip
CURVE = {"group": "a", "criterion": "l2", "widths": (1, 2), "increases": (0.5, 0.0)}
GROUP = {"name": "a", "width": 4, "outputs": ("a",), "inputs": ("b",)}


@pytest.mark.parametrize(
    ("record", "good", "bad"),
    [
        (Price, LAYER | {"cost": 0.0}, [{"cost": -1.0}, {"cost": 1e308}]),
        (
            BenchRow,
            ROW | {"cost_ratio": 1.2, "macs_ratio": 0.0, "accuracy": -7.5},  # any metric counts
            [{"cost_ratio": -3.0}, {"cost_ratio": 0.0}, {"macs_ratio": -0.1}, {"seconds": -1.0}],
        ),
        (Narrow, {"factor": 1.5, "cost_ratio": 1.2, "macs_ratio": 0.0}, [{"cost_ratio": 0.0}]),
        (ChannelGroup, GROUP, [{"divisor": 0}, {"width": 0}]),
        (
            SensitivityCurve,
            CURVE | {"drops": (0.1, 0.0)},
            [{"increases": (0.5,)}, {"drops": (0.1,)}, {"widths": (), "increases": ()}],
        ),
        (Stair, {"period": 1}, [{"period": 0}]),
        (Kernels, {}, [{"multiple": 0}]),
    ],
)
def test_what_only_an_edited_file_holds_is_refused(
    record: type[Record], good: dict[str, Any], bad: list[dict[str, Any]]
) -> None:
    assert record.model_validate(good)
    for change in bad:
        with pytest.raises(ValidationError):
            record.model_validate(good | change)


@pytest.mark.parametrize("total", [0.0, -1.0])
def test_no_whole_model_is_free(total: float) -> None:
    for record, field in ((a_profile(), "total"), (a_table(), "dense_cost")):
        with pytest.raises(ValidationError, match=field):
            type(record).model_validate({**record.model_dump(by_alias=True), field: total})
