"""Grounding: which tokens of an answer stand for a mask, and how a hidden state becomes a mask.

Generation (``segmenter``), teacher-forced scoring and fine-tuning use the interface :class:`Grounding`. A family of
models with another meaning of tokens implements it and needs no change in the loop, for example a vocabulary that grows
with the image's proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lisa_ros.lisa.family import PointSettings
from lisa_ros.lisa.model.lisa import Lisa, predicting
from lisa_ros.lisa.model.points import similarity_points
from lisa_ros.lisa.model.sam import point_tokens
from lisa_ros.lisa.pointing import Pointing, kept, middle_of, place_encoding, prompt_tokens
from lisa_ros.lisa.preprocess import Size, resized_size
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.spec import Spec


@dataclass(eq=False)
class Features:
    """Outputs of the image encoders for one frame.

    Args:
        tokens: (1, K, H) image tokens for the language model.
        embedding: (1, C, h, w) image embedding for the mask decoder; None until a mask needs it.
        size: (height, width) of the frame, pixels; None where no grounding needs it.
        states: (K, H) last hidden states of the image tokens; None until the language model has read them. They depend
            on the text before the image only, so they serve every command about the frame.
    """

    tokens: Tensor
    embedding: Tensor | None = None
    size: Size | None = None
    states: Tensor | None = None


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

    def is_coarse(self, token: int) -> bool:
        """Whether the id ``token`` stands for a coarse mask, which prompts a later mask."""

    def predicts_mask(self, ids: Tensor) -> Tensor:
        """(N, L) bool: the positions that predict a mask token, for expanded ids (N, L)."""

    def coarse_of(self, ids: Sequence[int]) -> list[int | None]:
        """For each mask token of expanded ids: the position that predicts its coarse token; None without one."""

    def coarse_masks(self, hidden: Tensor, frame: Features) -> Tensor:
        """Logits (S, 1, h, w) of coarse masks, from the states (S, H) that predict coarse tokens."""

    def masks(
        self,
        hidden: Tensor,
        frame: Features,
        coarse: Sequence[Tensor | None] = (),
        pointing: Pointing | None = None,
    ) -> Tensor:
        """Mask logits (S, 1, h, w) float32 at low resolution.

        Args:
            hidden: (S, H), the states that predict mask tokens.
            frame: Of the image.
            coarse: For each mask its coarse logits (1, h, w), or None; empty: no mask has any.
            pointing: Points and box of the command, for every mask.
        """


class SegGrounding:
    """Grounding of LISA and its relatives: the state that predicts a mask token is the prompt of the mask decoder.

    Args:
        lisa: The model.
        mask_id: Id of the mask token.
        coarse_id: Id of the coarse token (CoReS); None: none.
        points: Settings of similarity points (READ); None: none.
        moves: Whether a command's points and box move the mask prompt (``lisa_ros.lisa.pointing``: place); else they
            become prompt tokens.
    """

    def __init__(
        self,
        lisa: Lisa,
        mask_id: int,
        coarse_id: int | None = None,
        points: PointSettings | None = None,
        moves: bool = False,
    ):
        self._lisa = lisa
        self._moves = moves
        self._mask_id = mask_id
        self._coarse_id = coarse_id
        self._points = points

    def embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        return self._lisa.embed(ids, image_tokens)

    def logits(self, hidden: Tensor, frame: Features) -> Tensor:
        return self._lisa.predict(hidden, frame.tokens[0])

    def is_mask(self, token: int) -> bool:
        return token == self._mask_id

    def is_coarse(self, token: int) -> bool:
        return token == self._coarse_id

    def predicts_mask(self, ids: Tensor) -> Tensor:
        return predicting(ids, self._mask_id)

    def coarse_of(self, ids: Sequence[int]) -> list[int | None]:
        """A mask token takes the nearest unused coarse token before it."""
        unused: list[int] = []
        pairs: list[int | None] = []
        for position, token in enumerate(ids):
            if self.is_coarse(token):
                unused.append(position - 1)
            elif self.is_mask(token):
                pairs.append(unused.pop() if unused else None)
        return pairs

    def coarse_masks(self, hidden: Tensor, frame: Features) -> Tensor:
        return self._lisa.decode_masks(self._lisa.seg_projector(hidden), _embedding(frame))

    def masks(
        self,
        hidden: Tensor,
        frame: Features,
        coarse: Sequence[Tensor | None] = (),
        pointing: Pointing | None = None,
    ) -> Tensor:
        prompts, embedding = self._lisa.seg_projector(hidden), _embedding(frame)  # (S, C)
        if pointing is not None and self._moves:
            return self._moved_masks(prompts, embedding, pointing, _size(frame))
        points = self._sparse_tokens(hidden, frame, pointing) if len(hidden) else None
        given = [mask for mask in coarse if mask is not None]
        if not given:
            return self._lisa.decode_masks(prompts, embedding, points).to(torch.float32)
        # (S, 1, h, w): the masks with a coarse one in one pass, the others in another.
        with_coarse = torch.tensor([mask is not None for mask in coarse], device=hidden.device)
        fine_points, plain_points = (None, None) if points is None else (points[with_coarse], points[~with_coarse])
        fine = self._lisa.decode_masks(prompts[with_coarse], embedding, fine_points, coarse=torch.stack(given))
        plain = self._lisa.decode_masks(prompts[~with_coarse], embedding, plain_points)
        order = torch.cat([with_coarse.nonzero()[:, 0], (~with_coarse).nonzero()[:, 0]]).argsort()
        return torch.cat([fine, plain])[order].to(torch.float32)

    def _sparse_tokens(self, hidden: Tensor, frame: Features, pointing: Pointing | None) -> Tensor | None:
        """(S, n, C) tokens before each mask's prompt: READ's similarity points, then those of the command."""
        own = self._point_tokens(hidden, frame) if self._points is not None else None
        if pointing is None:
            return own
        size = _size(frame)
        height, width = resized_size(size, self._lisa.input_size)
        given = prompt_tokens(self._lisa, pointing, (width / size[1], height / size[0])).expand(len(hidden), -1, -1)
        return given if own is None else torch.cat([own[:, :-1], given], dim=1)  # the padding comes once, at the end

    def _moved_masks(self, prompts: Tensor, embedding: Tensor, pointing: Pointing, size: Size) -> Tensor:
        """Masks of prompts (S, C) whose place is the given one; see ``lisa_ros.lisa.pointing``."""
        logits = self._lisa.decode_masks(prompts, embedding).to(torch.float32)
        middles = [middle_of(one[0].cpu().numpy(), size) for one in logits]
        if (place := pointing.place) is not None:
            given = place_encoding(self._lisa, place, size)
            kinds = [
                prompt.float() - place_encoding(self._lisa, middle, size) if middle is not None else prompt.float()
                for prompt, middle in zip(prompts, middles, strict=True)
            ]
            moved = [kind if middle is None else kind + given for kind, middle in zip(kinds, middles, strict=True)]
            logits = self._lisa.decode_masks(torch.stack(moved), embedding).to(torch.float32)
        masks = [torch.from_numpy(kept(one[0].cpu().numpy(), pointing, size)) for one in logits]
        return torch.stack(masks)[:, None].to(embedding.device)

    def _point_tokens(self, hidden: Tensor, frame: Features) -> Tensor:
        """(S, n + 1, C) tokens of each mask's similarity points."""
        if frame.states is None or frame.size is None:
            raise ValueError("the frame has no states of its image tokens yet; read a prompt with the image first")
        assert self._points is not None
        size, side = frame.size, self._lisa.input_size
        height, width = resized_size(size, side)
        # A few hundred numbers, and branches on their values: on a GPU each branch would wait for it.
        similarities = (hidden.float() @ frame.states.float().T).cpu()  # (S, K)
        chosen = [similarity_points(similarity, size, self._points) for similarity in similarities]
        scale = torch.tensor([width / size[1], height / size[0]])
        points = (torch.stack([points for points, _ in chosen]) * scale).to(hidden.device)  # (S, n, 2)
        labels = torch.stack([labels for _, labels in chosen]).to(hidden.device)
        return point_tokens(self._lisa.sam, points, labels)


def _size(frame: Features) -> Size:
    if frame.size is None:
        raise ValueError("the frame has no size; points and boxes are in its pixels")
    return frame.size


def _embedding(frame: Features) -> Tensor:
    if frame.embedding is None:
        raise ValueError("the frame has no image embedding yet; embed it before its masks are decoded")
    return frame.embedding


def seg_grounding(lisa: Lisa, spec: Spec, tokenizer: Tokenizer) -> SegGrounding:
    """The grounding of a checkpoint, whose tokenizer has the tokens of its family."""
    mask_id = tokenizer.id_of(spec.family.mask_token)
    assert mask_id is not None
    moves = spec.point_prompts == "place"
    return SegGrounding(lisa, mask_id, tokenizer.id_of(spec.family.coarse_token), spec.points, moves)
