"""Networks with branches that can be removed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Skipped(nn.Module):
    """A branch beside a skip connection of 16 x 8 x 8; what is skipped is added once more later."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.b, self.c = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = x + self.b(self.a(x).relu())
        return self.head((self.c(y).relu() + x).mean((2, 3)))


class Normalised(nn.Module):
    """A branch of 16 tokens of 32 channels beside 16 of 16, LayerNorm before or behind it."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 10)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        if self.first:
            x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        else:
            x = x + self.norm(self.down(self.up(x).relu()))
        return self.head(x.mean(1))


class Branched(nn.Module):
    """A branch that ends in a bias and a BatchNorm of the width of the skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.b, self.norm = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.norm(self.b(self.a(x).relu()))).relu().mean((2, 3)))


class Attentive(nn.Module):
    """Attention that three projections feed, then a pair of linear layers; both may go."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.embed, self.head = 4, nn.Linear(12, 32), nn.Linear(32, 10)
        self.before, self.between = nn.LayerNorm(32), nn.LayerNorm(32)
        nn.init.normal_(self.between.weight)  # a file holds equal weights once
        nn.init.normal_(self.between.bias)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.join, self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.before(x)
        q, k, v = (
            f(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scores = ((q @ k.transpose(2, 3)) * 8**-0.5).softmax(-1)
        x = x + self.join((scores @ v).transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.between(x))))
        return self.head(x.mean(1))
