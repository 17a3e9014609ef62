"""How much the loss rises when a single group is cut to each of its offered widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.importance.kept import CurveStore
from edgeprune.importance.meter import LossMeter, Performance
from edgeprune.importance.scores import keep_best
from edgeprune.pruning.groups import narrowing
from edgeprune.records import BlockLoss, ResidualBlock, SensitivityCurve

Widths = Mapping[str, tuple[int, ...]]
WORTH = 5  # cuts of a group for which what comes before is kept: that takes two more
TRIALS = 3  # widths of a group at which criteria are compared


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
        scores: criterion -> group -> scores [width]; not every criterion may score every group.
        samples: calibration samples the loss is measured on.
        store: keeps the curves of finished groups; those it holds are not measured again.
        progress: receives (done, total, group).

    Raises:
        DataError: there are no calibration batches, or no labels.
        UserFunctionError: a loss is not finite.
    """
    meter = LossMeter(model, data, samples)
    model = meter.model
    able = {group: [name for name in scores if group in scores[name]] for group in widths}
    trials = {group: trial_widths(options, len(able[group])) for group, options in widths.items()}
    counts = {
        group: len(options) - 1 + (len(able[group]) - 1) * len(trials[group])
        for group, options in widths.items()
    }
    total, done, curves = sum(counts.values()), 0, list[SensitivityCurve]()

    def cuts(group: str, criterion: str, at: Sequence[int]) -> dict[int, Performance]:
        nonlocal done
        kept = [keep_best(scores[criterion][group], width) for width in at]
        found = {}
        progress(done, total, f"{group} by {criterion}")
        for width, candidate in zip(at, narrowing(model, data.example, group, kept), strict=True):
            if counts[group] >= WORTH:
                meter.shorten(candidate)
            found[width] = meter.performance(candidate, f"group {group} at width {width}")
            done += 1
            progress(done, total, f"{group} by {criterion}")
        return found

    for group, options in widths.items():
        of_group = {criterion: scores[criterion][group] for criterion in able[group]}
        known = store.load(group, options, of_group) if store else None
        if known is not None:
            done += counts[group]
            progress(done, total, f"{group}: kept from an earlier measurement")
            curves += known
            continue
        tried = {c: cuts(group, c, trials[group]) for c in able[group]}
        best = min(tried, key=lambda c: sum(found.loss for found in tried[c].values()))
        rest = [width for width in options[-2::-1] if width not in tried[best]]
        tried[best] |= cuts(group, best, rest)
        found = [
            _curve(group, criterion, options[-1], tried[criterion], meter.dense)
            for criterion in able[group]
        ]
        if store:
            store.save(group, options, of_group, found)
        curves += found
    progress(total, total, "")
    return tuple(curves)


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


def _curve(
    group: str, criterion: str, width: int, found: Mapping[int, Performance], dense: Performance
) -> SensitivityCurve:
    widths = sorted(found)
    curve = SensitivityCurve(
        group=group,
        criterion=criterion,
        widths=(*widths, width),
        increases=(*(found[at].loss - dense.loss for at in widths), 0.0),
        drops=(*(dense.metric - found[at].metric for at in widths), 0.0),
    )
    if math.isnan(dense.odd):  # a single batch
        return curve
    even = (*(found[at].even - dense.even for at in widths), 0.0)
    odd = (*(found[at].odd - dense.odd for at in widths), 0.0)
    return curve.model_copy(update={"even": even, "odd": odd})


def agreement(curves: Mapping[str, SensitivityCurve]) -> float | None:
    """Return how far two halves of the calibration batches agree on the order of single cuts.

    Spearman's rank correlation of the increases on every second batch with those on the others,
    over all narrower widths of all groups. About half as many samples stand on each side as in the
    curves, so that the order of the curves themselves is the surer one.

    Args:
        curves: group -> curve.

    Returns:
        -1 to 1; None where there are no halves, fewer than three cuts, or no order.
    """
    even = [value for curve in curves.values() for value in curve.even[:-1]]
    odd = [value for curve in curves.values() for value in curve.odd[:-1]]
    if len(even) < 3:
        return None
    ranks = torch.stack([_ranks(even), _ranks(odd)])
    if not ranks.std(1).all():
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> Tensor:
    """Return the ranks of values, equal ones sharing the mean of theirs."""
    _, places, counts = torch.tensor(values, dtype=torch.float64).unique(
        return_inverse=True, return_counts=True
    )
    ranks: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return ranks[places].double()


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
