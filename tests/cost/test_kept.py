"""Prices kept from job to job: found again, scaled, refused, and thrown away."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from edgeprune.cost.kept import PriceStore, default_folder
from edgeprune.cost.probes import _agreed
from edgeprune.cost.table import build_table
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.errors import DeviceError
from edgeprune.export.segments import read_graph
from edgeprune.profiler.layers import profile_model
from edgeprune.records import CostTable, Environment, ProbeCost


@pytest.fixture
def priced(exported, groups_of, tmp_path):
    def build(device: SimulatedDevice, name: str = "plain", **options: object) -> CostTable:
        path = exported(name)
        profile = profile_model(device, path, name=name)
        return build_table(
            device, read_graph(path), groups_of(name).groups, profile,
            prices=tmp_path / "prices", **options,
        )  # fmt: skip

    return build


class Throttled:
    """The same device, whose clock now runs at another speed without saying so."""

    def __init__(self, device: SimulatedDevice, factor: float) -> None:
        self.device, self.spec, self.factor = device, device.spec, factor

    def ask(self, request):  # type: ignore[no-untyped-def]
        answer = self.device.ask(request)

        def scaled(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(self.factor * value for value in values)

        models = tuple(
            model.model_copy(
                update={
                    "values": scaled(model.values),
                    "runs": scaled(model.runs),
                    "nodes": tuple(
                        node.model_copy(update={"values": scaled(node.values)})
                        for node in model.nodes
                    ),
                }
            )
            for model in answer.models
        )
        return answer.model_copy(update={"models": models})


class FreeConvolutions:
    """A device whose clock tells no cost of the layers it prices but the last one's."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.device, self.spec = device, device.spec

    def ask(self, request):  # type: ignore[no-untyped-def]
        answer = self.device.ask(request)
        if not request.joined:
            return answer
        models = tuple(
            model.model_copy(
                update={
                    "nodes": tuple(
                        node
                        if node.operator == "Gemm"
                        else node.model_copy(update={"values": tuple(0.0 for _ in node.values)})
                        for node in model.nodes
                    )
                }
            )
            for model in answer.models
        )
        return answer.model_copy(update={"models": models})


def costs(table: CostTable) -> dict[tuple[str, int, int], float]:
    return {(p.layer, p.width_in, p.width_out): p.cost for p in table.prices}


def test_a_second_job_measures_a_few_anchors_only(priced, simulated) -> None:
    first = priced(simulated())
    second = priced(simulated())
    assert costs(second) == pytest.approx(costs(first))
    assert second.widths == first.widths
    assert second.probes < 0.5 * first.probes


def test_a_device_that_got_slower_scales_what_is_kept(priced, simulated) -> None:
    first = priced(simulated())
    slower = priced(Throttled(simulated(), 1.7))
    assert slower.probes < first.probes
    scaled = {key: 1.7 * cost for key, cost in costs(first).items()}
    assert costs(slower) == pytest.approx(scaled)


def test_another_environment_finds_nothing(priced, simulated) -> None:
    first, other = priced(simulated(step=8)), priced(simulated(step=4))
    assert other.probes >= 0.9 * first.probes
    fresh = priced(simulated(step=4))
    assert costs(fresh) == pytest.approx(costs(other))


class Broken:
    """A device that counts exactly, and is lost after some answers about layers."""

    def __init__(self, device: SimulatedDevice, answers: float) -> None:
        self.device, self.answers, self.asked = device, answers, 0
        self.spec = device.spec.model_copy(update={"figure": "emulated"})

    def ask(self, request):  # type: ignore[no-untyped-def]
        if request.task == "layers" and request.joined:
            if self.asked == self.answers:
                raise DeviceError("lost")
            self.asked += 1
        return self.device.ask(request)


def test_exact_prices_taken_before_a_device_was_lost_are_kept(
    exported, groups_of, simulated, tmp_path: Path
) -> None:
    path = exported("plain")
    profile = profile_model(simulated(), path, name="plain")

    def build(answers: float, folder: str) -> tuple[CostTable, int]:
        device = Broken(simulated(), answers)
        graph, groups = read_graph(path), groups_of("plain").groups
        return build_table(device, graph, groups, profile, prices=tmp_path / folder), device.asked

    whole, asked = build(math.inf, "other")
    assert asked > 2
    with pytest.raises(DeviceError, match="lost"):
        build(asked - 1, "prices")
    table, rest = build(math.inf, "prices")
    assert costs(table) == costs(whole)
    assert rest <= 2


