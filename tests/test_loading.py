from __future__ import annotations

import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeprune.errors import DataError, FactoryError, WeightsError
from edgeprune.job import Job
from edgeprune.loading import (
    call_factory,
    check_finite,
    load_data,
    load_model,
    load_weights,
    read_state,
    seed_everything,
)

MODEL = """\
import torch

def build():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).train()

def number():
    return 7

def broken():
    raise KeyError("no such thing")

def seeded(seed):
    return seed

def plain():
    return "plain"

class Nested:
    @staticmethod
    def build():
        return torch.nn.Linear(3, 4)
"""
DATA = """\
import torch
from edgeprune.data import Data

def load(seed=0):
    batch = [(torch.zeros(2, 3), torch.full((2,), seed))]
    return Data(torch.zeros(1, 3), None, batch, batch)

def empty():
    return Data(torch.zeros(1, 3), None, [], [])

def nothing():
    return None
"""


@pytest.fixture
def folder(tmp_path: Path):
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "toy_model.py").write_text(MODEL)
    (tmp_path / "toy_data.py").write_text(DATA)
    yield tmp_path
    assert sys.path == path  # nothing of a job stays on the path
    for name in set(sys.modules) - modules:
        if name.startswith("toy_"):
            del sys.modules[name]


def job(model: str = "toy_model:build", data: str = "toy_data:load", **fields: object) -> Job:
    return Job.model_validate(
        {"name": "j", "model": {"factory": model, **fields}, "data": {"factory": data}, "seed": 5}
    )


def test_a_model_comes_in_eval_mode_and_reproducibly(folder: Path) -> None:
    first, second = load_model(job(), folder), load_model(job(), folder)
    assert not first.training
    assert not any(module.training for module in first.modules())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_data_gets_the_seed_of_the_job(folder: Path) -> None:
    assert next(iter(load_data(job(), folder).validation))[1].tolist() == [5, 5]


def test_only_arguments_that_are_named_are_passed(folder: Path) -> None:
    assert call_factory("toy_model:seeded", folder, "model.factory", seed=9, other=1) == 9
    assert call_factory("toy_model:plain", folder, "model.factory", seed=9) == "plain"
    assert isinstance(call_factory("toy_model:Nested.build", folder, "k"), nn.Linear)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("toy_nowhere:build", r"model\.factory: no module named 'toy_nowhere'"),
        ("toy_model:missing", "has no function 'missing'"),
        ("toy_model:torch.version", "has no function 'torch.version'"),
        ("toy_model:broken", r"'toy_model:broken' failed: KeyError"),
        ("toy_model:seeded", "failed: TypeError"),
        ("toy_model:number", "returned a int, not a torch.nn.Module"),
        ("toy_model.sub:build", "toy_model"),
        ("sys:nowhere", "sys.* has no function 'nowhere'"),
    ],
)
def test_factories_that_do_not_work(folder: Path, factory: str, message: str) -> None:
    with pytest.raises(FactoryError, match=message) as caught:
        load_model(job(factory), folder)
    assert caught.value.exit_code == 2


def test_a_missing_module_is_looked_for_beside_the_job(folder: Path) -> None:
    with pytest.raises(FactoryError) as caught:
        load_model(job("toy_nowhere:build"), folder)
    assert str(folder.resolve()) in caught.value.hint


def test_a_folder_without_modules_is_not_a_factory(folder: Path) -> None:
    (folder / "toy_folder").mkdir()
    with pytest.raises(FactoryError, match="toy_folder"):
        load_model(job("toy_folder:build"), folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import toy_absent_library",
            "toy_broken needs 'toy_absent_library', which is not installed",
        ),
        ("def build(:", "importing toy_broken failed: SyntaxError"),
        ("1 / 0", "importing toy_broken failed: ZeroDivisionError"),
        ("import sys\nsys.exit(0)", "importing toy_broken failed: SystemExit: 0"),
    ],
)
def test_modules_that_cannot_be_imported(folder: Path, source: str, message: str) -> None:
    (folder / "toy_broken.py").write_text(source)
    with pytest.raises(FactoryError, match=message):
        load_model(job("toy_broken:build"), folder)


def test_a_data_factory_of_the_wrong_type(folder: Path) -> None:
    with pytest.raises(FactoryError, match=r"returned a NoneType, not edgeprune\.Data"):
        load_data(job(data="toy_data:nothing"), folder)


def test_a_data_factory_that_gives_nothing(folder: Path) -> None:
    with pytest.raises(DataError, match="calibration is empty"):
        load_data(job(data="toy_data:empty"), folder)


