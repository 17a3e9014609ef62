"""The four families of the fused importance: each term scaled to [0, 1] inside its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgeprune.data import call
from edgeprune.importance.activations import watching
from edgeprune.importance.gradients import batch_gradients
from edgeprune.importance.scoring import Scores, Scoring
from edgeprune.importance.weights import l2, variance

BINS = 32
POSITIONS = 64  # of one sample, evenly spread, for histograms and correlations
CORRELATED = 0.5  # channels whose correlation is larger are neighbours
TINY = 1e-12


def unit(values: Tensor) -> Tensor:
    """Return values [width] scaled to [0, 1]; 0 throughout where all are equal."""
    values = values.double()
    spread = values.max() - values.min()
    if float(spread) <= TINY * max(1.0, float(values.abs().max())):
        return torch.zeros_like(values)
    return (values - values.min()) / spread


def weighted(terms: list[tuple[float, Scores]]) -> Scores:
    """Return group -> sum of weight * unit(term)."""
    first = terms[0][1]
    return {
        name: torch.stack([weight * unit(term[name]) for weight, term in terms]).sum(0)
        for name in first
    }


def base(scoring: Scoring) -> Scores:
    """0.3 l2 + 0.2 weight variance + 0.2 non-zero ratio + 0.2 weight entropy + 0.1 effective rank.

    A weight counts as zero below a thousandth of the largest of its layer. The entropy is that of
    abs(w) / sum abs(w) over the channel's weights. The effective rank (Roy and Vetterli, 2007) is
    exp(entropy of the singular values) of the channel's matrix [input channels, kernel] in the
    convolutions that produce it.
    """
    weights = scoring.weights()
    size = scoring.sums({n: torch.ones_like(w) for n, w in weights.items()})
    above = {n: (w.abs() > 1e-3 * w.abs().max()).double() for n, w in weights.items()}
    nonzero = {n: s / size[n] for n, s in scoring.sums(above).items()}
    total = scoring.sums({n: w.abs() for n, w in weights.items()})
    logs = scoring.sums({n: torch.special.entr(w.abs()) for n, w in weights.items()})
    entropy = {n: logs[n] / (t + TINY) + (t + TINY).log() for n, t in total.items()}
    return weighted(
        [
            (0.3, l2(scoring)),
            (0.2, variance(scoring)),
            (0.2, nonzero),
            (0.2, {n: torch.where(total[n] > TINY, e, 0.0) for n, e in entropy.items()}),
            (0.1, effective_rank(scoring)),
        ]
    )


def effective_rank(scoring: Scoring) -> Scores:
    """Return group -> mean effective rank of each channel's kernels in its producers [width]."""
    weights, found = scoring.weights(), {}
    for name, members in scoring.members.items():
        ranks = torch.zeros(len(members[0].indices), dtype=torch.float64)
        for member in members:
            weight = weights.get(f"{member.layer}.weight")
            rows = scoring.rows(member, weights) if member.side == "out" else None
            if rows is None or weight is None or weight.ndim < 3:
                continue
            values = torch.linalg.svdvals(rows.unflatten(1, (-1, weight[0, 0].numel())).double())
            shares = values / values.sum(1, keepdim=True).clamp(min=TINY)
            rank = torch.special.entr(shares).sum(1).exp()
            rank = torch.where(values.sum(1) > TINY, rank, 0.0)
            ranks += torch.stack([rank[list(at)].sum() for at in member.indices])
        found[name] = ranks
    return found


@dataclass
class _Channels:
    """Running sums over everything that the consumers of one group receive."""

    width: int
    count: float = 0.0
    binned: float = 0.0
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)
    sums: Tensor = field(init=False)  # [width, 4]: non-zero, abs, value, square
    bins: Tensor = field(init=False)  # [width, BINS], between low and high of the first batch
    edges: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.low = torch.full((self.width,), float("inf"))
        self.high = torch.full((self.width,), float("-inf"))
        self.sums = torch.zeros(self.width, 4, dtype=torch.float64)
        self.bins = torch.zeros(self.width, BINS, dtype=torch.float64)

    def add(self, a: Tensor, few: Tensor) -> None:
        """Take in activations [positions, width], and a few of them for the histogram."""
        self.count += len(a)
        self.binned += len(few)
        self.low = torch.minimum(self.low, a.amin(0))
        self.high = torch.maximum(self.high, a.amax(0))
        terms = ((a != 0).float().sum(0), a.abs().sum(0), a.sum(0), a.square().sum(0))
        self.sums += torch.stack(terms, 1).double()
        if self.edges is None:
            self.edges = self.low.clone(), (self.high - self.low).clamp(min=TINY)
        low, spread = self.edges
        at = ((few - low) / spread * BINS).long().clamp_(0, BINS - 1)
        at += torch.arange(self.width) * BINS
        self.bins += torch.bincount(at.flatten(), minlength=self.width * BINS).view(-1, BINS)


