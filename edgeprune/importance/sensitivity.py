"""How much the loss rises when a single group is cut to each of its offered widths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches
from edgeprune.importance.scores import keep_best
from edgeprune.pruning.groups import cut, narrowing
from edgeprune.records import BlockLoss, ResidualBlock, SensitivityCurve
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout

Widths = Mapping[str, tuple[int, ...]]
RECALIBRATION_SAMPLES = 200
TRIALS = 3  # widths of a group at which criteria are compared


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
    Of several criteria each is tried at a few widths of a group; only the best is then measured at
    all of them, so the other curves hold those few widths alone.

    Args:
        model: the dense model.
        data: gives calibration batches and the loss.
        widths: group -> offered widths, the last dense.
        scores: criterion -> group -> scores [width].
        samples: calibration samples the loss is measured on.
        progress: receives (done, total, group).
    """
    meter = LossMeter(model, data, samples)
    model, loss_of, dense = meter.model, meter.loss_of, meter.dense
    trials = {group: trial_widths(options, len(scores)) for group, options in widths.items()}
    total = sum(
        len(options) - 1 + (len(scores) - 1) * len(trials[group])
        for group, options in widths.items()
    )
    done, curves = 0, []

    def increases(group: str, criterion: str, at: Sequence[int]) -> dict[int, float]:
        nonlocal done
        kept = [keep_best(scores[criterion][group], width) for width in at]
        found = {}
        progress(done, total, f"{group} by {criterion}")
        for width, candidate in zip(at, narrowing(model, data.example, group, kept), strict=True):
            found[width] = loss_of(candidate) - dense
            done += 1
            progress(done, total, f"{group} by {criterion}")
        return found

    for group, options in widths.items():
        tried = {c: increases(group, c, trials[group]) for c in scores}
        best = min(tried, key=lambda c: sum(tried[c].values()))
        rest = [width for width in options[-2::-1] if width not in tried[best]]
        tried[best] |= increases(group, best, rest)
        curves += [_curve(group, criterion, options[-1], tried[criterion]) for criterion in scores]
    progress(total, total, "")
    return tuple(curves)


class LossMeter:
    """Losses of cut models on the same calibration samples, after BatchNorm recalibration.

    Args:
        model: the dense model.
        data: gives calibration batches and the loss.
        samples: calibration samples the loss is measured on.
    """

    def __init__(self, model: nn.Module, data: Data, samples: int) -> None:
        self.data, self.model = data, fast_layout(copy.deepcopy(model))
        self._measured = [
            (tuple(map(channels_last, x)), y)
            for x, y in first_batches(data.calibration, samples, "calibration")
        ]
        self._statistics = [
            tuple(map(channels_last, x))
            for x, _ in first_batches(data.calibration, RECALIBRATION_SAMPLES, "calibration")
        ]
        self._normalised = has_batchnorm(model)
        self.dense = self.loss_of(cut(self.model, data.example, {}))

    def loss_of(self, candidate: nn.Module) -> float:
        """Return the mean loss of `candidate`, whose BatchNorm statistics are taken anew."""
        if self._normalised and has_batchnorm(candidate):
            recalibrate(candidate, self._statistics)
        return mean_loss(candidate, self.data, self._measured)

    def increase(
        self, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
    ) -> float:
        """Return by how much the loss rises over the dense model's when all of this is cut."""
        return self.loss_of(cut(self.model, self.data.example, kept, removed)) - self.dense


def block_losses(
    model: nn.Module, data: Data, blocks: Sequence[ResidualBlock], *, samples: int
) -> tuple[BlockLoss, ...]:
    """Return the loss increase when each branch alone is removed, measured as the curves are."""
    if not blocks:
        return ()
    meter = LossMeter(model, data, samples)
    return tuple(BlockLoss(last=b.last, increase=meter.increase({}, [b])) for b in blocks)


def trial_widths(options: Sequence[int], criteria: int) -> tuple[int, ...]:
    """Return the widths at which criteria are compared, from wide to narrow: TRIALS at most.

    With a single criterion there is nothing to compare and none is returned.
    """
    narrower = options[-2::-1]
    if criteria < 2:
        return ()
    if len(narrower) <= TRIALS:
        return tuple(narrower)
    places = {round((k + 1) * len(narrower) / (TRIALS + 1)) for k in range(TRIALS)}
    return tuple(narrower[place] for place in sorted(places))


def _curve(group: str, criterion: str, dense: int, found: dict[int, float]) -> SensitivityCurve:
    widths = sorted(found)
    return SensitivityCurve(
        group=group,
        criterion=criterion,
        widths=(*widths, dense),
        increases=(*(found[width] for width in widths), 0.0),
    )


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
    """Return the curve of each group that was measured in full; of several the least summed one."""
    best: dict[str, SensitivityCurve] = {}
    for curve in curves:
        known = best.get(curve.group)
        if known is None or _rank(curve) < _rank(known):
            best[curve.group] = curve
    return best


def _rank(curve: SensitivityCurve) -> tuple[int, float]:
    return -len(curve.widths), sum(curve.increases)


def mean_loss(
    model: nn.Module, data: Data, batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]
) -> float:
    """Return the mean loss over all samples of `batches`."""
    model.eval()
    with torch.inference_mode():
        total = sum(float(data.loss(call(model, x), y)) * len(y) for x, y in batches)
    return total / sum(len(y) for _, y in batches)
