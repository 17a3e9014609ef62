"""Two ONNX files against each other, whatever made them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.devices.local import LocalDevice
from edgeprune.errors import DataError
from edgeprune.export.onnx_graph import export
from edgeprune.records import Parity
from edgeprune.verify.files import file_parity
from edgeprune.verify.inference import run_arrays


class Odd(nn.Module):
    """NaN for negative numbers, infinity for those above 2; `shift` is added to the rest."""

    def __init__(self, shift: float = 0.0, bound: float = 0.0, nan: float = math.nan) -> None:
        super().__init__()
        self.shift, self.bound, self.nan = shift, bound, nan

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < self.bound, self.nan, torch.where(x > 2, math.inf, x + self.shift))


class Recurrent(nn.Module):
    """A state of two layers beside one sample, and a scalar."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, state: Tensor, x: Tensor, gain: Tensor) -> Tensor:
        return (state.sum(0) * gain + x) * self.factor


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_each_input_is_cut_by_its_own_first_axis(
    local: LocalDevice, tmp_path: Path, order: tuple[int, ...]
) -> None:
    class Ordered(Recurrent):
        def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            given = dict(zip(order, (a, b, c), strict=True))
            return super().forward(given[0], given[1], given[2])

    kinds = [(2, 1, 16), (1, 16), ()]
    files = []
    for name, factor in (("one", 1.0), ("two", 1.5)):
        inputs = tuple(torch.randn(kinds[i]) for i in order)
        artifact = export(Ordered(factor).eval(), inputs, tmp_path / f"{name}.onnx", opset=20)
        files.append((tmp_path / f"{name}.onnx", artifact))
    assert file_parity(local, files[0], files[0]).max_abs == 0.0
    assert not file_parity(local, *files).passed
    path, artifact = files[0]
    random = np.random.default_rng(0)
    whole = [
        random.standard_normal((rows, *shape[1:])).astype(np.float32)
        for rows, shape in ((10, kinds[0]), (5, kinds[1]), (5, kinds[2]))
    ]
    columns = {info.name: whole[i] for info, i in zip(artifact.inputs, order, strict=True)}
    state, x, gain = whole
    wanted = state.reshape(5, 2, 16).sum(1) * gain[:, None] + x
    np.testing.assert_allclose(run_arrays(local, path, artifact, columns), wanted, atol=1e-5)


def test_inputs_for_different_numbers_of_runs_are_refused(
    local: LocalDevice, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    inputs = (torch.zeros(2, 1, 4), torch.zeros(1, 4), torch.zeros(()))
    artifact = export(Recurrent().eval(), inputs, path, opset=20)
    rows = dict(zip((i.name for i in artifact.inputs), (6, 3, 4), strict=True))
    columns = {
        info.name: np.zeros((rows[info.name], *info.shape[1:]), np.float32)
        for info in artifact.inputs
    }
    with pytest.raises(DataError, match=r"numbers of runs \(input_0: 3, input_1: 3, input_2: 4\)"):
        run_arrays(local, path, artifact, columns)


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
