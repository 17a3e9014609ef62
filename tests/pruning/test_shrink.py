from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeprune.errors import InternalCheckError
from edgeprune.export.onnx_graph import export
from edgeprune.pruning import shrink as module
from edgeprune.pruning.groups import mask, widths
from edgeprune.pruning.shrink import rebuild, shrink
from edgeprune.records import PlannedGroup

MODELS = [
    "plain", "residual", "concat", "separable", "mlp", "conv1d", "flattened", "decoder", "sigmoid", "grouped",
    "shuffled", "tokens", "prelu", "prelu_channels",
]  # fmt: skip


def halves(groups) -> dict[str, int]:
    """Odd widths, so that rounding anywhere would show."""
    return {group.name: max(1, group.width // 2 - 1) for group in groups.groups}


@pytest.fixture(scope="module")
def slim(build, groups_of):
    """Name -> (dense, slim, inputs, plan)."""
    cache: dict[str, tuple] = {}

    def made(name: str, make_plan):
        if name not in cache:
            model, inputs = build(name)
            plan = make_plan(groups_of(name), halves(groups_of(name)))
            samples = [tuple(torch.randn(3, *x.shape[1:]) for x in inputs)]
            cache[name] = model, shrink(model, inputs, plan, samples), inputs, plan
        return cache[name]

    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_slim_model_has_the_widths_of_the_plan_and_the_output_of_the_masked_one(
    slim, make_plan, name
) -> None:
    model, thin, inputs, plan = slim(name, make_plan)
    assert plan.groups
    assert widths(thin, tuple(plan.groups)) == {n: g.after for n, g in plan.groups.items()}
    assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in model.parameters())
    masked = mask(model, inputs, {n: g.kept for n, g in plan.groups.items()})
    sample = tuple(torch.randn(5, *x.shape[1:]) for x in inputs)
    with torch.inference_mode():
        got, wanted, dense = thin(*sample), masked(*sample), model(*sample)
    assert got.shape == dense.shape
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert float((got - dense).abs().max()) > 1e-3  # the cut is no illusion


@pytest.mark.parametrize("name", MODELS)
def test_a_replay_gives_the_same_model_and_takes_trained_weights(slim, make_plan, name) -> None:
    model, thin, inputs, plan = slim(name, make_plan)
    state = {n: v + 0.25 if v.is_floating_point() else v for n, v in thin.state_dict().items()}
    again = rebuild(model, inputs, plan, state)
    assert not again.training
    assert again.state_dict().keys() == thin.state_dict().keys()
    assert all(torch.equal(v, state[n]) for n, v in again.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_the_slim_model_runs_in_onnxruntime(slim, make_plan, tmp_path: Path, name) -> None:
    _, thin, inputs, _ = slim(name, make_plan)
    path = tmp_path / "slim.onnx"
    export(thin, inputs, path, opset=20)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for _ in range(3):
        sample = tuple(torch.randn_like(x) for x in inputs)
        (got,) = session.run(
            None, {v.name: x.numpy() for v, x in zip(session.get_inputs(), sample, strict=True)}
        )
        with torch.inference_mode():
            np.testing.assert_allclose(got, thin(*sample).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 15, 16])
def test_extreme_widths(build, groups_of, make_plan, width: int) -> None:
    model, inputs = build("residual")
    plan = make_plan(groups_of("residual"), {"stem": width, "a1": width})
    thin = shrink(model, inputs, plan)
    assert widths(thin, ("stem", "a1", "a2")) == {"stem": width, "a1": width, "a2": width}


def test_shrinking_leaves_the_dense_model_alone(build, groups_of, make_plan) -> None:
    model, inputs = build("plain")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shrink(model, inputs, make_plan(groups_of("plain"), {"conv1": 4}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def altered(plan, group: str, **fields: object):
    changed = plan.groups[group].model_copy(update=fields)
    return plan.model_copy(update={"groups": {**plan.groups, group: changed}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"before": 17}, "made for 17 channels, the model has 16"),
        ({"after": 5}, "4 channels kept, width 5"),
        ({"kept": (0, 1, 2, 2)}, "4 channels kept"),
        ({"kept": (), "after": 0}, "0 channels kept"),
        ({"kept": (1, 2, 3, 16)}, r"keeps a channel outside 0\.\.15"),
        ({"kept": (-1, 2, 3, 5)}, "keeps a channel outside"),
    ],
)
def test_plans_that_do_not_fit_are_refused(build, groups_of, make_plan, fields, message) -> None:
    model, inputs = build("plain")
    plan = altered(make_plan(groups_of("plain"), {"conv1": 4}), "conv1", **fields)
    with pytest.raises(InternalCheckError, match=message):
        shrink(model, inputs, plan)


@pytest.mark.parametrize("layer", ["nowhere", "bn", "a2"])
def test_plans_for_what_is_no_group_are_refused(build, groups_of, make_plan, layer: str) -> None:
    model, inputs = build("residual")
    plan = make_plan(groups_of("residual"), {"a1": 4})
    alien = PlannedGroup(before=16, after=4, kept=(0, 1, 2, 3), criterion="l2")
    with pytest.raises(InternalCheckError, match=layer):
        shrink(model, inputs, plan.model_copy(update={"groups": {**plan.groups, layer: alien}}))


def test_a_plan_that_cuts_the_output_is_refused(build, groups_of, make_plan) -> None:
    model, inputs = build("residual")
    plan = make_plan(groups_of("residual"), {"a1": 4})
    alien = PlannedGroup(before=10, after=4, kept=(0, 1, 2, 3), criterion="l2")
    with pytest.raises(InternalCheckError, match=r"output has shape \(1, 4\), not \(1, 10\)"):
        shrink(model, inputs, plan.model_copy(update={"groups": {"head": alien}}))


@pytest.mark.parametrize("fault", ["width", "weight", "output", "nan", "shape", "replay"])
def test_a_cut_that_breaks_its_promise_is_found(
    build, groups_of, make_plan, monkeypatch, fault: str
) -> None:
    model, inputs = build("plain")
    plan = make_plan(groups_of("plain"), {"conv1": 8})
    real, calls = module.groups.cut, []

    def wrong(*arguments):
        slim = real(*arguments)
        calls.append(slim)
        with torch.no_grad():
            if fault == "width":
                return real(model, inputs, {"conv1": range(9)})
            if fault == "weight":
                slim.conv2.weight[0, 0, 0, 0] += 3.0
            if fault == "output":
                slim.head.bias += 0.05
            if fault == "nan":
                slim.head.bias[0] = torch.nan
            if fault == "shape":
                slim.head = nn.Linear(24, 9)
            if fault == "replay":
                slim.bn1.weight += 1e-6 * len(calls)
        return slim

    monkeypatch.setattr(module.groups, "cut", wrong)
    with pytest.raises(InternalCheckError):
        shrink(model, inputs, plan)


def test_faults_that_only_other_samples_show_are_found(
    build, groups_of, make_plan, monkeypatch
) -> None:
    model, inputs = build("plain")
    plan = make_plan(groups_of("plain"), {"conv1": 8})
    real = module.groups.cut

    class Conditional(nn.Module):
        """Wrong for every input but the example."""

        def forward(self, x):
            return x if x.shape[0] == 1 else x + 1.0

    def wrong(*arguments):
        slim = real(*arguments)
        slim.flatten = nn.Sequential(slim.flatten, Conditional())
        return slim

    monkeypatch.setattr(module.groups, "cut", wrong)
    assert shrink(model, inputs, plan) is not None
    with pytest.raises(InternalCheckError, match="differs from the masked model"):
        shrink(model, inputs, plan, [(torch.randn(2, 3, 8, 8),)])


def test_weights_of_another_width_do_not_fit_a_rebuilt_model(build, groups_of, make_plan) -> None:
    model, inputs = build("plain")
    state = shrink(model, inputs, make_plan(groups_of("plain"), {"conv1": 8})).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        rebuild(model, inputs, make_plan(groups_of("plain"), {"conv1": 7}), state)
