"""The experiments on Fashion-MNIST: what they make, on a tiny data set, and their tables."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from edgeprune.data import Data
from edgeprune.records import Trial, Trials
from edgeprune.report.markdown import put_between
from edgeprune.sections import RecoverSection

FOLDER = Path(__file__).resolve().parents[2] / "examples/fashion_mnist"


@pytest.fixture(scope="module")
def program() -> types.ModuleType:
    """The program with its small network, noise for images, and few steps."""
    for other in ("data", "model"):
        sys.modules.pop(other, None)
    spec = importlib.util.spec_from_file_location("fashion_experiments", FOLDER / "experiments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 28, 28, generator=generator)
    batches = list(zip(images.split(32), torch.arange(64).fmod(10).split(32), strict=True))
    small = module.build(widths=(8, 16, 16))
    module.data = lambda seed=0: Data(images[:1], batches, batches, batches)
    module.dense = lambda: small
    module.build = lambda: small
    module.SAMPLES, module.BETWEEN, module.EARLY = 64, 1, 1
    module.PLAIN = RecoverSection(reconstruct=False, steps=2)
    module.REFITTED = RecoverSection(steps=2, reconstruct=True)
    return module


def test_every_trial_is_wanted_once_and_the_published_shares_are_among_them(program) -> None:
    keys = [wanted[:4] for wanted in program.wanted()]
    assert len(keys) == len(set(keys))
    compared = {(method, share) for _, method, share, _ in keys}
    assert program.PUBLISHED.keys() <= compared
    assert {share for _, _, share, _ in keys} == {0.3, 0.5, 0.6, 0.7}
    assert {seed for name, _, _, seed in keys if name == "seeds"} == set(range(5))


def test_a_criterion_cuts_the_share_of_every_group(program) -> None:
    found = program.by_criterion("seeds", "l2", 0.5, 1)
    assert found.key == ("seeds", "l2", 0.5, 1)
    whole = program.find_groups(program.dense(), program.data().example).groups
    assert {name: len(kept) for name, kept in found.kept.items()} == {
        group.name: group.width // 2 for group in whole
    }
    assert found.parameters < 0.4 * sum(p.numel() for p in program.dense().parameters())


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("iterative", (0.25, 0.5, 0.75)), ("progressive", (1 - 0.25 ** (1 / 3), 1 - 0.25 ** (2 / 3), 0.75))],
)  # fmt: skip
def test_a_schedule_ends_at_its_share(program, schedule, shares) -> None:
    found = program.by_schedule(schedule, 0.75)
    assert [share for share, _ in found.stages] == pytest.approx(shares)
    once = program.by_criterion("criteria", "l2", 0.75)
    assert found.parameters == pytest.approx(once.parameters, rel=0.1)  # rounded three times


def test_a_ticket_begins_with_early_weights(program, monkeypatch) -> None:
    begun = {}
    real = program.cut_and_recover

    def watched(model, *others):
        begun[len(begun)] = next(model.parameters()).detach().clone()
        return real(model, *others)

    def early(steps):
        return {
            n: t + steps if t.is_floating_point() else t
            for n, t in program.dense().state_dict().items()
        }

    monkeypatch.setattr(program, "cut_and_recover", watched)
    monkeypatch.setattr(program, "early", early)
    for method in ("fine-tuned", "early", "initial"):
        assert program.by_lottery(method, 0.5).method == method
    first = next(program.dense().parameters())
    assert torch.equal(begun[0], first)
    assert torch.equal(begun[1], first + program.EARLY)
    assert torch.equal(begun[2], first)


def test_tables_have_their_places_in_the_page(program) -> None:
    trials = tuple(
        Trial(experiment=e, method=m, share=s, seed=seed, recalibrated=0.5, metric=0.9 - s / 10,
              parameters=5, kept={"a": (0, 1)} if e == "seeds" else {})
        for e, m, s, seed, _ in program.wanted()
    )  # fmt: skip
    tables = program.tables(
        Trials(title="t", metric="m", dense=0.9, parameters=9, conditions={}, trials=trials)
    )
    page = (FOLDER / "README.md").read_text()
    for name, block in tables.items():
        page = put_between(page, name, block)
    assert "| `l2` | 3.00 | 5.00 | 6.00 | 7.00 |" in tables["criteria"]
    assert "| `l2`, 50 % | 4.0 | 5.00 |" in tables["published"]
    assert "| `progressive`, 60 % | 3.0 | 6.00 |" in tables["published"]
    assert "| `fused` | 5.00 | 0.00 | 5.00 to 5.00 | 1.000 |" in tables["seeds"]
