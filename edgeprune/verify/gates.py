"""The conditions of success, and the verdict over them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.budget import keeps_to
from edgeprune.job import Job
from edgeprune.records import (
    Budget,
    Comparison,
    Environment,
    Figures,
    FirmwareParity,
    Gate,
    Kind,
    Microcontroller,
    Parity,
    PlanSummary,
    Prediction,
    ScheduleHistory,
    Speedup,
    Unit,
    Verdict,
    WidthPlan,
)
from edgeprune.verify.accuracy import Accuracy, drop_interval

DENSE = ".run/dense.onnx"  # in the shipped folder
NESTED_DENSE = f"../{DENSE}"  # where the shipped folder is a member of a family


@dataclass(frozen=True)
class Evidence:
    """Everything that was found out about the two models."""

    dense: Figures
    slim: Figures
    comparison: Comparison
    parity: Parity
    dense_accuracy: Accuracy
    slim_accuracy: Accuracy
    recalibrated_accuracy: float
    environment: Environment
    firmware: FirmwareParity | None = None
    guards: tuple[Gate, ...] = ()


def judge(
    job: Job,
    plan: WidthPlan,
    evidence: Evidence,
    *,
    device: str,
    kind: Kind,
    unit: Unit,
    metric: str,
    on_test: bool,
    functional_only: bool = False,
    measured_by: str | None = None,
    dense: str = DENSE,
    note: str = "",
    chip: Microcontroller | None = None,
    schedule: ScheduleHistory | None = None,
) -> Verdict:
    """Return the verdict: every gate met, or not, or (met None) not measurable on this device.

    `functional_only`, `measured_by`, `note` and `chip` are those of the device's profile; the
    memory of a board is a limit like those of the job. `schedule` is the history of the steps,
    where there were several.
    """
    limit = job.request.limit(evidence.dense.cost, unit)
    budget = Budget(
        asked=job.budget.asked,
        limit=limit,
        reached=evidence.slim.cost,
        met=keeps_to(evidence.slim.cost, limit),
    )
    command = f"edgeprune verify {dense} model.onnx --device {measured_by}" if measured_by else ""
    speed = speed_gate(evidence.comparison, kind, functional_only=functional_only, command=command)
    gates = _gates(job, evidence, budget, speed, chip)
    if schedule is not None and schedule.planned > 1:
        gates = (*gates, _schedule(schedule))
    return Verdict(
        job=job.name,
        device=device,
        kind=kind,
        unit=unit,
        passed=all(gate.met is not False for gate in gates),
        dense=evidence.dense,
        slim=evidence.slim,
        speedup=Speedup(
            median=evidence.comparison.median,
            low=evidence.comparison.low,
            high=evidence.comparison.high,
            confidence=evidence.comparison.confidence,
            pairs=evidence.comparison.pairs,
            disturbed=evidence.comparison.disturbed,
        ),
        parity=evidence.parity,
        firmware=evidence.firmware,
        budget=budget,
        predicted=Prediction(cost=plan.predicted, error=plan.predicted_error),
        plan=PlanSummary(
            widths={name: (group.before, group.after) for name, group in plan.groups.items()},
            gap=plan.gap,
            digest=plan.digest,
            criteria={name: group.criterion for name, group in plan.groups.items()},
        ),
        gates=gates,
        metric=metric,
        accuracy_on="test" if on_test else "validation",
        accuracy_samples=evidence.slim_accuracy.samples,
        accuracy_drop_interval=drop_interval(
            evidence.dense_accuracy, evidence.slim_accuracy, seed=job.seed
        ),
        recalibrated_accuracy=evidence.recalibrated_accuracy,
        seed=job.seed,
        environment=evidence.environment,
        note=note,
        precision=job.export.precision,
        schedule=schedule,
    )


def speed_gate(
    comparison: Comparison, kind: Kind, *, functional_only: bool = False, command: str = ""
) -> Gate:
    """Return the gate of the speed-up: not measured where costs are estimates or mean nothing.

    Args:
        comparison: of the two models.
        kind: of its figures.
        functional_only: whether the times of the device mean nothing.
        command: what would prove it.
    """
    why = ""
    if functional_only:
        why = "not measured: times of this device mean nothing"
    elif kind == "estimated":
        why = "not measured: this device yields estimates only"
    return Gate(
        name="speedup",
        met=None if why else comparison.low > 1.0,
        limit=1.0,
        value=comparison.low,
        note=why,
        command=command if why else "",
    )


def _gates(
    job: Job, evidence: Evidence, budget: Budget, speed: Gate, chip: Microcontroller | None
) -> tuple[Gate, ...]:
    drop = evidence.dense.accuracy - evidence.slim.accuracy
    gates = [
        Gate(
            name="parity",
            met=evidence.parity.passed,
            limit=evidence.parity.limit,
            value=evidence.parity.max_abs,
        ),
        Gate(
            name="accuracy",
            met=drop <= job.budget.max_accuracy_drop + 1e-12,
            limit=job.budget.max_accuracy_drop,
            value=drop,
        ),
        Gate(name="budget", met=budget.met, limit=budget.limit, value=budget.reached),
        speed,
    ]
    if evidence.firmware is not None:
        gates.append(_firmware(evidence.firmware))
    gates += evidence.guards
    for name in ("macs", "parameters"):
        if getattr(job.budget, name) is not None:
            limit = job.budget.limit_of(name, getattr(evidence.dense, name))
            value = getattr(evidence.slim, name)
            gates.append(Gate(name=name, met=keeps_to(value, limit), limit=limit, value=value))
    footprint = evidence.slim.footprint
    taken = {
        "ram": footprint.ram_bytes if footprint else evidence.slim.peak_activation_bytes,
        "flash": footprint.flash_bytes if footprint else evidence.slim.file_bytes,
    }
    for part, kilobytes in job.budget.memory(chip).items():
        used = taken[part] / 1024
        met = keeps_to(used, kilobytes)
        gates.append(Gate(name=part, met=met, limit=kilobytes, value=used))
    return tuple(gates)


def _schedule(found: ScheduleHistory) -> Gate:
    good = len(found.steps) - bool(found.stopped)
    return Gate(
        name="schedule",
        met=not found.stopped,
        limit=found.planned,
        value=good,
        note=f"never reached the budget: {found.stopped}" if found.stopped else "",
    )


def _firmware(found: FirmwareParity) -> Gate:
    return Gate(
        name="firmware",
        met=found.passed,
        limit=found.limit,
        value=found.max_units,
        note=f"units of int8; the same top-1 in {100 * found.top1_agreement:.1f} % "
        f"of {found.samples} inputs; "
        f"{'run twice, the same bytes' if found.repeats else 'RUN TWICE, OTHER BYTES'}",
    )