def activation(scoring: Scoring) -> Scores:
    """0.2 frequency + 0.3 magnitude + 0.2 variance + 0.2 entropy + 0.1 range of the activations.

    The frequency is the share that is not zero, the entropy that of a histogram of 32 bins between
    the smallest and the largest activation of the channel in the first batch, over 64 positions of
    each sample.
    """
    seen = {name: _Channels(width) for name, width in scoring.widths.items()}

    def look(group: str, consumer: int, a: Tensor) -> None:
        seen[group].add(a.flatten(0, 1), spread_out(a))

    with watching(scoring, look), torch.inference_mode():
        for inputs, _ in scoring.batches(limit=scoring.fused.batches):
            call(scoring.model, inputs)
    mean = {n: c.sums / c.count for n, c in seen.items()}
    shares = {n: c.bins / c.binned for n, c in seen.items()}
    return weighted(
        [
            (0.2, {n: m[:, 0] for n, m in mean.items()}),
            (0.3, {n: m[:, 1] for n, m in mean.items()}),
            (0.2, {n: (m[:, 3] - m[:, 2].square()).clamp(min=0) for n, m in mean.items()}),
            (0.2, {n: torch.special.entr(s).sum(1) for n, s in shares.items()}),
            (0.1, {n: c.high - c.low for n, c in seen.items()}),
        ]
    )


def gradient(scoring: Scoring) -> Scores:
    """0.4 magnitude + 0.2 stability + 0.2 signal-to-noise + 0.2 sign consistency of the gradients.

    Over the batches b and the weights of channel k: magnitude is the mean of abs(g); stability is
    1 / (1 + cv over b of the channel's sum of abs(g)); the ratio is mean over weights of
    abs(mean of g) / std of g; consistency is the mean over weights of abs(mean of sign(g)).
    """
    zeros = {n: torch.zeros_like(p) for n, p in scoring.parameters().items()}
    total = {n: z.clone() for n, z in zeros.items()}
    squares = {n: z.clone() for n, z in zeros.items()}
    signs = {n: z.clone() for n, z in zeros.items()}
    size = scoring.sums({n: torch.ones_like(z) for n, z in zeros.items()})
    norms = {n: torch.zeros(2, w, dtype=torch.float64) for n, w in scoring.widths.items()}
    count = 0
    for _, gradients in batch_gradients(scoring, scoring.fused.batches):
        for name, g in gradients.items():
            total[name] += g
            squares[name].addcmul_(g, g)
            signs[name] += g.sign()
        for name, norm in scoring.sums({n: g.abs() for n, g in gradients.items()}).items():
            norms[name] += torch.stack((norm, norm.square()))
        count += 1
    mean = {n: norm[0] / count for n, norm in norms.items()}
    deviation = {n: (v[1] / count - mean[n].square()).clamp(min=0).sqrt() for n, v in norms.items()}
    noise = {
        n: t.abs()
        / count
        / ((squares[n] / count - (t / count).square()).clamp(min=0).sqrt() + 1e-8)
        for n, t in total.items()
    }
    return weighted(
        [
            (0.4, {n: m / size[n] for n, m in mean.items()}),
            (0.2, {n: _stability(mean[n], deviation[n]) for n in mean}),
            (0.2, {n: s / size[n] for n, s in scoring.sums(noise).items()}),
            (0.2, _over(scoring.sums({n: s.abs() / count for n, s in signs.items()}), size)),
        ]
    )


