"""What was done to a model before its widths were chosen, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.report import figures, summary

if TYPE_CHECKING:
    from edgeprune.records import Collapse, Comparison, Masks, StoredSize, Verdict


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """Return what masks and linear collapse did, and what the device says of it; () if nothing."""
    done = verdict.prepared
    if done is None:
        return ()
    found = [_collapse(one, verdict) for one in done.collapses]
    if done.masks is not None:
        found += _masks(done.masks)
    if done.gain is not None:
        found.append(f"Before any width was chosen: {_ratio(done.gain, verdict)}.")
    if verdict.stored is not None:
        found += _stored(*verdict.stored)
    return tuple(found)


def _collapse(one: Collapse, verdict: Verdict) -> str:
    chain = f"{one.chain.first} to {one.chain.last} ({one.inputs} -> {one.outputs})"
    what = "Collapsed into one Linear" if one.accepted else "Left as they are"
    facts = [
        f"error {figures.percent(one.error)} of the output's variance "
        f"(at most {figures.percent(one.max_error)})"
    ]
    if one.metric_before is not None and one.metric_after is not None:
        facts.append(
            f"validation metric {one.metric_before:.4f} -> {one.metric_after:.4f} before recovery"
        )
    if one.cost is not None:
        facts.append(_ratio(one.cost, verdict))
    return f"{what}: {chain}: {one.reason}; {', '.join(facts)}."


def _masks(masks: Masks) -> list[str]:
    found = [
        f"Masks ({masks.kind.replace('_', ' ')}): {figures.percent(masks.sparsity)} of "
        f"{sum(layer.weights for layer in masks.layers):,} weights were zero."
    ]
    for one in masks.removed:
        gone = one.before - len(one.kept)
        more = f", {one.folded} of them as constants in biases" if one.folded else ""
        found.append(
            f"Removed from {one.group}: {gone} of {one.before} channels, all zero{more}; "
            "the output was proved equal."
        )
    found += [
        f"Left in {one.group}: {one.channels} zero channels: {one.reason}." for one in masks.left
    ]
    if masks.held:
        found.append(
            f"Zeros of {len(masks.held)} parameters are permanent. "
            + (
                "This device's accelerator skips zeros."
                if masks.sparse_accelerator
                else "A dense runtime multiplies with them all the same."
            )
        )
    return found


def _stored(dense: StoredSize, slim: StoredSize) -> list[str]:
    def one(name: str, size: StoredSize) -> str:
        share = size.zeros / size.weights if size.weights else 0.0
        return (
            f"{name} {figures.size(size.file_bytes)} plain, {figures.size(size.gzip_bytes)} with "
            f"gzip, {figures.size(size.csr_bytes)} with sparse rows "
            f"({figures.percent(share)} of its weights are zero)"
        )

    return [f"Stored: {one('dense', dense)}; {one('slim', slim)} (exact)."]


def _ratio(found: Comparison, verdict: Verdict) -> str:
    name = summary.ratio_name(verdict)
    sure = figures.doubt(found.low, found.high, found.confidence, verdict.kind)
    text = f"{name} {figures.ratio(found.median, found.high - found.low)}, {sure}"
    if found.low <= 1 <= found.high:
        return f"{text}: none"
    return text
