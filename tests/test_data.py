from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeprune.data import Data, as_tuple, batches, call, first_batches, top1
from edgeprune.errors import DataError, UserFunctionError
from edgeprune.fitting import check_gradient, check_judges

BATCH = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


def data(**parts: Any) -> Data:
    fields: dict[str, Any] = {
        "example_inputs": torch.zeros(1, 3), "train": [BATCH], "calibration": [BATCH], "validation": [BATCH],
        **parts,
    }  # fmt: skip
    return Data(**fields)


def one_shot() -> Iterator[tuple[Tensor, Tensor]]:
    yield from [BATCH] * 3


def test_top1_counts_rows() -> None:
    output = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert top1(output, torch.tensor([1, 0, 0, 0])) == 0.75


def test_defaults_are_cross_entropy_and_top1() -> None:
    given = data()
    assert given.loss is torch.nn.functional.cross_entropy
    assert given.metric is top1
    assert given.metric_name == "top-1 accuracy"
    assert given.test is None


def test_metric_of_the_user_is_called_by_its_name() -> None:
    def recall(output: Tensor, target: Tensor) -> float:
        return 1.0

    assert data(metric=recall).metric_name == "recall"


def test_good_data_passes() -> None:
    data(test=[BATCH]).check()
    data(train=None).check()
    data(train=[[*BATCH]]).check()  # lists, as torch's default collate gives


@pytest.mark.parametrize("part", ["train", "calibration", "validation", "test"])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float64, torch.float32),
        (torch.uint8, torch.float32),
        (torch.int32, torch.int64),
    ],
)
def test_inputs_of_another_data_type_than_the_example_are_refused(
    part: str, given: torch.dtype, wanted: torch.dtype
) -> None:
    good = (torch.zeros(4, 3, dtype=wanted), BATCH[1])
    parts = {name: [good] for name in ("train", "calibration", "validation", "test")}
    data(example_inputs=torch.zeros(1, 3, dtype=wanted), **parts).check()
    parts[part] = [(torch.zeros(4, 3, dtype=given), BATCH[1])]
    names = [str(kind).removeprefix("torch.") for kind in (given, wanted)]
    words = f"inputs of {part} are {names[0]}, example_inputs {names[1]}"
    with pytest.raises(DataError, match=words) as caught:
        data(example_inputs=torch.zeros(1, 3, dtype=wanted), **parts).check()
    assert "data factory" in caught.value.hint


def test_a_later_batch_of_another_data_type_is_refused_where_models_are_judged() -> None:
    mixed = [BATCH, (BATCH[0].double(), BATCH[1])]
    for name in ("validation", "test"):
        with pytest.raises(DataError, match=f"batch 1 of {name} are float64, .* before float32"):
            list(batches(mixed, name))
    assert len(list(batches(mixed, "train"))) == 2


@pytest.mark.parametrize("part", ["train", "calibration", "validation", "test"])
def test_an_empty_part_is_named(part: str) -> None:
    with pytest.raises(DataError, match=f"{part} is empty"):
        data(**{part: []}).check()


@pytest.mark.parametrize("part", ["train", "calibration", "validation", "test"])
def test_a_part_that_can_be_read_only_once_is_refused(part: str) -> None:
    with pytest.raises(DataError, match=f"{part}.*once"):
        data(**{part: one_shot()}).check()


