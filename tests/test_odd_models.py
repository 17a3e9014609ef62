"""Models, files and jobs that are refused with a message and not with a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import FactoryError, JobError, UnsupportedModelError, WeightsError
from edgeprune.job import Job, load_job
from edgeprune.loading import check_form, load_model, read_state


def _job(factory: str) -> Job:
    return Job.model_validate(
        {"name": "odd", "model": {"factory": factory}, "data": {"factory": "a:b"}}
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.LazyConv2d(4, 3)), r"0\.weight has no shape yet"),
        (nn.Sequential(nn.Linear(2, 2, device="meta")), "meta device"),
        (nn.Linear(2, 2).to(torch.bfloat16), "is bfloat16"),
        (nn.BatchNorm1d(2).half(), "is float16"),
    ],
)
def test_weights_that_cannot_be_worked_with(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        check_form(model)
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_a_lazy_model_is_refused_before_weights_are_compared(tmp_path: Path) -> None:
    (tmp_path / "lazy_model.py").write_text(
        "from torch import nn\ndef build():\n    return nn.LazyLinear(2)\n"
    )
    job = _job("lazy_model:build")
    job = job.model_copy(update={"model": job.model.model_copy(update={"weights": "w.pt"})})
    with pytest.raises(UnsupportedModelError, match="no shape yet"):
        load_model(job, tmp_path)


def test_a_module_with_the_name_of_a_standard_one(tmp_path: Path) -> None:
    (tmp_path / "profile.py").write_text("def build():\n    return None\n")
    with pytest.raises(FactoryError, match="standard library") as caught:
        load_model(_job("profile:build"), tmp_path)
    assert "rename" in caught.value.hint


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x02}q\x00", b"PK\x03\x04", b""])
def test_garbage_files_are_never_a_traceback(tmp_path: Path, start: bytes) -> None:
    chosen = random.Random(len(start))
    for index in range(40):
        path = tmp_path / f"{index}.pt"
        path.write_bytes(start + chosen.randbytes(64))
        with pytest.raises(WeightsError, match=r"model\.weights"):
            read_state(path)


@pytest.mark.parametrize(
    "line",
    [
        "[recover]\nsteps = true",
        '[recover]\nsteps = "400"',
        "[budget]\nmax_accuracy_drop = false",
        '[mask]\namount = "0.5"',
    ],
)
def test_numbers_must_be_numbers(tmp_path: Path, line: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f'name = "n"\n[model]\nfactory = "a:b"\n[data]\nfactory = "a:b"\n{line}\n')
    with pytest.raises(JobError, match="should be a number"):
        load_job(path)
