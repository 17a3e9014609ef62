"""When how much is cut: one shot, iterative, progressive, lottery.

Shares are of the dense model's channels and cumulative: 0.5 means that half are gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from edgeprune.errors import UsageError, WeightsError
from edgeprune.pruning.groups import cut

FLOOR = 0.8
T = TypeVar("T")


class Stage(NamedTuple):
    """At the start of `epoch`, `share` of the channels is to be gone."""

    epoch: int
    share: float


class Outcome(NamedTuple, Generic[T]):
    """The last good state, the shares that were reached with their metric, and why it stopped."""

    state: T
    history: tuple[tuple[float, float], ...]
    stopped: str


def one_shot(share: float) -> tuple[Stage, ...]:
    """Return the schedule that cuts everything before recovery begins."""
    return iterative(((0, share),))


def iterative(steps: Sequence[tuple[int, float]]) -> tuple[Stage, ...]:
    """Return the stages of a list of (epoch, amount), amounts being further shares of dense.

    Raises:
        UsageError: epochs do not rise, an amount is not above 0, or nothing would be left.
    """
    stages: list[Stage] = []
    for epoch, amount in steps:
        before = stages[-1] if stages else Stage(-1, 0.0)
        share = before.share + amount
        if epoch <= before.epoch or amount <= 0 or share >= 1:
            raise UsageError(
                f"schedule iterative: ({epoch}, {amount:g}) cannot follow epoch {before.epoch} "
                f"with {before.share:g} gone",
                "epochs rise from 0, amounts are above 0 and add up to less than 1",
            )
        stages.append(Stage(epoch, share))
    if not stages:
        raise UsageError("schedule iterative: no (epoch, amount) is given")
    return tuple(stages)


def progressive(share: float, stages: int) -> tuple[float, ...]:
    """Return the cumulative shares of `stages` cuts, each taking the same part of what is left.

    After stage i of n, (1 - share)^(i / n) of the channels are left.

    Raises:
        UsageError: `share` is not between 0 and 1, or there is no stage.
    """
    if not 0 < share < 1 or stages < 1:
        raise UsageError(f"schedule progressive: {stages} stages to a share of {share:g}")
    return tuple(1 - (1 - share) ** (i / stages) for i in range(1, stages + 1))


def carry_out(
    start: T,
    shares: Sequence[float],
    advance: Callable[[T, float], T],
    metric: Callable[[T], float],
    *,
    floor: float = FLOOR,
) -> Outcome[T]:
    """Cut and recover stage by stage; stop when the metric falls too far, with the last good state.

    Args:
        start: the dense state.
        shares: cumulative shares, rising.
        advance: (state, share) -> the state cut to this share and recovered.
        metric: of a state on validation data, higher is better.
        floor: a stage is good if its metric is at least this share of the first stage's.
    """
    state = start
    history: list[tuple[float, float]] = []
    for index, share in enumerate(shares, start=1):
        candidate = advance(state, share)
        value = metric(candidate)
        if history and value < floor * history[0][1]:
            reason = (
                f"stage {index} of {len(shares)}: metric {value:.4g} is under "
                f"{floor:g} of the first stage's {history[0][1]:.4g}"
            )
            return Outcome(state, tuple(history), reason)
        state = candidate
        history.append((share, value))
    return Outcome(state, tuple(history), "")


def rewind(
    dense: nn.Module,
    inputs: tuple[Tensor, ...],
    kept: Mapping[str, Sequence[int]],
    early: Mapping[str, Tensor],
) -> nn.Module:
    """Return the cut model with the surviving weights at their `early` values (lottery ticket).

    Structured: whole channels survive (arXiv 1803.03635 masks single weights). Train it, score the
    trained network, and call this again with fewer channels for the next round.

    Args:
        dense: the dense model; it is left alone.
        inputs: example inputs.
        kept: group -> channels that survive.
        early: state of the dense model at the beginning, or after some steps.

    Raises:
        WeightsError: `early` does not fit the dense model.
    """
    whole = cut(dense, inputs, {})
    try:
        whole.load_state_dict(dict(early))
    except RuntimeError as error:
        raise WeightsError(f"lottery: the early state does not fit the model: {error}") from None
    return cut(whole, inputs, kept)
