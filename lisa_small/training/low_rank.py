"""LoRA as a parametrization: a layer's ``weight`` is the sum, so whatever reads it sees what is trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W to W + B A, which begins as W (Hu et al., LoRA, 2021).

    Args:
        like: W (out, in).
        rank: Of B A.
    """

    def __init__(self, like: Tensor, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, like.shape[1]) / like.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(like.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(model: nn.Module, rank: int) -> dict[str, LowRank]:
    """Give every linear layer of ``model`` a LowRank. Returns them by the names of the layers."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    added = {}
    for name, layer in layers:
        added[name] = LowRank(layer.weight, rank)
        parametrize.register_parametrization(layer, "weight", added[name])
    return added


def named_matrices(added: dict[str, LowRank]) -> Iterator[tuple[str, nn.Parameter]]:
    """Matrices by the names that a checkpoint has for LoRA."""
    for name, low_rank in added.items():
        yield f"{name}.lora_A.weight", low_rank.down
        yield f"{name}.lora_B.weight", low_rank.up