@pytest.mark.parametrize("part", ["calibration", "validation"])
def test_a_part_that_is_no_iterable_is_refused(part: str) -> None:
    with pytest.raises(DataError, match=part):
        data(**{part: None}).check()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(4, 3), r"batch 0 of train is a Tensor, not \(inputs, target\)"),
        ((torch.zeros(4, 3),), r"is a tuple, not \(inputs, target\)"),
        (([1.0, 2.0], torch.zeros(2)), "not a tensor: its inputs is a float"),
        ((torch.zeros(4, 3), [0, 1, 2, 3]), "not a tensor: its target is a list"),
        ((torch.zeros(4, 3), None), "not a tensor: its target is a NoneType"),
        (
            (torch.zeros(4, 5), torch.zeros(4)),
            r"train have shapes \[\(5,\)\].*example_inputs \[\(3,\)\]",
        ),
        (((torch.zeros(4, 3), torch.zeros(4, 3)), torch.zeros(4)), "train have shapes"),
        (
            (torch.full((4, 3), torch.nan), torch.zeros(4)),
            "batch 0 of train holds NaN or infinity in its inputs",
        ),
        ((torch.full((4, 3), torch.inf), torch.zeros(4)), "NaN or infinity"),
    ],
)
def test_malformed_batches_are_described(batch: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data(train=[batch]).check()


def test_a_value_that_is_not_finite_is_found_in_whatever_batch_it_is() -> None:
    good, bad = torch.zeros(4, 3), torch.zeros(4, 3)
    bad[2, 1] = torch.nan
    found = batches([(good, torch.zeros(4)), (bad, torch.zeros(4))], "validation")
    next(found)
    with pytest.raises(DataError, match="batch 1 of validation holds NaN or infinity") as caught:
        next(found)
    assert "leave them out" in str(caught.value.hint)


def test_example_inputs_must_be_tensors() -> None:
    with pytest.raises(DataError, match="example_inputs holds a float, not a tensor"):
        data(example_inputs=(1.0,)).check()


@pytest.mark.parametrize("example", [torch.zeros(0, 3), torch.tensor(1.0)])
def test_example_inputs_without_a_sample_are_refused(example: Tensor) -> None:
    with pytest.raises(DataError, match="no sample"):
        data(example_inputs=example).check()


def test_a_batch_without_samples_is_named() -> None:
    empty = (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="batch 1 of train holds no samples"):
        list(batches([BATCH, empty], "train"))


def test_batches_that_models_are_judged_on_have_one_shape() -> None:
    part = [BATCH, (torch.zeros(2, 3), BATCH[1][:2]), (torch.zeros(4, 5), BATCH[1])]
    assert len(list(batches(part, "train"))) == 3
    for name in ("validation", "test"):
        with pytest.raises(DataError, match=rf"batch 2 of {name} have shapes \[\(5,\)\]"):
            list(batches(part, name))


def test_final_figures_are_taken_on_test_data_or_validation_if_there_is_none() -> None:
    other = [BATCH]
    assert data(test=other).evaluation[0] is other
    assert data(test=other).evaluation[1] == "test"
    assert data().evaluation[1] == "validation"


def test_several_inputs() -> None:
    pair = (torch.zeros(2, 3), torch.ones(2, 5))
    several = data(
        example_inputs=(torch.zeros(1, 3), torch.zeros(1, 5)),
        train=None, calibration=[(pair, torch.zeros(2))], validation=[(list(pair), torch.zeros(2))],
    )  # fmt: skip
    several.check()
    assert [len(inputs) for inputs, _ in batches(several.validation)] == [2]


def test_as_tuple() -> None:
    tensor = torch.zeros(1)
    assert as_tuple(tensor) == (tensor,)
    assert as_tuple([tensor, tensor]) == (tensor, tensor)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "taken"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (99, 3)])
def test_first_batches_stop_at_the_count(count: int, taken: int) -> None:
    assert len(first_batches([BATCH] * 3, count, "calibration")) == taken


def test_first_batches_of_a_spent_generator() -> None:
    spent = one_shot()
    list(spent)
    with pytest.raises(DataError, match="calibration is empty or can be iterated only once"):
        first_batches(spent, 1, "calibration")


def test_call_returns_the_one_tensor() -> None:
    assert call(nn.Identity(), (BATCH[0],)) is BATCH[0]


def test_call_refuses_several_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(DataError, match="returns a tuple") as caught:
        call(Two(), (BATCH[0],))
    assert "one tensor" in caught.value.hint


def broken(output: Tensor, target: Tensor) -> Tensor:
    return output @ target  # a matrix with a vector of another size and type


class Failing:
    def __iter__(self) -> Iterator[Any]:
        yield BATCH
        raise OSError("the disk is gone")


