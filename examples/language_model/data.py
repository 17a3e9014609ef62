"""English text that every Python installation holds: the language reference behind `help()`.

`pydoc_data/topics.py` (Python Software Foundation License) is read as 96 characters: printable
ASCII and the line feed. The text is split by position into 90, 5 and 5 %. A paragraph that several
topics share is kept once, and one that shares 60 characters in a row with earlier text
is left out of validation and test, so that nothing of them was seen before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pydoc_data import topics

import torch
from torch import Tensor

from edgeprune import Data

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
ASCII = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2026", "''\"\"--.")
WINDOW = 64  # characters in, and predicted
SHARES = (0.90, 0.05)  # of train and validation; the rest is test
REPEATED = 60  # characters in a row that held-out text may not share with earlier text
CALIBRATION = 512  # windows, spread over the training text


def negative_log_perplexity(output: Tensor, target: Tensor) -> float:
    """Return minus the mean cross-entropy in nats of output [N, 96, T] against target [N, T].

    Higher is better; perplexity a character is exp(-this). Unlike perplexities, its means over
    batches may be averaged.
    """
    return -float(torch.nn.functional.cross_entropy(output, target))


def load(seed: int = 0) -> Data:
    """Return the data of the job.

    Args:
        seed: where the training windows begin; the split is always the same.
    """
    train, validation, test = split()
    spread = torch.linspace(0, len(train) - WINDOW - 1, CALIBRATION).long()
    return Data(
        example_inputs=train[None, :WINDOW],
        train=Windows(train, 64, seed),
        calibration=[windows(train, starts) for starts in spread.split(32)],
        validation=whole(validation),
        test=whole(test),
        metric=negative_log_perplexity,
    )


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return (characters [N, WINDOW], the characters that follow them [N, WINDOW])."""
    taken = text[starts[:, None] + torch.arange(WINDOW + 1)]
    return taken[:, :-1], taken[:, 1:]


def whole(text: Tensor, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Return all of `text`, window after window, in batches."""
    starts = torch.arange(0, len(text) - WINDOW, WINDOW)
    return [windows(text, part) for part in starts.split(size)]


class Windows:
    """Batches of training windows; every pass begins at other characters, drawn from `seed`."""

    def __init__(self, text: Tensor, size: int, seed: int = 0) -> None:
        self.text, self.size, self.seed, self.passes = text, size, seed, 0

    def __len__(self) -> int:
        return (len(self.text) // WINDOW - 1) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.passes)
        self.passes += 1
        offset = int(torch.randint(0, WINDOW, (), generator=generator))
        starts = offset + WINDOW * torch.randperm(len(self.text) // WINDOW - 1, generator=generator)
        for index in range(len(self)):
            yield windows(self.text, starts[index * self.size : (index + 1) * self.size])


@cache
def split() -> tuple[Tensor, Tensor, Tensor]:
    """Return the characters of (train, validation, test) as numbers below 96."""
    found = paragraphs()
    length = sum(map(len, found))
    parts: tuple[list[str], ...] = ([], [], [])
    seen: set[str] = set()
    position = 0
    for paragraph in found:
        share = position / length
        part = 0 if share < SHARES[0] else 1 if share < sum(SHARES) else 2
        position += len(paragraph)
        pieces = {paragraph[i : i + REPEATED] for i in range(max(1, len(paragraph) - REPEATED + 1))}
        if part == 0 or not pieces & seen:
            parts[part].append(paragraph)
        seen |= pieces
    train, validation, test = (numbers("\n".join(part)) for part in parts)
    return train, validation, test


def paragraphs() -> list[str]:
    """Return the paragraphs of all topics, by topic, each once, on one line each."""
    found: dict[str, None] = {}
    for name in sorted(topics.topics):
        for block in re.split(r"\n\s*\n", topics.topics[name].translate(ASCII)):
            if line := " ".join(block.split()):
                found.setdefault(line)
    return list(found)


def numbers(text: str) -> Tensor:
    """Return `text` as positions in CHARACTERS; what is not there becomes a question mark."""
    place = {character: index for index, character in enumerate(CHARACTERS)}
    return torch.tensor([place.get(character, place["?"]) for character in text])
