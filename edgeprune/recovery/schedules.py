"""In how many steps a model is cut: one shot, iterative, progressive, lottery.

Shares are of the dense model's cost: 0.5 means that half of it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from edgeprune.errors import BudgetError, WeightsError
from edgeprune.pruning.groups import cut
from edgeprune.sections import ScheduleSection

T = TypeVar("T")
CLOSE = 1e-9


class Step(NamedTuple):
    """A cut that leaves `share` of the dense cost, and the training steps that follow it."""

    number: int
    share: float
    training: int


class Outcome(NamedTuple, Generic[T]):
    """The last good state, every state that was tried with its metric, and why it stopped."""

    state: T
    tried: tuple[tuple[T, float], ...]
    stopped: str


def plan_steps(
    schedule: ScheduleSection, share: float, last: int, epoch: Callable[[], int]
) -> tuple[Step, ...]:
    """Return the steps in which `schedule` reaches `share` of the dense cost.

    `progressive` and `lottery` take the same part of what is left each time: after step i of n,
    share^(i / n) is left. `iterative` takes the listed amounts of the dense cost, at most down to
    `share`.

    Args:
        schedule: the section of the job.
        share: what the budget leaves.
        last: training steps after the last cut.
        epoch: returns the training steps of one epoch.

    Raises:
        BudgetError: the listed amounts never reach `share`.
    """
    if schedule.kind == "iterative":
        return _iterative(schedule.cuts, share, last, epoch)
    count = {"progressive": schedule.stages, "lottery": schedule.rounds}.get(schedule.kind, 1)
    if share >= 1:
        count = 1
    between = [schedule.steps] * (count - 1)
    return tuple(
        Step(i, share ** (i / count), training)
        for i, training in enumerate((*between, last), start=1)
    )


def _iterative(
    cuts: Sequence[tuple[int, float]], share: float, last: int, epoch: Callable[[], int]
) -> tuple[Step, ...]:
    left, steps, length = 1.0, list[Step](), epoch() if len(cuts) > 1 else 0
    for number, (start, amount) in enumerate(cuts, start=1):
        left -= amount
        if left <= share + CLOSE:
            return (*steps, Step(number, share, last))
        following = cuts[number][0] if number < len(cuts) else start
        steps.append(Step(number, left, (following - start) * length))
    raise BudgetError(
        f"schedule iterative never reaches the budget: its cuts leave {100 * left:.1f} % of the "
        f"dense cost, the budget {100 * share:.1f} %",
        "add to [schedule] cuts, or ask for a larger budget",
    )


def carry_out(
    steps: Sequence[Step],
    advance: Callable[[T | None, Step], T],
    metric: Callable[[T], float],
    *,
    least_share: float | None = None,
) -> Outcome[T]:
    """Cut and recover step by step; stop when the metric falls too far, with the last good state.

    Args:
        steps: at least one.
        advance: (state before, None at first; step) -> the state cut and recovered.
        metric: of a state on validation data, higher is better.
        least_share: a state is good if its metric is at least this share of the first one's; of one
            below 0 (a negative error), if it is worse by at most the rest of 1.
    """
    state = advance(None, steps[0])
    first = metric(state)
    tried = [(state, first)]
    for step in steps[1:]:
        candidate = advance(state, step)
        value = metric(candidate)
        tried.append((candidate, value))
        if least_share is not None and value < first - (1 - least_share) * abs(first):
            reason = (
                f"step {step.number} of {len(steps)}: the metric {value:.4g} is over "
                f"{100 * (1 - least_share):g} % worse than the first step's {first:.4g}"
            )
            return Outcome(state, tuple(tried), reason)
        state = candidate
    return Outcome(state, tuple(tried), "")


def epoch_steps(train: Iterable[object] | None) -> int:
    """Return the number of batches of the training data; 0 without any."""
    if train is None:
        return 0
    return len(train) if isinstance(train, Sized) else sum(1 for _ in train)


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