def _stability(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return 1 / (1 + cv), and 0 for a channel without gradient."""
    return torch.where(mean > TINY, mean / (mean + deviation).clamp(min=TINY), 0.0)


def _over(scores: Scores, size: Scores) -> Scores:
    return {name: value / size[name] for name, value in scores.items()}


def cooperation(scoring: Scoring) -> Scores:
    """0.3 connection strength + 0.3 uniqueness + 0.2 degree centrality + 0.2 cooperation.

    Connection strength is the sum of abs(w) with which the consumers read channel k; uniqueness is
    1 - the largest abs(correlation) of its activations with another channel's (0 for a channel
    that never changes); degree centrality is the share of other channels with an abs(correlation)
    above 0.5. Cooperation is the mean over channels j of D(k and j) - D(k) - D(j), where D is the
    increase of the loss by a removal: with s_k = sum of a_k * dL/da_k of one sample, and the Fisher
    information for the Hessian, D(S) = mean over samples of -sum s + (sum s)^2 / 2, so that this
    is the mean of s_k * s_j.
    """
    moments = {n: torch.zeros(w + 1, w + 1, dtype=torch.float64) for n, w in scoring.widths.items()}
    together = {n: torch.zeros(w, w, dtype=torch.float64) for n, w in scoring.widths.items()}
    saliency: dict[str, Tensor] = {}
    leaves: list[Tensor] = []
    samples = 0
    frozen = list(scoring.parameters().values())
    for parameter in frozen:  # gradients of activations alone cost a third less
        parameter.requires_grad_(False)

    def look(group: str, consumer: int, a: Tensor) -> Tensor:
        if consumer == 0:
            flat = spread_out(a.detach())
            flat = torch.cat((flat, torch.ones(len(flat), 1)), 1)
            moments[group] += flat.T @ flat
        if not a.requires_grad:
            a = a.detach().requires_grad_()
            leaves.append(a)
        values = a.detach()

        def keep(g: Tensor) -> None:
            found = (values * g).sum(1)
            saliency[group] = saliency[group] + found if group in saliency else found

        seen = a * 1.0
        seen.register_hook(keep)
        return seen

    with watching(scoring, look):
        for inputs, target in scoring.batches(labels=True, limit=scoring.fused.batches):
            loss = scoring.loss(inputs, target) * len(target)
            saliency.clear()
            torch.autograd.grad(loss, leaves, allow_unused=True)
            leaves.clear()
            for name, s in saliency.items():
                together[name] += s.double().T @ s.double()
            samples += len(target)
    for parameter in frozen:
        parameter.requires_grad_(True)
    strength = scoring.sums({n: w.abs() for n, w in scoring.weights().items()}, "in")
    correlation = {name: correlations(m) for name, m in moments.items()}
    return weighted(
        [
            (0.3, strength),
            (0.3, {n: uniqueness(c) for n, c in correlation.items()}),
            (0.2, {n: _others((c > CORRELATED).double()) for n, c in correlation.items()}),
            (0.2, {n: _others(t / samples) for n, t in together.items()}),
        ]
    )


def spread_out(a: Tensor) -> Tensor:
    """Return [rows, width]: up to 64 positions a sample of a [samples, positions, width]."""
    return a[:, :: -(-a.shape[1] // POSITIONS)].flatten(0, 1)


def correlations(moments: Tensor) -> Tensor:
    """Return abs(correlation) [width, width] from the second moments of (channels, 1).

    Args:
        moments: sum of x x^T over positions, x the activations with a 1 at the end.
    """
    count, total = moments[-1, -1], moments[-1, :-1]
    covariance = moments[:-1, :-1] / count - torch.outer(total, total) / count.square()
    spread = covariance.diagonal().clamp(min=0).sqrt()
    return (covariance / torch.outer(spread, spread).clamp(min=TINY)).abs().clamp(max=1.0)


def uniqueness(correlation: Tensor) -> Tensor:
    """Return 1 - the largest correlation with another channel; 0 for a channel without variance."""
    others = correlation - torch.diag(correlation.diagonal())
    return torch.where(correlation.diagonal() > 0.5, 1.0 - others.amax(1), 0.0)


def _others(pairs: Tensor) -> Tensor:
    """Return the mean of each row [width, width] without its diagonal."""
    return (pairs.sum(1) - pairs.diagonal()) / max(1, len(pairs) - 1)


FAMILIES: Mapping[str, Callable[[Scoring], Scores]] = {
    "base": base,
    "activation": activation,
    "gradient": gradient,
    "cooperation": cooperation,
}
