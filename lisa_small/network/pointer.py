"""Proposals as words of the demo model: the embedding of ``[SEG]`` points at one of them.

A demo model says where a mask is by a prompt of the mask decoder. The proposer ``drawn`` has such a prompt for each
proposal, so their distance tells which proposal is meant, before any training. The probability of ``[SEG]`` is shared
out among the proposals; the sum of all words stays as it was.

Shapes: L states, N proposals, C channels of a prompt, H hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PLACE = 6
"""Numbers of a proposal's place, see ``lisa_small.network.proposals.places_of``."""

SHARPNESS = 0.1
"""Before training: by how much the score falls with half the squared distance of two prompts."""


class Pointer(nn.Module):
    """What a proposal is to the language model: a row of the word table, and a share of ``[SEG]``.

    Args:
        channels: C.
        hidden_size: H.
        inner_size: Width between the two layers of the rows.
    """

    def __init__(self, channels: int, hidden_size: int, inner_size: int = 192):
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        last = nn.Linear(inner_size, hidden_size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.row = nn.Sequential(nn.Linear(channels + PLACE, inner_size), nn.GELU(), last)

    def rows(self, prompts: Tensor, places: Tensor) -> Tensor:
        """What is added to the row of ``[SEG]``: prompts (N, C) and places (N, 6) to (N, H)."""
        return self.row(torch.cat([prompts, places], dim=1))

    def shares(self, embeddings: Tensor, prompts: Tensor) -> Tensor:
        """Logarithms of the shares of ``[SEG]``: its embeddings (L, C) and prompts (N, C) to (L, N)."""
        scores = embeddings @ prompts.T - prompts.square().sum(1) / 2
        return (self.log_sharpness.exp() * scores).log_softmax(dim=1)
