"""How much the loss rises when a single group is cut to each of its offered widths."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from edgeprune.data import Data, call, first_batches, has_labels, require_finite, unlabelled
from edgeprune.errors import DataError
from edgeprune.importance.kept import CurveStore
from edgeprune.importance.scale_free import Batches, is_scale_free, least_loss
from edgeprune.importance.scores import keep_best
from edgeprune.pruning.groups import cut, narrowing
from edgeprune.records import BlockLoss, ResidualBlock, SensitivityCurve
from edgeprune.recovery.batchnorm import has_batchnorm, recalibrate
from edgeprune.recovery.layout import channels_last, fast_layout

Widths = Mapping[str, tuple[int, ...]]
RECALIBRATION_SAMPLES = 200
TRIALS = 3  # widths of a group at which criteria are compared
TOLD = 4  # groups that a message names


def sensitivity_curves(
    model: nn.Module,
    data: Data,
    widths: Widths,
    scores: Mapping[str, Mapping[str, Tensor]],
    *,
    samples: int,
    store: CurveStore | None = None,
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
        store: keeps the curves of finished groups; those it holds are not measured again.
        progress: receives (done, total, group).

    Raises:
        DataError: there are no calibration batches, or no labels.
        UserFunctionError: a loss is not finite.
    """
    meter = LossMeter(model, data, samples)
    model = meter.model
    trials = {group: trial_widths(options, len(scores)) for group, options in widths.items()}
    counts = {
        group: len(options) - 1 + (len(scores) - 1) * len(trials[group])
        for group, options in widths.items()
    }
    total, done, curves = sum(counts.values()), 0, list[SensitivityCurve]()

    def cuts(group: str, criterion: str, at: Sequence[int]) -> dict[int, tuple[float, float]]:
        nonlocal done
        kept = [keep_best(scores[criterion][group], width) for width in at]
        found = {}
        progress(done, total, f"{group} by {criterion}")
        for width, candidate in zip(at, narrowing(model, data.example, group, kept), strict=True):
            loss, metric = meter.performance(candidate, f"group {group} at width {width}")
            found[width] = loss - meter.dense[0], meter.dense[1] - metric
            done += 1
            progress(done, total, f"{group} by {criterion}")
        return found

    for group, options in widths.items():
        of_group = {criterion: scores[criterion][group] for criterion in scores}
        known = store.load(group, options, of_group) if store else None
        if known is not None:
            done += counts[group]
            progress(done, total, f"{group}: kept from an earlier measurement")
            curves += known
            continue
        tried = {c: cuts(group, c, trials[group]) for c in scores}
        best = min(tried, key=lambda c: sum(loss for loss, _ in tried[c].values()))
        rest = [width for width in options[-2::-1] if width not in tried[best]]
        tried[best] |= cuts(group, best, rest)
        found = [_curve(group, criterion, options[-1], tried[criterion]) for criterion in scores]
        if store:
            store.save(group, options, of_group, found)
        curves += found
    progress(total, total, "")
    return tuple(curves)


class LossMeter:
    """Losses of cut models on the same calibration samples, after BatchNorm recalibration.

    Args:
        model: the dense model.
        data: gives calibration batches and the loss.
        samples: calibration samples the loss is measured on.

    Raises:
        DataError: there are no calibration batches, or no labels.
        UserFunctionError: the dense model's loss is not finite.
    """

    def __init__(self, model: nn.Module, data: Data, samples: int) -> None:
        self.data, self.model = data, fast_layout(copy.deepcopy(model))
        self._measured = [
            (tuple(map(channels_last, x)), y)
            for x, y in first_batches(data.calibration, samples, "calibration")
        ]
        require_labels(self._measured)
        self._statistics = [
            tuple(map(channels_last, x))
            for x, _ in first_batches(data.calibration, RECALIBRATION_SAMPLES, "calibration")
        ]

    @cached_property
    def dense(self) -> tuple[float, float]:
        """Loss and metric of the dense model, taken the same way."""
        return self.performance(cut(self.model, self.data.example, {}), "")

    def performance(self, candidate: nn.Module, what: str) -> tuple[float, float]:
        """Return loss and metric of `candidate`, whose BatchNorm statistics are taken anew.

        Raises:
            UserFunctionError: the loss is not finite; `what` was cut, "" of the dense model.
        """
        return loss_and_metric(self._recalibrated(candidate), self.data, self._measured, what)

    def increase(
        self, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
    ) -> float:
        """Return by how much the loss rises over the dense model's when all of this is cut."""
        slim = cut(self.model, self.data.example, kept, removed)
        return self.performance(slim, told(kept, removed))[0] - self.dense[0]

    @cached_property
    def scale_free(self) -> bool:
        """Whether the metric leaves the scale of the outputs out of account."""
        return is_scale_free(self._dense, self.data, self._measured)

    def least_increase(
        self, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
    ) -> float:
        """Return `increase`, at the best scale of the outputs where the metric leaves that out."""
        if not self.scale_free:
            return self.increase(kept, removed)
        slim = self._recalibrated(cut(self.model, self.data.example, kept, removed))
        found = least_loss(slim, self.data, self._measured, told(kept, removed))
        return found - self._least_dense

    @cached_property
    def _least_dense(self) -> float:
        return least_loss(self._dense, self.data, self._measured)

    @cached_property
    def _dense(self) -> nn.Module:
        return self._recalibrated(cut(self.model, self.data.example, {}))

    def _recalibrated(self, candidate: nn.Module) -> nn.Module:
        if has_batchnorm(candidate):
            recalibrate(candidate, self._statistics)
        return candidate


