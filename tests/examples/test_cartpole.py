from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from edgeprune import pipeline
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.job import load_job
from edgeprune.records import Simulation
from edgeprune.report.console import Console

FOLDER = Path(__file__).resolve().parents[2] / "examples/cartpole"
OWN = ("model", "data", "play", "train", "compare")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Name -> module of the example; other examples have modules of the same names."""
    import importlib

    monkeypatch.syspath_prepend(str(FOLDER))
    before = {name: sys.modules.pop(name) for name in OWN if name in sys.modules}

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in OWN:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_the_job_opens_with_its_command() -> None:
    text = (FOLDER / "job.toml").read_text()
    assert text.startswith("# edgeprune run examples/cartpole/job.toml --device cortex_m4\n")
    assert load_job(FOLDER / "job.toml").name == "cartpole"


def test_the_policy_is_the_actor_of_both(load) -> None:  # type: ignore[no-untyped-def]
    module = load("model")
    both, policy = module.dense(), module.policy()
    states = torch.randn(50, 4)
    with torch.inference_mode():
        assert torch.allclose(policy(states), both(states)[0], atol=1e-4)
    assert sum(p.numel() for p in policy.parameters()) == 4 * 128 + 128 + 128 * 129 + 2 * 129


def test_the_data_agrees_with_the_dense_policy_and_parts_are_apart(load) -> None:  # type: ignore[no-untyped-def]
    data, policy = load("data").load(), load("model").policy()
    seen: set[tuple[float, ...]] = set()
    for part in (data.train, data.validation, data.test):
        states = torch.cat([x for x, _ in part])
        rows = set(map(tuple, states.tolist()))
        assert not rows & seen
        seen |= rows
        with torch.inference_mode():
            assert torch.equal(policy(states).argmax(1), torch.cat([y for _, y in part]))
    assert len(seen) == 12_000


def test_episodes_repeat_and_a_blind_policy_falls(load) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("gymnasium")
    play = load("play")
    blind = torch.nn.Linear(4, 2)
    with torch.no_grad():
        blind.weight.zero_()
        blind.bias.copy_(torch.tensor([1.0, 0.0]))
    first, second = (play.returns(blind, 20, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert 8 <= float(first.mean()) <= 11  # always to the left: about nine steps


def test_the_dense_policy_balances(load) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("gymnasium")
    found = load("play").returns(load("model").policy(), 100, seed=1000)
    assert len(found) == 100
    assert float(found.mean()) >= 475


def test_a_cut_policy_is_narrower_everywhere(load) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("gymnasium")
    compare = load("compare")
    data, policy = load("data").load(), load("model").policy()
    slim = compare.cut(policy, data, "l1", 0.25)
    assert compare._widths(slim) == (96, 96)


def test_the_job_runs_on_the_simulated_device(tmp_path: Path) -> None:
    job = load_job(FOLDER / "job.toml")
    job = job.model_copy(update={"recover": job.recover.model_copy(update={"steps": 60})})
    model, data = pipeline.load(job, FOLDER)
    simulation = Simulation(macs_per_us=100.0, overhead_us=0.1)  # layers this small, not the calls
    spec = load_spec("simulated").model_copy(update={"simulation": simulation})
    result = pipeline.run(
        job,
        model,
        data,
        SimulatedDevice(spec),
        tmp_path / "out",
        console=Console(quiet=True),
    )
    gates = {gate.name: gate.met for gate in result.verdict.gates}
    assert gates["parity"]
    assert gates["budget"]
    assert result.verdict.metric == "agreement"
    assert result.verdict.dense.accuracy == 1.0
    assert math.isfinite(result.verdict.slim.accuracy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_ends_with_a_policy_that_balances(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("gymnasium")
    command = [sys.executable, str(FOLDER / "train.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=850)
    module = load("model")
    policy = module.Policy(module.dense(tmp_path / "dense.safetensors")).eval()
    assert float(load("play").returns(policy, 100, seed=1000).mean()) >= 475
    assert len(load_file(tmp_path / "states.safetensors")["states"]) == 12_000
