"""A character language model: embedding, two LSTM layers, decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHARACTERS = 96


class LanguageModel(nn.Module):
    """Predicts the next character at every position (LSTM: Hochreiter and Schmidhuber 1997).

    The two LSTM layers are modules of their own, so that each can have its own hidden size.

    Args:
        embedding: size of a character's vector.
        hidden: hidden units of each LSTM layer.
        dropout: share of activations dropped between the layers while training.
    """

    def __init__(self, embedding: int = 48, hidden: int = 192, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, embedding)
        self.lstm1 = nn.LSTM(embedding, hidden, batch_first=True)
        self.lstm2 = nn.LSTM(hidden, hidden, batch_first=True)
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden, CHARACTERS)

    def forward(self, characters: Tensor) -> Tensor:
        """Return logits [N, 96, T] for characters [N, T]; each window starts from a zero state."""
        hidden, _ = self.lstm1(self.embedding(characters))
        hidden, _ = self.lstm2(self.drop1(hidden))
        return self.decoder(self.drop2(hidden)).transpose(1, 2)  # type: ignore[no-any-return]


def build() -> nn.Module:
    """Return the network in eval mode with untrained weights; the job adds `dense.safetensors`."""
    torch.manual_seed(0)
    return LanguageModel().eval()
