"""A pointer at cells of the picture, after ClawMachine (arXiv:2406.11327), which names image tokens as words.

The state of ``[SEG]`` points at every image token with a probability: that what the cell shows is meant. The proposals
under the pointed cells are the answer. Cells are coarse, proposals have edges.

Shapes: S states, K cells, N proposals, C channels of a prompt, H hidden size, D width of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lisa_ros.engine.api import Proposals
from lisa_ros.errors import CheckpointError
from lisa_ros.extractive.choosing import Chosen
from lisa_ros.extractive.resize import square_weights
from lisa_ros.lisa.segmenter import EncodedImage
from lisa_ros.perception.packed_crops import packed

POINTED = 0.5
"""Mean probability of the cells under a proposal above which it is meant."""

FINER = 8
"""Parts along a side of a cell in which masks are measured: an antialiased resize to cells blurs over their borders."""


class CellPointer(nn.Module):
    """Compares ``[SEG]`` embeddings with image tokens.

    Args:
        channels: C.
        hidden_size: H.
        width: D.
    """

    def __init__(self, channels: int, hidden_size: int, width: int = 128):
        super().__init__()
        self.channels, self.hidden_size = channels, hidden_size
        self.query, self.key = (
            nn.Sequential(nn.Linear(size, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for size in (channels, hidden_size)
        )
        self.bias = nn.Parameter(torch.zeros(()))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CellPointer:
        """Build a pointer of any size from its tensors.

        Raises:
            CheckpointError: A tensor is missing or has another shape.
        """
        try:
            (inner, channels), (_, hidden_size) = tensors["query.0.weight"].shape, tensors["key.0.weight"].shape
            pointer = cls(channels, hidden_size, inner // 2)
            pointer.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"these tensors are no pointer at cells: {' '.join(str(error).split())}; 'recipe: choose_small' trains "
                "one"
            ) from error
        return pointer.eval().requires_grad_(False)

    def forward(self, prompts: Tensor, tokens: Tensor) -> Tensor:
        """Prompts (S, C) and image tokens (K, H) to logits (S, K)."""
        queries, keys = self.query(prompts), self.key(tokens)
        scores: Tensor = queries @ keys.T / keys.shape[1] ** 0.5 + self.bias
        return scores


class Pointing:
    """The choice among proposals by the cells that ``[SEG]`` points at.

    Args:
        pointer: On the model's device.
    """

    def __init__(self, pointer: CellPointer):
        self.pointer = pointer

    def prepare(self, image: EncodedImage, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """Image tokens (K, H), and the share of each proposal that lies in each cell, (N, K)."""
        tokens = image.features.tokens[0].float()
        side = round(len(tokens) ** 0.5)
        fine = square_weights(packed(proposals), image.size, FINER * side)
        weights = fine.reshape(len(fine), side, FINER, side, FINER).mean((2, 4)).flatten(1)
        shares = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-8)
        return tokens, shares.to(tokens.device)

    def choose(
        self, prompt: Tensor, confidence: float, proposals: Proposals, prepared: tuple[Tensor, Tensor]
    ) -> Chosen:
        """All proposals that are pointed at; the one that is pointed at most, where none is enough."""
        tokens, shares = prepared
        pointed = (shares @ self.pointer(prompt.float()[None], tokens)[0].sigmoid()).cpu()
        areas = packed(proposals).areas
        order = [index for index in pointed.argsort(descending=True, stable=True).tolist() if areas[index]]
        chosen = [index for index in order if pointed[index] > POINTED] or order[:1]
        score = confidence * float(pointed[chosen].mean()) if chosen else 0.0
        return Chosen(chosen, score)
