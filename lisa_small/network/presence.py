"""Whether something can be seen at all, for the next token's logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lisa_ros.lisa.model.lisa import Lisa


def presence_of(lisa: Lisa) -> Presence | None:
    """The presence of a demo model; None for a LISA without one. Raises TypeError for a module of another kind."""
    if lisa.presence is None or isinstance(lisa.presence, Presence):
        return lisa.presence
    raise TypeError(f"this LISA has a {type(lisa.presence).__name__} in the place of the demo model's presence")


class Presence(nn.Module):
    """Whether what a state is about can be seen: its best match among the image tokens.

    Plain attention averages over the image, and a small language model learns from averages only slowly that a thing
    is nowhere. The largest match does not average. Released LISAs have no such part.
    """

    def __init__(self, hidden_size: int, vocabulary: int):
        super().__init__()
        self.query = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(inplace=True), nn.Linear(hidden_size, hidden_size)
        )
        self.threshold = nn.Parameter(torch.zeros(1))
        self.tokens = nn.Parameter(torch.zeros(vocabulary))

    def match(self, hidden: Tensor, image_tokens: Tensor) -> Tensor:
        """States (L, H) about an image (K, H) to (L,): the more above 0, the surer that it is there."""
        match = self.query(hidden) @ image_tokens.to(hidden.dtype).T
        return match.amax(dim=1) / hidden.shape[1] ** 0.5 - self.threshold

    def forward(self, hidden: Tensor, image_tokens: Tensor) -> Tensor:
        """(L, H) and (K, H) to what it adds to the logits, (L, V)."""
        return self.match(hidden, image_tokens)[:, None] * self.tokens
