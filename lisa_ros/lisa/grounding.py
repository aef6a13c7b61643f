"""What an answer's tokens mean: which of them stand for a mask, and how a state becomes one.

The loop that reads and generates (``segmenter``), the teacher-forced pass and fine-tuning ask a :class:`Grounding`, so
a family that marks things in another way (rejection tokens, coarse and fine masks, a vocabulary that grows with the
image's proposals) brings its own and leaves the loop alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lisa_ros.lisa.model.lisa import Lisa, predicting


@dataclass(eq=False)
class Features:
    """What the towers made of one frame.

    Args:
        tokens: (1, K, H) image tokens for the language model.
        embedding: (1, C, h, w) for the mask decoder; None until a mask needs it.
    """

    tokens: Tensor
    embedding: Tensor | None = None


class Grounding(Protocol):
    """Meaning of tokens, for one model."""

    def embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Positions of expanded ids: (N, L) and (N, K, H) to (N, L, H)."""

    def logits(self, hidden: Tensor, frame: Features) -> Tensor:
        """Logits of the next token: states (L, H) to (L, V)."""

    def is_mask(self, token: int) -> bool:
        """Whether ``token`` stands for a mask."""

    def predicts_mask(self, ids: Tensor) -> Tensor:
        """(N, L) bool: the positions that predict a mask token, for expanded ids (N, L)."""

    def masks(self, hidden: Tensor, frame: Features) -> Tensor:
        """Low-resolution mask logits (S, 1, h, w) of the states (S, H) that predicted mask tokens."""


class SegGrounding:
    """LISA's: the state that predicts ``[SEG]`` prompts the mask decoder."""

    def __init__(self, lisa: Lisa, seg_id: int):
        self._lisa = lisa
        self._seg_id = seg_id

    def embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        return self._lisa.embed(ids, image_tokens)

    def logits(self, hidden: Tensor, frame: Features) -> Tensor:
        return self._lisa.predict(hidden, frame.tokens[0])

    def is_mask(self, token: int) -> bool:
        return token == self._seg_id

    def predicts_mask(self, ids: Tensor) -> Tensor:
        return predicting(ids, self._seg_id)

    def masks(self, hidden: Tensor, frame: Features) -> Tensor:
        if frame.embedding is None:
            raise ValueError("the frame has no image embedding yet; embed it before its masks are decoded")
        return self._lisa.ground(hidden, frame.embedding).to(torch.float32)
