"""Networks with branches that can be removed."""

from __future__ import annotations

from torch import Tensor, nn


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