def test_a_fault_in_loss_or_metric_names_function_file_and_line() -> None:
    line = broken.__code__.co_firstlineno + 1
    for role in ("loss", "metric"):
        guarded = data(**{role: broken}).guarded()
        with pytest.raises(UserFunctionError) as caught:
            getattr(guarded, role)(*BATCH)
        assert f"{role} {__name__}.broken failed in broken ({__file__}, line {line})" in str(
            caught.value
        )
        assert "float32 [4, 3] and int64 [4]" in str(caught.value)
        assert caught.value.exit_code == 2
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_fault_in_a_loader_names_the_part_and_the_place() -> None:
    with pytest.raises(
        UserFunctionError, match=r"loader of train failed in __iter__ .*disk is gone"
    ):
        list(batches(Failing(), "train"))


class Unreadable(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise ValueError(f"image {index} is damaged")


def test_a_fault_in_a_worker_of_a_loader_is_found_too() -> None:
    line = Unreadable.__getitem__.__code__.co_firstlineno + 1
    loader = torch.utils.data.DataLoader(Unreadable(), batch_size=2, num_workers=1)
    with pytest.raises(UserFunctionError) as caught:
        list(batches(loader, "validation"))
    assert f"loader of validation failed in __getitem__ ({__file__}, line {line})" in str(
        caught.value
    )
    assert "ValueError: image 0 is damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("role", "returned", "words"),
    [
        ("loss", torch.zeros(4), r"loss returned float32 \[4\]"),
        ("loss", 0.5, "loss returned a float"),
        ("metric", "high", "metric returned a str"),
        ("metric", float("nan"), "metric returned nan"),
        ("metric", -1e308, r"metric returned -1e\+308\n.*at most 1e\+100"),  # sums overflow
    ],
)  # fmt: skip
def test_what_loss_and_metric_return_is_checked(role: str, returned: Any, words: str) -> None:
    guarded = data(**{role: lambda output, target: returned}).guarded()
    with pytest.raises(UserFunctionError, match=words):
        getattr(guarded, role)(*BATCH)


def test_guarding_changes_no_result_and_can_be_repeated() -> None:
    given = data()
    guarded = given.guarded().guarded()
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(guarded.loss(logits, labels), given.loss(logits, labels))
    assert guarded.metric(logits, labels) == top1(logits, labels)
    assert guarded.metric_name == "top-1 accuracy"
    one_element = data(loss=lambda output, target: output[:1, 0]).guarded()
    assert one_element.loss(logits, labels).shape == ()
    with pytest.raises(UserFunctionError, match=r"cross_entropy failed.*out of bounds"):
        guarded.loss(logits, labels + 2)


@pytest.mark.parametrize("role", ["loss", "metric"])
def test_loss_and_metric_are_tried_before_anything_is_measured(role: str) -> None:
    inputs, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 3])
    model, broken = nn.Linear(3, 4), {role: lambda output, target: output.sum() * torch.nan}
    for target, found in ((labels, True), (torch.empty(0), False)):  # no labels: neither is asked
        batch = [(inputs, target)]
        check_judges(model, Data(inputs[:1], None, batch, batch).guarded())
        given = Data(inputs[:1], None, batch, batch, **broken).guarded()
        with (
            pytest.raises(UserFunctionError, match=f"{role} returned nan")
            if found
            else nullcontext()
        ):
            check_judges(model, given)


def test_labels_of_another_kind_are_found_before_any_work() -> None:
    floats = (BATCH[0], BATCH[1].double())
    for part in ("train", "calibration"):
        with pytest.raises(
            DataError, match=f"targets of {part} are float64, those of validation int64"
        ):
            data(**{part: [floats]}).check()
    data(train=None, calibration=[(BATCH[0], torch.empty(0))]).check()  # no labels
    data(train=[(BATCH[0], torch.rand(4, 5))]).check()  # soft ones


def test_a_loss_without_a_gradient_is_told_where_one_is_wanted() -> None:
    def mistakes(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) != target).sum()

    model, guarded = nn.Linear(3, 4), data(loss=mistakes).guarded()
    check_judges(model, guarded)  # its value is all that losses of cut models take
    for asked in (check_gradient, lambda model, data: data.loss(model(BATCH[0]), BATCH[1])):
        with pytest.raises(UserFunctionError, match=r"loss returned int64 \[\] without a gradient"):
            asked(model, guarded)
    check_gradient(model, data().guarded())
    check_gradient(model, data(validation=[(BATCH[0], torch.empty(0))], loss=mistakes).guarded())
