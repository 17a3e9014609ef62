"""Two ONNX files against each other, whatever made them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeprune.devices.local import LocalDevice
from edgeprune.export.onnx_graph import export
from edgeprune.records import Parity
from edgeprune.verify.files import file_parity


class Odd(nn.Module):
    """NaN for negative numbers, infinity for those above 2; `shift` is added to the rest."""

    def __init__(self, shift: float = 0.0, bound: float = 0.0, nan: float = math.nan) -> None:
        super().__init__()
        self.shift, self.bound, self.nan = shift, bound, nan

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < self.bound, self.nan, torch.where(x > 2, math.inf, x + self.shift))


@pytest.fixture
def compared(local: LocalDevice, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Two models of five numbers -> the parity of their files."""

    def parity(*models: nn.Module) -> Parity:
        files = []
        for number, model in enumerate(models):
            path = tmp_path / f"{number}.onnx"
            files.append((path, export(model.eval(), (torch.zeros(1, 5),), path, opset=20)))
        return file_parity(local, *files)

    return parity


def test_outputs_that_are_no_numbers_in_the_same_places_are_equal(compared) -> None:  # type: ignore[no-untyped-def]
    found = compared(Odd(), Odd())
    assert (found.passed, found.max_abs, found.max_rel) == (True, 0.0, 0.0)
    assert found.note.startswith("outputs hold NaN or infinity: random inputs may lie outside")
    assert "of 320)" in found.note
    moved = compared(Odd(), Odd(shift=0.5))
    assert (moved.passed, moved.max_abs) == (False, pytest.approx(0.5, rel=1e-6))
    assert compared(Odd(), Odd(shift=1e-6)).passed


@pytest.mark.parametrize("other", [Odd(bound=-0.5), Odd(nan=-math.inf), nn.Identity()])
def test_outputs_that_are_no_numbers_elsewhere_differ(compared, other: nn.Module) -> None:  # type: ignore[no-untyped-def]
    found = compared(Odd(), other)
    assert (found.passed, found.max_abs, found.max_rel) == (False, 1e308, 1e308)
    assert found.note.endswith("and not alike")
    assert Parity.model_validate_json(found.model_dump_json()) == found


def test_outputs_that_are_all_no_numbers_are_equal(compared) -> None:  # type: ignore[no-untyped-def]
    found = compared(Odd(bound=1e9), Odd(bound=1e9))
    assert (found.passed, found.max_abs) == (True, 0.0)
    assert "(320 of 320)" in found.note


def test_ordinary_outputs_need_no_note(compared) -> None:  # type: ignore[no-untyped-def]
    assert compared(nn.Identity(), nn.Identity()).note == ""
