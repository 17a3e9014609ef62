"""The model on the data's inputs, before any work: one tensor, with the samples first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data
from edgeprune.errors import DataError, UnsupportedModelError
from edgeprune.fitting import check_judges, check_runs


class Returns(nn.Module):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> object:
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


DATA_OF_3 = Data(torch.zeros(1, 3), None, [], [])


def test_a_model_that_runs() -> None:
    assert check_runs(nn.Linear(3, 4), DATA_OF_3).shape == (1, 4)


def test_a_model_that_does_not_run_on_the_inputs() -> None:
    with pytest.raises(
        UnsupportedModelError, match="does not run on example_inputs: RuntimeError"
    ) as caught:
        check_runs(nn.Linear(5, 4), DATA_OF_3)
    assert caught.value.exit_code == 5


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(8, 3), nn.Linear(3, 4)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        return self.last(self.embedding(tokens).mean(1) * weights)


@pytest.mark.parametrize(
    ("model", "inputs", "told", "advice"),
    [
        (nn.Linear(3, 4), (torch.zeros(1, 3).double(),), "on float64, but does on float32", "x.float()"),
        (nn.Linear(3, 4), (torch.zeros(1, 3, dtype=torch.uint8),), "on uint8, but does on float32", "x.float()"),
        (nn.Linear(3, 4).double(), (torch.zeros(1, 3),), "on float32, but does on float64", "model.float()"),
        (
            Tokens(), (torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 3).double()),
            "on int64, float64, but does on int64, float32", "x.float()",
        ),
    ],
)  # fmt: skip
def test_inputs_of_another_data_type_than_the_weights(
    model: nn.Module, inputs: tuple[Tensor, ...], told: str, advice: str
) -> None:
    with pytest.raises(DataError, match=f"example_inputs: the model does not run {told}") as caught:
        check_runs(model, Data(inputs, None, [], []))
    assert advice in caught.value.hint
    assert caught.value.exit_code == 2


def test_types_are_not_blamed_for_another_fault() -> None:
    with pytest.raises(UnsupportedModelError, match="does not run on example_inputs"):
        check_runs(nn.Linear(5, 4), Data(torch.zeros(1, 3).double(), None, [], []))
    with pytest.raises(UnsupportedModelError, match="does not run on example_inputs"):
        check_runs(Tokens(), Data((torch.full((1, 5), 9), torch.zeros(1, 3)), None, [], []))


@pytest.mark.parametrize(
    "what", [ValueError("no"), (torch.ones(1), torch.ones(1)), {"a": torch.ones(1)}, None]
)
def test_outputs_that_are_not_one_tensor(what: object) -> None:
    with pytest.raises(UnsupportedModelError):
        check_runs(Returns(what), DATA_OF_3)


@pytest.mark.parametrize(
    ("shape", "batch"), [((), 1), ((4,), 1), ((5, 2, 4), 2), ((6, 4), 2)]
)  # squeezed twice and once, time first, tokens beside samples
def test_an_output_without_the_samples_first(shape: tuple[int, ...], batch: int) -> None:
    data = Data(torch.zeros(batch, 3), None, [], [])
    with pytest.raises(UnsupportedModelError, match="first axis of the output") as caught:
        check_runs(Returns(torch.zeros(shape)), data)
    assert str(list(shape)) in caught.value.what
    assert "[samples, ...]" in caught.value.hint


class Squeezes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).squeeze()  # [N], but [] for one sample


class TimeFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[None]  # [1, N, 3]: with one sample, it looks as if that came first


class Similar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T  # [N, N]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Squeezes(), r"returns \[\] for example_inputs, which holds 1 samples"),
        (TimeFirst(), r"returns \[1, 4, 3\] for the first calibration batch, which holds 4"),
        (Similar(), r"returns \[4\] for each of 4 samples of calibration, and \[1\]"),
    ],
)
@pytest.mark.parametrize("target", [torch.zeros(4, dtype=torch.long), torch.empty(0)])
def test_outputs_that_depend_on_the_batch_are_refused_before_any_work(
    model: nn.Module, words: str, target: Tensor
) -> None:
    batches = [(torch.zeros(4, 3), target)]
    with pytest.raises(UnsupportedModelError, match=words):
        check_judges(model, Data(torch.zeros(1, 3), None, batches, batches))


def test_a_model_that_does_not_run_on_the_first_calibration_batch() -> None:
    class OneSample(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 3)

    batches = [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(
        UnsupportedModelError, match="does not run on the first calibration batch: RuntimeError"
    ) as caught:
        check_judges(OneSample(), Data(torch.zeros(1, 3), None, batches, batches))
    assert caught.value.exit_code == 5


def test_an_output_that_is_not_finite() -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        check_runs(Returns(torch.tensor([torch.nan])), DATA_OF_3)
