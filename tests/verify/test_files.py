"""Two ONNX files against each other, whatever made them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeprune.devices.local import LocalDevice
from edgeprune.devices.protocol import Device
from edgeprune.errors import DataError
from edgeprune.export.onnx_graph import describe, export, weight_shapes
from edgeprune.export.quantization import quantize
from edgeprune.inspection import PRUNED, compare_files
from edgeprune.records import Artifact, Parity
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


class Difference(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - self.factor * b


def renamed(source: Path, target: Path, inputs: dict[str, str]) -> tuple[Path, Artifact]:
    """Write the file again with its inputs in the order of the keys, under the names of the values."""
    model = onnx.load(source)
    given = {value.name: value for value in model.graph.input}
    del model.graph.input[:]
    for old, new in inputs.items():
        model.graph.input.append(given[old])
        model.graph.input[-1].name = new
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = inputs.get(name, name)
    onnx.save(model, target)
    return target, describe(target)


def test_inputs_are_matched_by_name_where_both_files_have_the_same(
    local: LocalDevice, tmp_path: Path
) -> None:
    path = tmp_path / "one.onnx"
    export(Difference().eval(), (torch.zeros(1, 4), torch.zeros(1, 4)), path, opset=20)
    a, b = (info.name for info in describe(path).inputs)
    one = path, describe(path)
    swapped = renamed(path, tmp_path / "swapped.onnx", {b: b, a: a})
    assert file_parity(local, one, swapped).max_abs == 0.0
    assert file_parity(local, swapped, one).max_abs == 0.0
    crossed = renamed(path, tmp_path / "crossed.onnx", {a: b, b: a})  # computes b - a
    assert not file_parity(local, one, crossed).passed
    others = renamed(path, tmp_path / "others.onnx", {a: "left", b: "right"})
    assert file_parity(local, one, others).max_abs == 0.0, "by position where names differ"


@pytest.mark.parametrize(
    ("plans", "width", "gate"),
    [
        (("a", None), 8, False),  # stripped, or another's: same shapes, other outputs
        ((None, None), 5, False),
        (("a", "a"), 5, False),
        ((None, "a"), 5, None),  # really pruned
    ],
)
def test_only_other_shapes_make_a_file_a_pruned_one(
    simulated: Callable[..., Device],
    tmp_path: Path,
    plans: tuple[str | None, str | None],
    width: int,
    gate: bool | None,
) -> None:
    files = []
    for name, plan, hidden in zip(("one", "two"), plans, (8, width), strict=True):
        torch.manual_seed(len(files))
        model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3)).eval()
        files.append(tmp_path / f"{name}.onnx")
        metadata = {"plan": plan} if plan else {}
        export(model, (torch.zeros(1, 4),), files[-1], opset=20, metadata=metadata)
    found = compare_files(*files, simulated(), tolerance=1e-4)
    assert (found.gates[0].name, found.gates[0].met) == ("parity", gate)
    assert found.gates[0].note == (PRUNED if gate is None else "")
    assert not found.parity.passed
    if gate is False:
        assert not found.passed


def test_weights_keep_their_shapes_when_they_are_quantised(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shapes = weight_shapes(exported("plain"))
    assert shapes == [(10, 24), (16, 3, 3, 3), (24, 16, 3, 3)]
    samples = [np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)]
    quantize(exported("plain"), tmp_path / "int8.onnx", samples)
    assert weight_shapes(tmp_path / "int8.onnx") == shapes


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