def block_losses(
    model: nn.Module, data: Data, blocks: Sequence[ResidualBlock], *, samples: int
) -> tuple[BlockLoss, ...]:
    """Return the loss increase when each branch alone is removed, measured as the curves are."""
    if not blocks:
        return ()
    meter = LossMeter(model, data, samples)
    return tuple(BlockLoss(last=b.last, increase=meter.increase({}, [b])) for b in blocks)


def told(kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()) -> str:
    """Return what a plan cuts, for messages: the first few groups and branches."""
    whats = [f"without the branch that ends in {block.last}" for block in removed]
    gone = {name for block in removed for name in block.groups}
    whats += [f"group {name} at width {len(k)}" for name, k in kept.items() if name not in gone]
    more = f" and {len(whats) - TOLD} more" if len(whats) > TOLD else ""
    return f"{', '.join(whats[:TOLD])}{more}"


def require_labels(batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]) -> None:
    """Make sure that losses can be measured.

    Raises:
        DataError: a batch has no labels.
    """
    for index, (inputs, target) in enumerate(batches):
        if not has_labels(inputs, target):
            raise DataError(
                f"sensitivity needs labels, and batch {index} of calibration has none (its target "
                f"has shape {tuple(target.shape)})",
                'give labels, or take [prune] loss = "importance" with a criterion that needs none',
            )


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


def _curve(
    group: str, criterion: str, dense: int, found: dict[int, tuple[float, float]]
) -> SensitivityCurve:
    widths = sorted(found)
    return SensitivityCurve(
        group=group,
        criterion=criterion,
        widths=(*widths, dense),
        increases=(*(found[width][0] for width in widths), 0.0),
        drops=(*(found[width][1] for width in widths), 0.0),
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
                float(scores[group].double().sort().values[: options[-1] - width].sum())
                for width in options
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


def loss_and_metric(
    model: nn.Module, data: Data, batches: Batches, cut: str = "", part: str = "calibration"
) -> tuple[float, float]:
    """Return the mean loss and the mean metric over all samples of `batches`.

    The loss leaves out batches that have none for want of labels.

    Args:
        model: set to evaluation.
        data: gives loss and metric.
        batches: what they are taken on.
        cut: what was cut, for the message; "" of the dense model.
        part: what the batches are of, likewise.

    Raises:
        UserFunctionError: the loss is not finite.
    """
    model.eval()
    loss = metric = 0.0
    count = labelled = 0
    with torch.inference_mode():
        for x, y in batches:
            output, samples = call(model, x), len(x[0])
            found = float(data.loss(output, y))
            metric += data.metric(output, y) * samples
            count += samples
            if not unlabelled(found, x, y):
                loss += found * samples
                labelled += samples
    mean = loss / labelled if labelled else math.nan
    require_finite(mean, count, part, cut)
    return mean, metric / count


def mean_loss(
    model: nn.Module, data: Data, batches: Batches, cut: str = "", part: str = "calibration"
) -> float:
    """Return the mean loss over all samples of `batches`; arguments as of `loss_and_metric`."""
    return loss_and_metric(model, data, batches, cut, part)[0]
