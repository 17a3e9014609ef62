"""Whatever a result depends on is part of the identity of its run, and is named when it changes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.fingerprint import code_digest
from edgeprune.identity import identity_of
from edgeprune.job import Job

LEAST: dict[str, Any] = {
    "name": "j",
    "model": {"factory": "m:f"},
    "data": {"factory": "m:f"},
    "budget": {"latency": "50%"},
}
CHANGES: dict[str, Any] = {
    "budget.macs": {"latency": "50%", "macs": "40%"},
    "budget.max_accuracy_drop": {"latency": "50%", "max_accuracy_drop": 0.5},
    "mask": {"amount": 0.5},
    "collapse.max_error": {"max_error": 0.5},
    "prune.floors": {"floors": {"0": 4}},
    "prune.fused": {"fused": {"removals": 3}},
    "prune.polish": {"polish": False},
    "schedule.kind": {"kind": "progressive"},
    "regularise": {"kind": "growing"},
    "recover.adam": {"optimizer": "adam"},
    "guards.agreement": {"agreement": 0.5},
    "export.opset": {"opset": 19},
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_section_is_another_run_and_named(key: str, simulated) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).eval()
    batches = [(torch.randn(8, 4), torch.arange(8) % 3)]
    data, device = Data(torch.randn(1, 4), batches, batches, batches), simulated()
    section, _, name = key.partition(".")
    before = identity_of(Job.model_validate(LEAST), model, data, device)
    changed = Job.model_validate({**LEAST, section: CHANGES[key]})
    after = identity_of(changed, model, data, device)
    names = {one for one in before | after if before.get(one) != after.get(one)}
    assert names
    assert all(one.startswith(f"job.{section}") or one == "budget" for one in names)
    assert name in ("", "adam") or f"job.{key}" in names


class Weighted(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.factor * F.cross_entropy(output, target)


class Called:
    def __init__(self, *powers: float) -> None:
        self.powers = [{"power": power} for power in powers]
        self.itself = self

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return output.sum() ** self.powers[0]["power"]

    def twice(self, output: Tensor, target: Tensor) -> Tensor:
        return 2 * self(output, target)


def enclosed(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: factor * output.sum()


FACTOR = 1.0


def scaled(output: Tensor) -> Tensor:
    return FACTOR * output.sum()


def by_a_global(output: Tensor, target: Tensor) -> Tensor:
    return scaled(output)


WEIGHTS = {"a": np.array([1.0, 2.0]), "b": np.array([1.0, 3.0])}


def by_an_array(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    weights = WEIGHTS[name]
    return lambda output, target: output.sum() * float(weights[1])


@torch.no_grad()
def decorated(output: Tensor, target: Tensor) -> Tensor:
    return scaled(output)


class Net(nn.Module):
    """A model whose function depends on an attribute, and on a function beside it."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.layer, self.power = nn.Linear(4, 3), power

    def forward(self, x: Tensor) -> Tensor:
        return scaled(self.layer(x)) ** self.power


LOSSES: dict[str, Callable[[], Any]] = {
    "function": lambda: F.cross_entropy,
    "other function": lambda: F.multi_margin_loss,
    "module": nn.CrossEntropyLoss,
    "module, smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "module, weighted": lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 1.0])),
    "module, weighted otherwise": lambda: nn.CrossEntropyLoss(torch.tensor([1.0, 3.0, 1.0])),
    "other module": nn.MultiMarginLoss,
    "partial": lambda: functools.partial(F.cross_entropy, label_smoothing=0.1),
    "partial, otherwise": lambda: functools.partial(F.cross_entropy, label_smoothing=0.2),
    "partial, other function": lambda: functools.partial(F.multi_margin_loss, margin=0.2),
    "own module": lambda: Weighted(1.0),
    "own module, otherwise": lambda: Weighted(2.0),
    "own object": lambda: Called(1.0),
    "own object, otherwise": lambda: Called(2.0),
    "own object, a part more": lambda: Called(1.0, 2.0),
    "method": lambda: Called(1.0).twice,
    "method, otherwise": lambda: Called(2.0).twice,
    "closure": lambda: enclosed(1.0),
    "closure, otherwise": lambda: enclosed(2.0),
    "by a global": lambda: by_a_global,
    "decorated": lambda: decorated,
    "array": lambda: by_an_array("a"),
    "array, otherwise": lambda: by_an_array("b"),
}


def test_code_is_told_apart_by_all_that_a_loss_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(torch.randn(8, 4), torch.arange(8) % 3)]

    def digest(name: str, part: str = "loss") -> str:
        given = {part: LOSSES[name]()}
        return code_digest(
            nn.Linear(4, 3), Data(batches[0][0], None, batches, batches, **given).guarded()
        )

    for part in ("loss", "metric"):
        found = {name: digest(name, part) for name in LOSSES}
        assert found == {name: digest(name, part) for name in LOSSES}, "the same twice"
        assert len(set(found.values())) == len(LOSSES)
    data = Data(batches[0][0], None, batches, batches)
    models = {power: code_digest(Net(power), data) for power in (1.0, 2.0)}
    assert models == {power: code_digest(Net(power), data) for power in (1.0, 2.0)}
    assert models[1.0] != models[2.0]
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert digest("by a global", "metric") != found["by a global"]
    assert digest("decorated", "metric") != found["decorated"]
    assert code_digest(Net(1.0), data) != models[1.0]


def test_code_has_the_same_digest_in_another_process() -> None:
    text = (
        "from test_identity import *; b = [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))]\n"
    )
    text += "print([code_digest(nn.Linear(4, 3), Data(b[0][0], None, b, b, loss=f())) for f in LOSSES.values()])"
    here = Path(__file__).parent
    seen = {
        subprocess.run(
            [sys.executable, "-c", text], cwd=here, env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1
    assert "[" in seen.pop()


def frozen(*names: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    return model


def test_frozen_layers_are_another_run_and_each_set_of_them_is_told_apart(simulated) -> None:
    batches = [(torch.randn(8, 4), torch.arange(8) % 3)]
    data, device = Data(torch.randn(1, 4), batches, batches, batches), simulated()
    job, every = Job.model_validate(LEAST), [name for name, _ in frozen().named_parameters()]
    sets = ((), ("0.weight",), ("0.weight", "0.bias"), ("0.weight", "2.bias"), tuple(every))
    found = [identity_of(job, frozen(*names), data, device) for names in sets]
    texts = [one.pop("frozen parameters") for one in found]
    assert all(one == found[0] for one in found), "nothing else is another"
    assert (texts[0], texts[-1]) == ("none", "all 6")
    assert texts[1].startswith("1 of 6 (")
    assert texts[1].endswith("), first 0.weight")
    assert len({text[:37] for text in texts}) == len(sets), "the start is what a refusal shows"
    assert texts[2] == identity_of(job, frozen(*sets[2][::-1]), data, device)["frozen parameters"]
