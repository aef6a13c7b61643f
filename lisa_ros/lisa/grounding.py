"""Grounding: which tokens of an answer stand for a mask, and how a hidden state becomes a mask.

Generation (``segmenter``), teacher-forced scoring and fine-tuning use the interface :class:`Grounding`. A family of
models with other mask tokens implements it and needs no change in the loop: rejection tokens, coarse and fine masks, a
vocabulary that grows with the image's proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lisa_ros.lisa.model.lisa import Lisa, predicting


@dataclass(eq=False)
class Features:
    """Outputs of the image encoders for one frame.

    Args:
        tokens: (1, K, H) image tokens for the language model.
        embedding: (1, C, h, w) image embedding for the mask decoder; None until a mask needs it.
    """

    tokens: Tensor
    embedding: Tensor | None = None


class Grounding(Protocol):
    """Meaning of tokens, for one model."""

    def embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Input embeddings (N, L, H) of expanded ids.

        Args:
            ids: (N, L), with IMAGE_ID at the place of each image token.
            image_tokens: (N, K, H); None if there is no IMAGE_ID.
        """

    def logits(self, hidden: Tensor, frame: Features) -> Tensor:
        """Logits (L, V) of the next token, from hidden states (L, H)."""

    def is_mask(self, token: int) -> bool:
        """Whether the id ``token`` stands for a mask."""

    def predicts_mask(self, ids: Tensor) -> Tensor:
        """(N, L) bool: the positions that predict a mask token, for expanded ids (N, L)."""

    def masks(self, hidden: Tensor, frame: Features) -> Tensor:
        """Mask logits (S, 1, h, w) float32 at low resolution, from the states (S, H) that predict mask tokens."""


class SegGrounding:
    """LISA's grounding: the state that predicts ``[SEG]`` is the prompt of the mask decoder."""

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
