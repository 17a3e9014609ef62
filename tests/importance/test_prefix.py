"""What comes before a cut is computed once, and only where that changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from edgeprune.data import Data
from edgeprune.errors import InternalCheckError
from edgeprune.importance import prefix
from edgeprune.importance.meter import LossMeter
from edgeprune.pruning.groups import cut, find_groups


def unit(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Chain(nn.Module):
    """Three units; what is between them is up to `between`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = unit(3, 8), unit(8, 8), unit(8, 12)
        self.head = nn.Linear(12, 5)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.third(self.second(self.first(x))))

    def end(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Residual(Chain):
    """What the first unit yields is used twice, and written into."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += self.second(x)
        relu(x, inplace=True)
        return self.end(self.third(x))


class Keeper(nn.Module):
    def __init__(self, owner: Chain) -> None:
        super().__init__()
        self.body, self.owner = unit(3, 8), [owner]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        self.owner[0].seen = y.detach().mean((1, 2, 3))
        return y


class ByTheSide(Chain):
    """The first unit hands on something that it does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Keeper(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.end(self.third(self.second(self.first(x))))
        assert self.seen is not None
        return y + self.seen[:, None]


class Twice(Chain):
    """The second unit runs before and after the third."""

    def __init__(self) -> None:
        super().__init__()
        self.third, self.head = unit(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.end(self.second(self.third(self.second(x))))


class Pairs(Chain):
    """A module before the cut returns two tensors."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = unit(3, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.body(x)
            return y, y.amax((2, 3))

    def __init__(self) -> None:
        super().__init__()
        self.first = Pairs.Split()
        self.extra = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, most = self.first(x)
        out: Tensor = self.end(self.third(self.second(y))) + self.extra(most)
        return out


MODELS: dict[str, Callable[[], Chain]] = {
    model.__name__: model for model in (Chain, Residual, ByTheSide, Twice, Pairs)
}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that convolutions have computed."""
    rows: list[int] = []
    forward = nn.Conv2d.forward

    def counted(self: nn.Conv2d, x: Tensor) -> Tensor:
        rows.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    return rows


def setting(name: str) -> tuple[Chain, Data]:
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    batches = [(torch.randn(16, 3, 6, 6), torch.arange(16) % 5) for _ in range(3)]
    return model, Data(batches[0][0][:1], None, batches, batches)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", ["second.0", "third.0"])
def test_losses_are_the_same_as_without(name: str, layer: str) -> None:
    model, data = setting(name)
    kept = {layer: range(0, 8, 2)}
    if layer not in {group.name for group in find_groups(model, data.example).groups}:
        pytest.skip(f"{layer} of {name} belongs to another group")
    plain = LossMeter(model, data, 48)
    expected = plain.performance(cut(plain.model, data.example, kept), "")
    meter = LossMeter(model, data, 48)
    candidate = meter.shorten(cut(meter.model, data.example, kept))
    assert meter.performance(candidate, "") == expected
    assert meter.performance(candidate, "") == expected, "nothing was written into what is kept"


def shortened(name: str, layer: str, runs: list[int]) -> int:
    """Return how many convolutions run for a model that was cut at `layer` and shortened."""
    model, data = setting(name)
    meter = LossMeter(model, data, 48)
    candidate = meter.shorten(cut(meter.model, data.example, {layer: range(6)}))
    runs.clear()
    meter.performance(candidate, "")
    return len(runs)


def test_what_comes_before_the_cut_does_not_run_again(runs: list[int]) -> None:
    model, data = setting("Chain")
    meter = LossMeter(model, data, 48)
    kept = {"third.0": range(6)}
    whole = cut(meter.model, data.example, kept)
    short = meter.shorten(cut(meter.model, data.example, kept))
    counts = []
    for candidate in (whole, short):
        runs.clear()
        meter.performance(candidate, "")
        counts.append(len(runs))
    assert counts == [18, 6], "three batches, twice: for the statistics and for the loss"


def test_only_what_is_used_is_kept() -> None:
    model, data = setting("Chain")
    meter = LossMeter(model, data, 48)
    meter.shorten(cut(meter.model, data.example, {"third.0": range(6)}))
    found = meter._prefixes._kept
    assert found is not None
    assert found.chosen == ("first", "second")
    assert found.used == {"second"}
    assert {tuple(kept) for kept in found.outputs.values()} == {("second",)}
    assert len(found.outputs) == 6


def test_what_is_handed_on_by_the_side_is_noticed(runs: list[int]) -> None:
    assert shortened("ByTheSide", "third.0", runs) == 18, "nothing was skipped"


class Restless(Chain):
    """What the third unit saw last changes what the first does next."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x if self.seen is None else x + self.seen)
        z = self.third(self.second(y))
        self.seen = z.detach().mean()
        return self.end(z)


class Sized(Chain):
    """The last layer asks the first unit how large its input was."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Sized.Measuring()

    class Measuring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.size = unit(3, 8), torch.Size()

        def forward(self, x: Tensor) -> Tensor:
            self.size = x.shape[2:]
            y: Tensor = self.body(x)
            return y

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(self.second(self.first(x)))
        return self.end(interpolate(y, size=self.first.size))


class Masked(ByTheSide):
    """The same, where one output is so large that others hardly count."""

    def forward(self, x: Tensor) -> Tensor:
        illegal = torch.tensor([False, False, False, False, True])
        return super().forward(x).masked_fill(illegal, -1e9)


@pytest.mark.parametrize("model", [Restless, Sized, Masked])
def test_losses_are_the_same_where_modules_hand_things_on_unseen(model: type[Chain]) -> None:
    torch.manual_seed(3)
    batches = [(torch.randn(16, 3, size, size), torch.arange(16) % 4) for size in (6, 8, 12)]
    data = Data(batches[0][0][:1], None, batches, batches)
    whole, dense = [], model().eval()
    for short in (False, True):
        meter = LossMeter(copy.deepcopy(dense), data, 48)
        candidate = cut(meter.model, data.example, {"third.0": range(6)})
        found = meter.shorten(candidate) if short else candidate
        whole.append(meter.performance(found, ""))
    assert whole[0] == whole[1]


def test_inputs_that_a_hook_of_the_user_replaces_are_told_apart(runs: list[int]) -> None:
    model, data = setting("Chain")
    model.register_forward_pre_hook(lambda _, args: (args[0] * 2 - 1,))
    kept = {"third.0": range(6)}
    plain = LossMeter(model, data, 48)
    expected = plain.performance(cut(plain.model, data.example, kept), "")
    meter = LossMeter(model, data, 48)
    candidate = meter.shorten(cut(meter.model, data.example, kept))
    runs.clear()
    assert meter.performance(candidate, "") == expected
    assert len(runs) == 6


def test_other_batches_are_refused() -> None:
    model, data = setting("Chain")
    meter = LossMeter(model, data, 48)
    candidate = meter.shorten(cut(meter.model, data.example, {"third.0": range(6)}))
    meter.performance(candidate, "")
    with pytest.raises(InternalCheckError, match="not known"):
        candidate(torch.randn(4, 3, 6, 6))


def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "CGROUP", tmp_path)
    free = prefix.available_memory()
    assert free > 10_000
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("3000\n")
    assert prefix.available_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert prefix.available_memory() > 10_000


def test_nothing_is_kept_where_memory_is_short(
    runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "MEMORY", 1e-9)
    assert shortened("Chain", "third.0", runs) == 18


def test_a_cut_of_the_first_layer_skips_nothing(runs: list[int]) -> None:
    assert shortened("Chain", "first.0", runs) == 18
