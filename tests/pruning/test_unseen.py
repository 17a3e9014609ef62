"""Layers that run, and that no gradient leads to: named with the reason, never passed over."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import UnsupportedModelError, UsageError
from edgeprune.job import Job
from edgeprune.pruning.floors import group_floors
from edgeprune.pruning.groups import find_groups
from edgeprune.pruning.unseen import DETACHED, NO_GRADIENT, STATES, UNTRACED, told, unseen
from edgeprune.records import GroupList, SkippedGroup
from edgeprune.stages import base
from edgeprune.transforms.masks import mask_channels

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
OUTPUT = "it is the model's output"


class Net(nn.Module):
    """A backbone of two convolutions, a head of two linear layers, and a layer never called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2 = nn.Conv2d(8, 12, 3, padding=1)
        self.h1, self.h2, self.idle = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(5, 6)
        self.eval()

    def body(self, x: Tensor) -> Tensor:
        return self.c2(self.bn(self.c1(x)).relu()).relu().mean((2, 3))

    def head(self, x: Tensor) -> Tensor:
        return self.h2(self.h1(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class NoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


class Inference(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self.body(x)
        return self.head(x.clone())


class Uncloned(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self.body(x)
        return self.head(x)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).detach())


class ByData(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).data)


class InTheMiddle(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x).detach()
        return self.head(self.c2(self.bn(x).relu()).relu().mean((2, 3)))


class Index(Net):
    """The answer of a layer goes on as an index."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.h2(nn.functional.one_hot(self.h1(x).argmax(1), 16).float()) + x[:, :4]


class AllNoGrad(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class AllInference(Net):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class AllDetached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Discarded(Net):
    """Layers run for nothing, with and without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        self.idle(torch.ones(2, 5))
        with torch.no_grad():
            self.idle(torch.ones(2, 5))
        return super().forward(x)


class FixedWeights(Net):
    """Weights that are no parameters carry no gradient, whatever forward does."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias"):
            fixed = getattr(self.c1, name).detach()
            delattr(self.c1, name)
            self.c1.register_buffer(name, fixed)


BACKBONE = {"c1", "c2"}
CASES = {  # model -> groups, layers that no gradient leads to, why
    Net: ({"c1", "c2", "h1"}, set(), ""),
    Discarded: ({"c1", "c2", "h1"}, set(), ""),
    FixedWeights: ({"c2", "h1"}, set(), ""),
    NoGrad: ({"h1"}, BACKBONE, NO_GRADIENT),
    Inference: ({"h1"}, BACKBONE, NO_GRADIENT),
    Detached: ({"h1"}, BACKBONE, DETACHED),
    ByData: ({"h1"}, BACKBONE, DETACHED),
    InTheMiddle: ({"c2", "h1"}, {"c1"}, DETACHED),
    Index: ({"c1"}, {"h1"}, DETACHED),
    AllNoGrad: (set(), {"c1", "c2", "h1"}, NO_GRADIENT),
    AllInference: (set(), {"c1", "c2", "h1"}, NO_GRADIENT),
    AllDetached: (set(), {"c1", "c2", "h1", "h2"}, DETACHED),
}


def reasons(found: GroupList) -> dict[str, str]:
    return {one.name: one.reason for one in found.skipped}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_layers_that_no_gradient_leads_to_are_named(case: type[Net], frozen: bool) -> None:
    groups, hidden, why = CASES[case]
    model = case().requires_grad_(not frozen)
    before = copy.deepcopy(model.state_dict())
    found = find_groups(model, INPUTS)
    assert {group.name for group in found.groups} == groups
    assert {n for n, reason in reasons(found).items() if reason in (NO_GRADIENT, DETACHED)} == (
        hidden
    )
    assert {reasons(found)[name] for name in hidden} == ({why} if hidden else set())
    widths = {one.name: one.width for one in found.skipped}
    assert {widths[name] for name in hidden & {"c1"}} <= {8}
    assert "idle" not in widths, "it does not run, or for nothing"
    if case is not AllDetached and case is not Index:
        assert reasons(found)["h2"] == OUTPUT
    # nothing is left behind on the model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {p.requires_grad for p in model.parameters()} == {not frozen}
    assert not any(m._forward_hooks for m in model.modules())


def test_layers_of_models_that_are_seen_whole_get_no_such_reason(build) -> None:
    for name in ("plain", "residual", "concat", "grouped", "tokens", "shuffled", "decoder"):
        found = find_groups(*build(name))
        assert not {NO_GRADIENT, DETACHED, STATES} & set(reasons(found).values())


def test_a_layer_without_a_gradient_that_is_kept_is_said_to_be_kept() -> None:
    found = reasons(find_groups(NoGrad(), INPUTS, keep=("c1",)))
    assert found["c1"] == "prune.keep names c1"
    assert found["c2"] == NO_GRADIENT
    found = reasons(find_groups(NoGrad(), INPUTS, keep={"c1": "guards.layers"}))
    assert found["c1"] == "guards.layers names c1"


def test_a_floor_of_a_layer_without_a_gradient_tells_why_it_is_never_cut() -> None:
    with pytest.raises(UsageError, match=r"c1: it is never cut: its output carries no gradient"):
        group_floors({"c1": 4}, find_groups(NoGrad(), INPUTS))


def test_what_is_read_by_a_layer_that_differentiates_must_be_no_inference_tensor() -> None:
    with pytest.raises(UnsupportedModelError, match="Inference tensors cannot be saved") as caught:
        find_groups(Uncloned(), INPUTS)
    assert "requires_grad_(False)" in caught.value.hint
    assert caught.value.exit_code == 5


class Started(nn.Module):
    """A layer gives the initial state of a recurrent one; the other reads a packed sequence."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gru = nn.Linear(6, 10), nn.GRU(10 if packed else 6, 10, batch_first=True)
        self.mix, self.head, self.packed = nn.Linear(10, 12), nn.Linear(12, 4), packed
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if self.packed:
            lengths = torch.tensor([x.shape[1]] * len(x))
            read = nn.utils.rnn.pack_padded_sequence(self.first(x).relu(), lengths, True)
            state = self.gru(read)[1]
        else:
            state = self.gru(x, hx=self.first(x[:, 0])[None])[1]
        return self.head(self.mix(state[-1]).relu())


@pytest.mark.parametrize(("packed", "hidden"), [(False, {"first"}), (True, {"first", "gru"})])
def test_recurrent_layers_are_not_said_to_run_without_gradients(packed: bool, hidden) -> None:
    found = find_groups(Started(packed), (torch.randn(2, 5, 6),))
    assert {name for name, reason in reasons(found).items() if reason == STATES} == hidden
    assert {group.name for group in found.groups} == {"mix"}
    assert not {NO_GRADIENT, DETACHED} & set(reasons(found).values())


def test_a_model_of_which_nothing_is_seen_is_refused_with_the_reason() -> None:
    job = Job.model_validate(
        {"name": "j", "model": {"factory": "m:f"}, "data": {"factory": "m:f"}, "budget": {}}
    )
    batches = [(INPUTS[0], torch.zeros(2, dtype=torch.long))]
    data = Data(INPUTS[0], None, batches, batches)
    for case, hidden in ((AllNoGrad, "c1, c2, h1"), (AllDetached, "c1, c2, h1, h2")):
        with pytest.raises(UnsupportedModelError, match="no group of channels") as caught:
            base.find(job, case(), data)
        assert caught.value.exit_code == 5
        assert f"{hidden}: {CASES[case][2]}" in caught.value.what
        assert caught.value.what.count("requires_grad_(False)") == 1
        with pytest.raises(UnsupportedModelError, match="can be masked") as caught:
            mask_channels(case(), INPUTS, 0.5)
        assert f"{hidden}: {CASES[case][2]}" in caught.value.what


def test_one_line_a_reason_names_the_first_layers() -> None:
    one = [SkippedGroup(name=f"l{k}", width=4, reason="a") for k in range(9)]
    other = [SkippedGroup(name="head", width=4, reason="b")]
    assert told(one + other) == ["l0, l1, l2, l3, l4, l5 and 3 more: a", "head: b"]


@pytest.mark.parametrize("packed", [False, True])
def test_states_explain_the_layers_that_give_them_and_no_others(packed: bool) -> None:
    found = unseen(Started(packed), (torch.randn(2, 5, 6),), seen={"head"})
    gru = STATES if packed else UNTRACED
    assert found == {"first": STATES, "gru": gru, "mix": UNTRACED}
