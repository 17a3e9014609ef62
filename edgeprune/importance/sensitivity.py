"""How much the loss rises when a single group is cut to each of its offered widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches
from edgeprune.importance.scores import keep_best
from edgeprune.pruning.groups import cut, narrowing
from edgeprune.records import SensitivityCurve
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate

Widths = Mapping[str, tuple[int, ...]]
RECALIBRATION_SAMPLES = 200


def sensitivity_curves(
    model: nn.Module,
    data: Data,
    widths: Widths,
    scores: Mapping[str, Mapping[str, Tensor]],
    *,
    samples: int,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[SensitivityCurve, ...]:
    """Return a curve for every group and criterion, measured on `samples` calibration samples.

    After each cut the BatchNorm statistics are recalibrated: without that their staleness drowns
    what the cut itself costs (docs/methods.md). The dense model's loss is taken the same way.

    Args:
        model: the dense model.
        data: gives calibration batches and the loss.
        widths: group -> offered widths, the last dense.
        scores: criterion -> group -> scores [width].
        samples: calibration samples the loss is measured on.
        progress: receives (done, total, group).
    """
    measured = first_batches(data.calibration, samples, "calibration")
    statistics = first_batches(data.calibration, RECALIBRATION_SAMPLES, "calibration")
    normalised = has_batchnorm(model)

    def loss_of(candidate: nn.Module) -> float:
        if normalised:
            recalibrate(candidate, [inputs for inputs, _ in statistics])
        return mean_loss(candidate, data, measured)

    dense = loss_of(cut(model, data.example, {}))
    total = sum(len(options) - 1 for options in widths.values()) * len(scores)
    done, curves = 0, []
    for criterion, by_group in scores.items():
        for group, options in widths.items():
            increases: list[float] = []
            narrower = options[-2::-1]
            kept = [keep_best(by_group[group], width) for width in narrower]
            progress(done, total, f"{group} by {criterion}")
            for candidate in narrowing(model, data.example, group, kept):
                increases.insert(0, loss_of(candidate) - dense)
                done += 1
                progress(done, total, f"{group} by {criterion}")
            curves.append(
                SensitivityCurve(
                    group=group,
                    criterion=criterion,
                    widths=options,
                    increases=(*increases, 0.0),
                )
            )
    progress(total, total, "")
    return tuple(curves)


def importance_curves(
    widths: Widths, scores: Mapping[str, Tensor], criterion: str
) -> tuple[SensitivityCurve, ...]:
    """Return curves whose increase is the summed score of the channels removed.

    Cheaper than measuring, but sums of different groups are hardly comparable (docs/methods.md).
    """
    return tuple(
        SensitivityCurve(
            group=group,
            criterion=criterion,
            widths=options,
            increases=tuple(
                float(scores[group].sort().values[: options[-1] - width].sum()) for width in options
            ),
        )
        for group, options in widths.items()
    )


def best_curves(curves: Sequence[SensitivityCurve]) -> dict[str, SensitivityCurve]:
    """Return the curve of least summed increase for each group; the first of equals."""
    best: dict[str, SensitivityCurve] = {}
    for curve in curves:
        known = best.get(curve.group)
        if known is None or sum(curve.increases) < sum(known.increases):
            best[curve.group] = curve
    return best


def mean_loss(
    model: nn.Module, data: Data, batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]
) -> float:
    """Return the mean loss over all samples of `batches`."""
    model.eval()
    with torch.inference_mode():
        total = sum(float(data.loss(call(model, x), y)) * len(y) for x, y in batches)
    return total / sum(len(y) for _, y in batches)
