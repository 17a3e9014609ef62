"""Train actor and critic, and write dense.safetensors and states.safetensors.

    .venv/bin/pip install -c constraints.txt -e '.[examples]'
    .venv/bin/python examples/cartpole/train.py        (half a minute on one core)

Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with generalised advantages (arXiv
1506.02438) in 16 environments. Training ends when 100 greedy episodes of seeds that no table uses
have a mean return of 499 or more twice in a row.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from model import ActorCritic, Policy
from play import arena, returns, visited

COPIES, STEPS, EPOCHS, BATCH = 16, 128, 6, 256
GAMMA, LAMBDA, CLIP, ENTROPY, RATE = 0.99, 0.95, 0.2, 0.01, 1e-3
STATES = 12_000
ENOUGH = 499.0


def rollout(model: ActorCritic, environment, state) -> tuple[dict[str, Tensor], object]:  # type: ignore[no-untyped-def]
    """Play STEPS steps; return what was seen, with advantages, and the next state."""
    rows: dict[str, list[Tensor]] = {}
    over = torch.zeros(COPIES, dtype=torch.bool)
    for _ in range(STEPS):
        seen = torch.from_numpy(state)
        with torch.no_grad():
            logits, value = model(seen)
        chosen = torch.distributions.Categorical(logits=logits)
        action = chosen.sample()
        state, reward, terminated, truncated, _ = environment.step(action.numpy())
        with torch.no_grad():
            after = model(torch.from_numpy(state))[1]
        ended = torch.from_numpy(terminated)
        row = {
            "state": seen, "action": action, "log": chosen.log_prob(action), "value": value,
            "reward": torch.from_numpy(reward).float(), "next": after * ~ended,
            "done": ended | torch.from_numpy(truncated), "real": ~over,
        }  # fmt: skip
        over = row["done"]  # the step that follows only resets
        for name, tensor in row.items():
            rows.setdefault(name, []).append(tensor)
    found = {name: torch.stack(parts) for name, parts in rows.items()}
    advantage, ahead = torch.zeros(STEPS, COPIES), torch.zeros(COPIES)
    for t in reversed(range(STEPS)):
        delta = found["reward"][t] + GAMMA * found["next"][t] - found["value"][t]
        ahead = delta + GAMMA * LAMBDA * ahead * ~found["done"][t]
        advantage[t] = ahead
    found["advantage"], found["wanted"] = advantage, advantage + found["value"]
    real = found["real"].flatten()
    return {name: tensor.flatten(0, 1)[real] for name, tensor in found.items()}, state


def learn(model: ActorCritic, optimizer: torch.optim.Optimizer, seen: dict[str, Tensor]) -> None:
    """Improve the model on one rollout."""
    for _ in range(EPOCHS):
        for index in torch.randperm(len(seen["action"])).split(BATCH):
            logits, value = model(seen["state"][index])
            chosen = torch.distributions.Categorical(logits=logits)
            ratio = (chosen.log_prob(seen["action"][index]) - seen["log"][index]).exp()
            gain = seen["advantage"][index]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            clipped = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            error = (value - seen["wanted"][index]).square().mean()
            loss = 0.5 * error / 100 - clipped.mean() - ENTROPY * chosen.entropy().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()


def train(seed: int, updates: int) -> tuple[ActorCritic, float]:
    """Return the trained model and the mean return that ended training."""
    torch.manual_seed(seed)
    model, environment = ActorCritic(), arena(COPIES)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    state, _ = environment.reset(seed=seed)
    started, before, mean = time.monotonic(), 0.0, 0.0
    for update in range(1, updates + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - (update - 1) / updates)
        seen, state = rollout(model, environment, state)
        learn(model, optimizer, seen)
        if update % 10 == 0:
            copy = ActorCritic()
            copy.load_state_dict(model.state_dict())
            before, mean = mean, float(returns(Policy(copy).eval(), seed=seed).mean())
            seconds = time.monotonic() - started
            print(f"update {update}: mean return {mean:.1f}, {seconds:.0f} s", flush=True)
            if min(before, mean) >= ENOUGH:
                break
    return model.eval(), mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, mean = train(arguments.seed, arguments.updates)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    facts = {"mean_return": f"{mean:.1f}", "licence": "Apache-2.0"}
    save_file(state, arguments.out / "dense.safetensors", metadata=facts)
    copy = ActorCritic()
    copy.load_state_dict(state)
    policy = Policy(copy).eval()
    seen = visited(policy, STATES, noise=0.3, seed=arguments.seed)
    save_file({"states": seen}, arguments.out / "states.safetensors")
    print(f"mean return {mean:.1f}: {arguments.out / 'dense.safetensors'}")


if __name__ == "__main__":
    main()
