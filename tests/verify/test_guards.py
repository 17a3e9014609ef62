"""Guards against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.data import Data
from edgeprune.errors import DataError, UsageError
from edgeprune.sections import GuardsSection
from edgeprune.verify.accuracy import Accuracy, are_classes
from edgeprune.verify.guards import check, class_shares, gates

LABELS = np.array([0, 0, 0, 0, 1, 1, 3, 3])
DENSE = np.array([0, 0, 0, 0, 1, 1, 3, 3])
SLIM = np.array([0, 0, 0, 1, 1, 1, 3, 0])  # class 0: 3 of 4, class 1: all, class 3: 1 of 2


def accuracy(answers: np.ndarray) -> Accuracy:
    return Accuracy(1.0, ((1.0, 8),), answers, LABELS)


def judged(**section: object):  # type: ignore[no-untyped-def]
    dense = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4))
    slim = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    found = GuardsSection.model_validate(section)
    return gates(found, accuracy(DENSE), accuracy(SLIM), dense, slim)


def test_no_guards_no_gates() -> None:
    assert judged() == ()


def test_shares_by_class() -> None:
    assert class_shares(SLIM, LABELS) == {0: 0.75, 1: 1.0, 3: 0.5}
    assert class_shares(np.array([1, 2]), np.array([-100, 2])) == {2: 1.0}


def test_a_class_under_the_floor_is_named() -> None:
    (gate,) = judged(class_floor=0.8)
    assert (gate.name, gate.met, gate.value) == ("class_floor", False, 0.5)
    assert gate.note == "under it: class 3: 0.5000, class 0: 0.7500"
    (gate,) = judged(class_floor=0.5)
    assert (gate.met, gate.note) == (True, "lowest: class 3 of 3")


def test_guards_that_cannot_be_judged_are_not_met() -> None:
    model = nn.Linear(2, 4)
    asked = GuardsSection(class_floor=0.0, agreement=0.0)
    blind = Accuracy(1.0, ((1.0, 8),))
    for gate in gates(asked, blind, blind, model, model):
        assert (gate.met, gate.note[:10]) == (False, "not judged")
    ignored = Accuracy(1.0, ((1.0, 2),), np.array([0, 1]), np.array([-100, -100]))
    floor, agreement = gates(asked, ignored, ignored, model, model)
    assert (floor.met, agreement.met) == (False, True)


def test_agreement_counts_equal_answers() -> None:
    (gate,) = judged(agreement=0.75)
    assert (gate.met, gate.value) == (True, 0.75)
    assert judged(agreement=0.76)[0].met is False


def test_a_layer_that_was_cut_is_named() -> None:
    (gate,) = judged(layers=["0", "1"])
    assert (gate.name, gate.met, gate.value, gate.limit) == ("layers_kept", False, 1, 2)
    assert gate.note == "cut: 0: 4 -> 3"
    assert judged(layers=["1"])[0].met is True


def test_classes_are_told_from_other_outputs() -> None:
    labels = torch.zeros(5, dtype=torch.long)
    assert are_classes(torch.zeros(5, 3), labels)
    assert are_classes(torch.zeros(5, 3, 7), torch.zeros(5, 7, dtype=torch.long))
    assert not are_classes(torch.zeros(5, 1), labels)
    assert not are_classes(torch.zeros(5, 3), torch.zeros(5))
    assert not are_classes(torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.long))


def test_guards_that_cannot_be_judged_are_refused() -> None:
    model, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), torch.zeros(5, 2)
    pairs = [(x, torch.zeros(5, 3))]
    data = Data(x[:1], None, pairs, pairs)
    with pytest.raises(DataError, match="compare classes"):
        check(GuardsSection(agreement=0.9), model, data)
    with pytest.raises(UsageError, match="no layer '1' with channels"):
        check(GuardsSection(layers=("0", "1")), model, data)
    check(GuardsSection(layers=("0",)), model, data)


def test_a_floor_needs_the_class_of_every_sample_and_says_so_before_any_work() -> None:
    model, x = nn.Linear(2, 3), torch.zeros(2, 2)
    pairs = [(x, torch.tensor([0, 2])), (x, torch.tensor([-100, 255]))]
    data = Data(x[:1], None, pairs[:1], pairs[:1], test=pairs)
    with pytest.raises(DataError, match="test holds the label 255, and the model gives 3 classes"):
        check(GuardsSection(class_floor=0.5), model, data)
    check(GuardsSection(agreement=0.9), model, data)  # looks at answers only
    left_out = Data(
        x[:1], None, pairs[:1], pairs[:1], test=[pairs[0], (x, pairs[1][1].clamp(-1, 1))]
    )
    check(GuardsSection(class_floor=0.5), model, left_out)
