"""Actor and critic for CartPole: a shared trunk with two heads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("dense.safetensors")
STATE, ACTIONS, WIDTH = 4, 2, 128


class ActorCritic(nn.Module):
    """Two hidden layers that both heads share; `scale` brings the state's entries to one size.

    Args:
        width: units of each hidden layer.
    """

    scale: Tensor

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.4, 3.0, 0.21, 3.0]))
        self.trunk = nn.Sequential(
            nn.Linear(STATE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.policy = nn.Linear(width, ACTIONS)
        self.value = nn.Linear(width, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits of the actions [N, 2], value [N]) of states [N, 4]."""
        hidden = self.trunk(state / self.scale)
        return self.policy(hidden), self.value(hidden).squeeze(-1)


class Policy(nn.Module):
    """What acts: trunk and policy head. The critic is needed for training alone."""

    def __init__(self, both: ActorCritic) -> None:
        super().__init__()
        self.trunk, self.policy = both.trunk, both.policy
        first = self.trunk[0]
        with torch.no_grad():
            first.weight.div_(both.scale)  # the scale of the state becomes part of the weights

    def forward(self, state: Tensor) -> Tensor:
        return self.policy(self.trunk(state))  # type: ignore[no-any-return]


def dense(path: Path = WEIGHTS) -> ActorCritic:
    """Return the trained actor and critic."""
    model = ActorCritic()
    model.load_state_dict(load_file(path))
    return model.eval()


def policy() -> nn.Module:
    """Return the trained policy; the critic stays behind."""
    return Policy(dense()).eval()
