"""Episodes of gymnasium's CartPole-v1, played greedily."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import Tensor, nn

LONGEST = 500  # steps of an episode of CartPole-v1


def arena(count: int) -> CartPoleVectorEnv:
    """Return `count` environments that are stepped together."""
    return CartPoleVectorEnv(count, max_episode_steps=LONGEST)


def returns(policy: nn.Module, episodes: int = 100, seed: int = 1000) -> Tensor:
    """Return the returns [episodes] of the greedy policy; the same seed gives the same episodes."""
    environment = arena(episodes)
    state, _ = environment.reset(seed=seed)
    alive, total = np.ones(episodes, dtype=bool), np.zeros(episodes)
    while alive.any():
        state, reward, terminated, truncated, _ = environment.step(_greedy(policy, state))
        total += reward * alive
        alive &= ~(terminated | truncated)
    return torch.from_numpy(total)


def visited(policy: nn.Module, steps: int, *, noise: float, seed: int) -> Tensor:
    """Return states [steps, 4] on the way of the policy when a share of actions is drawn."""
    random, environment = np.random.default_rng(seed), arena(16)
    state, _ = environment.reset(seed=seed)
    seen = []
    for _ in range(-(-steps // 16)):
        seen.append(torch.from_numpy(state))
        action = _greedy(policy, state)
        drawn = random.random(16) < noise
        action[drawn] = random.integers(0, 2, int(drawn.sum()))
        state, *_ = environment.step(action)
    return torch.cat(seen)[:steps]


def _greedy(policy: nn.Module, state: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return policy(torch.from_numpy(state)).argmax(1).numpy()  # type: ignore[no-any-return]


def version() -> str:
    """Return the version of gymnasium."""
    return gymnasium.__version__