@pytest.mark.parametrize(("first", "second"), [("one", "two"), (".", "inner"), ("inner", ".")])
def test_a_module_of_another_job_is_not_mistaken_for_it(
    folder: Path, first: str, second: str
) -> None:
    for name in (first, second):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "toy_same.py").write_text(f"def where(): return {name!r}")
    assert call_factory("toy_same:where", folder / first, "k") == first
    assert call_factory("toy_same:where", folder / second, "k") == second
    assert call_factory("toy_same:where", folder / first, "k") == first


def test_seeds_reach_python_numpy_and_torch() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    other = draw()
    assert all(a != b for a, b in zip(first, other, strict=True))


# ----------------------------------------------------------------------------------------- weights


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded(tmp_path: Path, suffix: str) -> None:
    model = nn.Linear(3, 4)
    state, path = weights(model), tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    load_weights(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_are_found_beside_the_job(folder: Path) -> None:
    state = {
        "0.weight": torch.ones(4, 3),
        "0.bias": torch.ones(4),
        "1.weight": torch.ones(2, 4),
        "1.bias": torch.ones(2),
    }
    save_file(state, folder / "w.safetensors")
    model = load_model(job(weights="w.safetensors"), folder)
    assert all(bool((value == 1).all()) for value in model.state_dict().values())


def test_missing_weights(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.weights: no file .*w\.safetensors"):
        load_model(job(weights="w.safetensors"), folder)
    with pytest.raises(WeightsError, match="no file"):
        load_model(job(weights="."), folder)


def test_weights_that_do_not_fit_are_all_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "w.safetensors"
    save_file(
        {"0.weight": torch.ones(4, 5), "0.bias": torch.ones(4), "2.weight": torch.ones(1)}, path
    )
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
        load_weights(model, path)
    message = str(caught.value)
    for fault in ("missing: 1.weight", "missing: 1.bias", "not in the model: 2.weight",
                  "0.weight: (4, 5) in the file, (4, 3) in the model"):  # fmt: skip
        assert fault in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_long_list_of_faults_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"layer{i}": torch.ones(1) for i in range(30)}, path)
    with pytest.raises(WeightsError, match=r"and 24 more") as caught:
        load_weights(nn.Linear(3, 4), path)
    assert str(caught.value).count("\n  - ") == 9


class Bomb:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_a_pickle_is_never_executed(tmp_path: Path, how: str, suffix: str) -> None:
    target, path = tmp_path / "executed", tmp_path / f"weights{suffix}"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save({"weight": Bomb(target)} if how == "inside" else Bomb(target), path)
    with pytest.raises(WeightsError, match="not plain weights") as caught:
        read_state(path)
    assert not target.exists()
    assert "weights_only" not in caught.value.what, "torch's advice would run it"
    assert "safetensors" in caught.value.hint


def test_a_pickle_called_safetensors_is_not_executed_either(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_state(path)
    assert not target.exists()


def test_a_whole_pickled_model_is_not_weights(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 4), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="not plain weights"):
        read_state(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "state", [{"model": {"weight": torch.ones(1)}, "epoch": 3}, [torch.ones(1)], torch.ones(1)]
)
def test_a_checkpoint_around_a_state_dict(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="holds no state dict") as caught:
        read_state(tmp_path / "c.pt")
    assert "state_dict()" in caught.value.hint


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"weight": torch.randn(40, 30), "bias": torch.randn(40)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"model\.weights: "):
        read_state(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_garbage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"\x80\x02garbage, not weights" * 20)
    with pytest.raises(WeightsError):
        read_state(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight[1, 2] = bad
    with pytest.raises(WeightsError, match="weight holds 1 NaN or infinite values of 12"):
        check_finite(model)


def test_buffers_count_and_integers_do_not() -> None:
    model = nn.BatchNorm1d(3)
    check_finite(model)
    model.running_var[0] = torch.nan
    with pytest.raises(WeightsError, match="running_var"):
        check_finite(model)


def test_a_model_with_nan_weights_is_refused_when_loaded(folder: Path) -> None:
    (folder / "toy_nan.py").write_text(
        "import torch\ndef build():\n    model = torch.nn.Linear(2, 2)\n"
        "    torch.nn.init.constant_(model.bias, float('nan'))\n    return model\n"
    )
    with pytest.raises(WeightsError, match="bias holds 2 NaN"):
        load_model(job("toy_nan:build"), folder)
