"""The search for the widest narrower network within a cost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeprune.bench import narrower


def cliff(factor: float) -> float:
    """Sixteen channels in tiles of 8; off the tiles half as much again."""
    channels = max(1, round(16 * factor))
    tiles = -(-channels // 8) * 8 / 16
    return tiles * (1.0 if channels % 8 == 0 else 1.5)


@pytest.mark.parametrize(
    ("cost", "target", "factor"),
    [
        (cliff, 0.55, 0.5),  # any other width below costs 0.75
        (cliff, 0.8, 0.5),
        (cliff, 0.2, None),  # nothing is as cheap
        (lambda factor: factor, 0.4, 0.4),
        (lambda factor: factor**2, 0.4, 0.63),
    ],
)
def test_the_widest_within_the_target_is_found(monkeypatch, cost, target, factor) -> None:
    asked: list[float] = []

    def measure(model: float) -> SimpleNamespace:
        asked.append(model)
        return SimpleNamespace(cost=cost(model))

    graph = SimpleNamespace(segments=[SimpleNamespace(macs=1)])
    monkeypatch.setattr(narrower, "build", lambda job, folder, factor: factor)
    monkeypatch.setattr(narrower, "read_graph", lambda path: graph)
    candidates = SimpleNamespace(
        table=SimpleNamespace(dense_cost=1.0), folder=Path(), measure_model=measure
    )
    found = narrower.reach(None, Path(), candidates, target)  # type: ignore[arg-type]
    assert len(asked) <= narrower.ROUNDS + narrower.PARTS - 1
    if factor is None:
        assert found.cost_ratio == min(cost(one) for one in asked) > target
    else:
        assert found.cost_ratio <= target
        assert found.factor == pytest.approx(factor, abs=0.03)