def test_prices_that_do_not_agree_on_the_speed_are_measured_anew() -> None:
    assert _agreed([]) == 1.0
    assert _agreed([1.1, 1.12, 1.09, 2.0]) == pytest.approx(1.11)
    assert _agreed([1.0, 1.5, 0.7, 2.0]) is None
    assert _agreed([0.0, 0.0, 0.0, 0.0]) is None


def test_a_file_that_was_moved_is_refused(tmp_path: Path) -> None:
    def store(version: str) -> PriceStore:
        environment = Environment(facts={"onnxruntime": version}, comparable=("onnxruntime",))
        return PriceStore(tmp_path, "board/1", "float32", environment)

    old, new = store("1.30"), store("1.31")
    one, two, three, four = (
        ProbeCost(cost=cost, before=0.5, operators=("Conv",)) for cost in (1.0, 2.0, 3.0, 4.0)
    )
    old.save("stairs", {"a": one})
    old.save("prices", {"a": two, "b": three})
    old.save("prices", {"b": four})
    assert (old.load("stairs"), old.load("prices")) == ({"a": one}, {"a": two, "b": four})
    assert new.load("prices") == {}
    assert new.path != old.path
    assert new.path.parent == tmp_path / "board_1"
    old.path.rename(new.path)
    with pytest.raises(DeviceError, match=r"onnxruntime: 1\.30 against 1\.31"):
        new.load("prices")
    new.path.write_text("{}")
    assert new.load("prices") == {}


@pytest.mark.parametrize("cost", ["-1.0", "1e308", "NaN"])
def test_prices_that_cannot_be_are_measured_again(tmp_path: Path, cost: str) -> None:
    environment = Environment(facts={"onnxruntime": "1.31"}, comparable=("onnxruntime",))
    store = PriceStore(tmp_path, "board", "float32", environment)
    store.save("prices", {"a": ProbeCost(cost=1.0, operators=("Conv",))})
    assert store.load("prices")
    text = store.path.read_text()
    store.path.write_text(text.replace('"cost":1.0', f'"cost":{cost}'))
    assert store.path.read_text() != text
    assert store.load("prices") == {}


def test_kept_prices_of_nothing_are_measured_again(priced, simulated, tmp_path: Path) -> None:
    """No speed of the device can be told from them."""
    first = priced(simulated())
    (path,) = tmp_path.glob("prices/*/*.json")
    path.write_text(re.sub(r'"cost":[\d.]+', '"cost":0.0', path.read_text()))
    again = priced(simulated())
    assert (costs(again), again.probes) == (costs(first), first.probes)


def test_layers_that_are_free_are_priced_so(priced, simulated) -> None:
    """Their cost may be below the device's clock."""
    table = priced(FreeConvolutions(simulated()))
    assert 0.0 in costs(table).values()
    assert costs(priced(FreeConvolutions(simulated()))) == costs(table)


@pytest.mark.parametrize("place", ["device", "file"])
def test_prices_that_cannot_be_kept_are_told_once(
    priced, simulated, tmp_path: Path, place: str
) -> None:
    first = priced(simulated())
    (path,) = tmp_path.glob("prices/*/*.json")
    path.unlink()
    if place == "file":
        path.mkdir()
    else:
        path.parent.rmdir()
        path.parent.touch()
    told: list[str] = []
    assert costs(priced(simulated(), warn=told.append)) == costs(first)
    (line,) = told
    assert line.startswith(f"not all is kept for later jobs: cannot write {path}")
    assert line.endswith("; EDGEPRUNE_PRICES may name another folder")


def test_where_prices_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGEPRUNE_PRICES", raising=False)
    assert default_folder() == tmp_path / "edgeprune" / "prices"
    monkeypatch.setenv("EDGEPRUNE_PRICES", "profiles")
    assert default_folder() == Path("profiles")


def test_a_device_that_answers_with_another_runtime_is_refused(
    exported, groups_of, simulated
) -> None:
    path = exported("plain")
    profile = profile_model(simulated(step=8), path, name="plain")
    with pytest.raises(DeviceError, match="another environment than the profile"):
        build_table(simulated(step=4), read_graph(path), groups_of("plain").groups, profile)
