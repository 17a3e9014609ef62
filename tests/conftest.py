"""Small real models, devices and plans that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from edgeprune.devices.local import LocalDevice
from edgeprune.devices.simulated import SimulatedDevice
from edgeprune.devices.spec import load_spec
from edgeprune.export.onnx_graph import export
from edgeprune.pruning.groups import find_groups
from edgeprune.records import DeviceSpec, GroupList, PlannedGroup, Simulation, WidthPlan

Inputs = tuple[Tensor, ...]
Build = Callable[[], tuple[nn.Module, Inputs]]

torch.set_num_threads(1)
hypothesis.settings.register_profile("edgeprune", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("edgeprune")


class Plain(nn.Module):
    """conv - bn - relu - conv - bn - relu - pool - linear."""

    def __init__(self, widths: tuple[int, int] = (16, 24), size: int = 8) -> None:
        super().__init__()
        a, b = widths
        self.conv1, self.bn1, self.relu1 = (
            nn.Conv2d(3, a, 3, padding=1),
            nn.BatchNorm2d(a),
            nn.ReLU(),
        )
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.head(self.flatten(self.pool(x)))


class Residual(nn.Module):
    """A stem, one block with an identity skip and one with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a1, self.a1_bn = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a2, self.a2_bn = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b1, self.b1_bn = nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        self.b2, self.b2_bn = nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.project, self.project_bn = nn.Conv2d(16, 24, 1, 2, bias=False), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = (self.a2_bn(self.a2(self.a1_bn(self.a1(x)).relu())) + x).relu()
        x = (
            self.b2_bn(self.b2(self.b1_bn(self.b1(x)).relu())) + self.project_bn(self.project(x))
        ).relu()
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Two branches side by side, then a convolution over both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.bn = nn.BatchNorm2d(24)
        self.both, self.head = nn.Conv2d(24, 16, 3, padding=1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(torch.cat([self.left(x).relu(), self.right(x).relu()], dim=1))
        return self.head(self.both(x).relu().mean((2, 3)))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False)
        self.deep_bn = nn.BatchNorm2d(16)
        self.point, self.point_bn = nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.stem_bn(self.stem(x)))
        x = nn.functional.relu6(self.deep_bn(self.deep(x)))
        return self.head(nn.functional.relu6(self.point_bn(self.point(x))).mean((2, 3)))


class Attended(nn.Module):
    """A sigmoid right behind a convolution: channels that are 0 become 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.sigmoid(self.conv(x))).relu().mean((2, 3)))


class Shuffled(nn.Module):
    """A channel shuffle as in ShuffleNet: view, transpose, reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after, self.head = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 8, 1),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.after(x).relu().mean((2, 3)))


class Tokens(nn.Module):
    """Two equal linear layers over different numbers of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.two = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.embed(x).relu()).relu()
        return self.head(self.two(x[:, :4]).relu().mean(1))


class Transformed(nn.Module):
    """A small decoder with transposed convolutions; its output is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 2, 1)
        self.up, self.up_bn = nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8)
        self.out = nn.ConvTranspose2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up_bn(self.up(self.conv(x).relu())).relu())


def _image(size: int = 8) -> Inputs:
    return (torch.randn(1, 3, size, size),)


def _chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _flattened() -> nn.Module:
    return _chain(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 16, 24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def _grouped() -> nn.Module:
    return _chain(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(),
        nn.Conv2d(16, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def _sequence() -> nn.Module:
    return _chain(
        nn.Conv1d(4, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 3),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def _prelu(parameters: int) -> nn.Module:
    return _chain(
        nn.Conv2d(3, 16, 3), nn.PReLU(parameters), nn.Conv2d(16, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


BUILDERS: dict[str, Build] = {
    "plain": lambda: (Plain(), _image()),
    "residual": lambda: (Residual(), _image()),
    "concat": lambda: (Concat(), _image()),
    "separable": lambda: (Separable(), _image()),
    "mlp": lambda: (
        _chain(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)),
        (torch.randn(1, 20),),
    ),
    "conv1d": lambda: (_sequence(), (torch.randn(1, 4, 32),)),
    "flattened": lambda: (_flattened(), _image()),
    "decoder": lambda: (Transformed(), _image()),
    "sigmoid": lambda: (Attended(), _image()),
    "grouped": lambda: (_grouped(), _image()),
    "shuffled": lambda: (Shuffled(), _image()),
    "tokens": lambda: (Tokens(), (torch.randn(1, 16, 12),)),
    "prelu": lambda: (_prelu(1), _image()),
    "prelu_channels": lambda: (_prelu(16), _image()),
}


@cache
def _built(name: str) -> tuple[nn.Module, Inputs]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model, inputs = BUILDERS[name]()
        for (
            module
        ) in model.modules():  # statistics as after training, not those of a fresh BatchNorm
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
                nn.init.normal_(module.running_mean, 0.0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval(), inputs


@cache
def _groups_of(name: str) -> GroupList:
    return find_groups(*_built(name))


@pytest.fixture(scope="session")
def build() -> Callable[[str], tuple[nn.Module, Inputs]]:
    """Name -> (model in eval mode, example inputs). Shared: copy a model before changing it."""
    return _built


@pytest.fixture(scope="session")
def groups_of() -> Callable[[str], GroupList]:
    """Name -> the model's groups, found once."""
    return _groups_of


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name -> the model's ONNX file, exported once."""
    folder = tmp_path_factory.mktemp("exported")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            export(*_built(name), path, opset=20)
        return path

    return path_of


@pytest.fixture
def make_plan() -> Callable[..., WidthPlan]:
    """(model groups, width of each cut group) -> a plan that keeps the channels of highest index.

    Where channels go in bundles, whole bundles are kept, as many as the width holds.
    """

    def plan(groups: GroupList, widths: dict[str, int]) -> WidthPlan:
        planned = {}
        for group in groups.groups:
            if group.name in widths:
                count = max(1 if group.divisor == 1 else 2, widths[group.name] // group.divisor)
                kept = sorted(channel for bundle in group.bundles()[-count:] for channel in bundle)
                planned[group.name] = PlannedGroup(
                    before=group.width, after=len(kept), kept=tuple(kept), criterion="l2"
                )
        assert planned.keys() == widths.keys()
        return WidthPlan(
            groups=planned, budget=1.0, unit="us", predicted=1.0, predicted_error=0.0, corrected=1.0,
            gap=0.0, loss=0.0,
        )  # fmt: skip

    return plan


@pytest.fixture
def simulated() -> Callable[..., SimulatedDevice]:
    """Fields of Simulation -> a simulated device; exact unless noise is asked for."""

    def device(**fields: float) -> SimulatedDevice:
        simulation = Simulation.model_validate(fields)
        spec = load_spec("simulated").model_copy(update={"simulation": simulation})
        return SimulatedDevice(spec)

    return device


@pytest.fixture(scope="session")
def local_spec() -> DeviceSpec:
    """The profile of this machine as a device."""
    return load_spec("mobile_cpu")


@pytest.fixture(scope="session")
def local(local_spec: DeviceSpec) -> LocalDevice:
    """This machine through the real worker."""
    return LocalDevice(local_spec)
