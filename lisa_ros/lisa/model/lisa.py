"""LISA: LLaMA reads CLIP's image tokens and the text; the state that predicts ``[SEG]`` prompts SAM's mask decoder.

One path serves inference, evaluation and training: ``embed`` (ids and image tokens to positions), ``read`` (positions
to states), ``predict`` (states to the next token's logits), ``decode_masks`` (mask prompts to masks).

Shapes: B images, N conversations, T ids, K image tokens, L = T + K - 1 expanded positions, H hidden size,
C channels of the image embedding (256 in SAM), S masks. Paper: Lai et al., LISA, arXiv:2308.00692.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import LlamaModel, SamModel

from lisa_ros.lisa.model import llama as language_model
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.clip import VisionTower
from lisa_ros.lisa.model.mask_decoder import Window, decode_prompts, decode_windows
from lisa_ros.lisa.model.sam import embedding_side, image_positions, prompt_config
from lisa_ros.lisa.tokenizer import IMAGE_ID


class Lisa(nn.Module):
    """The networks of LISA. The order of their calls is in the Segmenter.

    ``lisa_ros.lisa.weights.names`` maps the names of tensors to those of the reference.

    Args:
        vision_tower: Makes features for the image tokens.
        image_projector: From these features to image tokens; the reference's mm_projector.
        llama: The language model without its head.
        lm_head: From states (L, H) to logits (L, V).
        seg_projector: From states (S, H) to mask prompts (S, C); the reference's text_hidden_fcs.
        sam: Image encoder and mask decoder.
        presence: Adds (L, V) to the next token's logits, from states (L, H) and image tokens (K, H). Released LISAs
            have none.
    """

    def __init__(
        self,
        vision_tower: VisionTower,
        image_projector: nn.Module,
        llama: LlamaModel,
        lm_head: nn.Linear,
        seg_projector: nn.Sequential,
        sam: SamModel,
        presence: nn.Module | None = None,
    ):
        super().__init__()
        self.vision_tower = vision_tower
        self.image_projector = image_projector
        self.llama = llama
        self.lm_head = lm_head
        self.seg_projector = seg_projector
        self.sam = sam
        self.presence = presence
        self._positions: Tensor | None = None

    @property
    def shares_encoder(self) -> bool:
        """Whether the image tokens come from the mask decoder's own image embedding (one encoder for both)."""
        return self.vision_tower.reads_embedding

    @property
    def input_size(self) -> int:
        """Side of the image encoder's square input, pixels."""
        return cast(int, prompt_config(self.sam).image_size)

    @property
    def device(self) -> torch.device:
        return self.llama.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.llama.embed_tokens.weight.dtype

    def new_cache(self) -> PrefixCache:
        return PrefixCache(self.llama.config.num_hidden_layers)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Image embedding for the mask decoder: (B, 3, size, size) to (B, C, h, w)."""
        features = self.sam.vision_encoder(pixels)
        return features if isinstance(features, Tensor) else features.last_hidden_state

    def image_tokens(self, tower_input: Tensor) -> Tensor:
        """(B, K, H) image tokens, from CLIP's pixels or, if the encoder is shared, from the image embedding."""
        return self.image_projector(self.vision_tower(tower_input))

    def embed(self, ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Input embeddings of expanded ids: (N, L) to (N, L, H).

        Args:
            ids: (N, L), IMAGE_ID at the place of each image token (see :func:`image_columns`).
            image_tokens: (N, K, H), K as many as each row has IMAGE_ID; None if there is none.
        """
        embedded = self.llama.embed_tokens(ids.clamp_min(0))  # (N, L, H)
        if image_tokens is None:
            return embedded
        places = (ids == IMAGE_ID)[:, :, None]
        return embedded.masked_scatter(places, image_tokens.to(embedded.dtype))

    def read(self, embedded: Tensor, cache: PrefixCache | None = None) -> Tensor:
        """Hidden states: (N, L, H) to (N, L, H). With a cache, the positions follow those in the cache."""
        return language_model.read(self.llama, embedded, cache)

    def predict(self, hidden: Tensor, image_tokens: Tensor) -> Tensor:
        """Logits of the next token: states (L, H) about one image, tokens (K, H), to (L, V)."""
        logits = self.lm_head(hidden)
        return logits if self.presence is None else logits + self.presence(hidden, image_tokens)

    def decode_masks(
        self,
        seg_embeddings: Tensor,
        image_embedding: Tensor,
        points: Tensor | None = None,
        coarse: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of one image, in the decoder's own precision.

        Args:
            seg_embeddings: (S, C) mask prompts, from ``seg_projector``.
            image_embedding: (1, C, h, w).
            points: (S, n, C) tokens of points, before each mask prompt (READ).
            coarse: (S, 1, 4h, 4w) logits of coarse masks, as dense prompts (CoReS).

        Returns:
            (S, 1, 4h, 4w).
        """
        dtype = self.sam.mask_decoder.iou_token.weight.dtype
        image_embedding, prompts = image_embedding.to(dtype), seg_embeddings.to(dtype)[:, None]  # (S, 1, C)
        if not len(prompts):
            side = 4 * image_embedding.shape[-1]
            return image_embedding.new_zeros(0, 1, side, side)
        if points is not None:
            prompts = torch.cat([points.to(dtype), prompts], dim=1)  # (S, n + 1, C)
        positions = self._image_positions()
        if coarse is None:
            return decode_prompts(self.sam, image_embedding, positions, prompts[None]).transpose(0, 1)
        dense = self.sam.prompt_encoder.mask_embed(coarse.to(dtype))  # (S, C, h, w)
        return decode_prompts(self.sam, image_embedding, positions, prompts[:, None], dense)

    def decode_windows(
        self, seg_embeddings: Tensor, image_embedding: Tensor, windows: Sequence[Window]
    ) -> list[Tensor]:
        """Mask logits in parts of one image: (S, C) and (1, C, h, w) to S times (4 rows, 4 columns) of the window.

        ``image_embedding`` may be cut on the right and below: what is left out is not looked at.
        """
        dtype = self.sam.mask_decoder.iou_token.weight.dtype
        height, width = image_embedding.shape[-2:]
        positions = self._image_positions()[..., :height, :width]
        return decode_windows(self.sam, image_embedding.to(dtype), positions, seg_embeddings.to(dtype)[None], windows)

    def _image_positions(self) -> Tensor:
        """(1, C, h, w): a constant, so computed once for each device."""
        if self._positions is None or self._positions.device != self.device:
            # Leaving inference mode, so that a model which answered first can still be trained.
            with torch.inference_mode(False), torch.no_grad():
                positions = image_positions(self.sam, embedding_side(self.sam))
                self._positions = positions.to(self.sam.mask_decoder.iou_token.weight.dtype)
        return self._positions


def image_columns(ids: Tensor, num_image_tokens: int) -> Tensor:
    """(N, L): for each expanded position the column of ``ids`` (N, T) that it comes from.

    Each row has one IMAGE_ID, which is repeated K times: ``ids.gather(1, image_columns(ids, K))`` expands the ids, and
    the same for labels.
    """
    where = (ids == IMAGE_ID).int().argmax(dim=1, keepdim=True)  # (N, 1)
    position = torch.arange(ids.shape[1] + num_image_tokens - 1, device=ids.device)[None]  # (1, L)
    inside = torch.minimum(position, where)
    return torch.where(position < where + num_image_tokens, inside, position - num_image_tokens + 1)


def predicting(ids: Tensor, token: int) -> Tensor:
    """(N, L) bool: the positions that PREDICT ``token``, one before it, for expanded ids (N, L)."""
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    predicts[:, :-1] = ids[:, 1:] == token
    return predicts
