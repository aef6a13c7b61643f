"""LISA: CLIP and LLaMA read, ``[SEG]``'s hidden state prompts SAM's mask decoder.

Shapes: B images, N conversations, T ids, K image tokens, L = T + K - 1 expanded positions, H hidden size,
C channels of the image embedding (256 in SAM), S masks. Paper: Lai et al., LISA, arXiv:2308.00692.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaModel, SamModel

from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.mask_decoder import decode_many
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_small.network.conv import SharedTower

_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
"""What LlamaModel calls its cache; transformers 5.24 gave it another name."""


class ClipTower(nn.Module):
    """Patch features of CLIP, taken before its last layers as LLaVA does; the layers after that are not built.

    select_layer: as in LLaVA's config, an index into [embeddings, layer 1, ..., layer n], usually -2.
    """

    def __init__(self, config: CLIPVisionConfig, select_layer: int = -2):
        super().__init__()
        depth = config.num_hidden_layers
        needed = CLIPVisionConfig(**{**config.to_dict(), "num_hidden_layers": range(depth + 1)[select_layer]})
        clip = CLIPVisionModel(needed)
        # Some releases of transformers keep the network one level down; ours has one name for its tensors.
        self.clip = getattr(clip, "vision_model", clip)

    @property
    def num_tokens(self) -> int:
        config = self.clip.config
        return (config.image_size // config.patch_size) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) normalised pixels to (B, K, mm_hidden) patch features, without the class token."""
        return self.clip(pixels).last_hidden_state[:, 1:]


class Presence(nn.Module):
    """Whether what a state is about can be seen: its best match among the image tokens, for the next token's logits.

    Plain attention averages over the picture, and a small language model learns from averages only slowly that a thing
    is nowhere. The largest match does not average. Released LISAs have no such part.
    """

    def __init__(self, hidden_size: int, vocabulary: int):
        super().__init__()
        self.query = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(inplace=True), nn.Linear(hidden_size, hidden_size)
        )
        self.threshold = nn.Parameter(torch.zeros(1))
        self.tokens = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, image_tokens: Tensor) -> Tensor:
        """States (L, H) about an image (K, H) to (L,): the more above 0, the surer that it is there."""
        match = self.query(hidden) @ image_tokens.to(hidden.dtype).T
        return match.amax(dim=1) / hidden.shape[1] ** 0.5 - self.threshold


class Lisa(nn.Module):
    """The parts of LISA and what they do to tensors; what to do when is the Segmenter's business.

    Pass built parts: a test can hand in a two-layer tower. ``seg_projector`` is the reference's text_hidden_fcs,
    ``image_projector`` its mm_projector; ``lisa_ros.lisa.weights.checkpoint`` knows those names.
    """

    def __init__(
        self,
        vision_tower: ClipTower | SharedTower,
        image_projector: nn.Linear,
        llama: LlamaModel,
        lm_head: nn.Linear,
        seg_projector: nn.Sequential,
        sam: SamModel,
        presence: Presence | None = None,
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
        """Whether the image tokens come from the mask decoder's own image embedding (one backbone for both)."""
        return isinstance(self.vision_tower, SharedTower)

    @property
    def input_size(self) -> int:
        """Side of the image encoder's square input, pixels."""
        return self.sam.config.prompt_encoder_config.image_size

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
        """(B, K, H) image tokens, from CLIP's pixels or, where the encoder is shared, from the image embedding."""
        return self.image_projector(self.vision_tower(tower_input))

    def embed_prompt(self, ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Replace the one IMAGE_ID in each row by the image tokens: (N, T) and (N, K, H) to (N, L, H)."""
        where = (ids == IMAGE_ID).int().argmax(dim=1)
        embedded = self.llama.embed_tokens(ids.clamp_min(0))  # (N, T, H); the row at IMAGE_ID is thrown away below
        rows = [
            torch.cat([row[:at], tokens.to(row.dtype), row[at + 1 :]])
            for row, tokens, at in zip(embedded, image_tokens, where.tolist(), strict=True)
        ]
        return torch.stack(rows)

    def read(self, embedded: Tensor, cache: PrefixCache | None = None) -> Tensor:
        """Hidden states after the last norm: (N, L, H) to (N, L, H); with a cache, L positions after those it holds.

        No attention mask: rows are padded on the right, where a causal model never looks.
        """
        return self.llama(inputs_embeds=embedded, use_cache=cache is not None, **{_CACHE: cache}).last_hidden_state

    def predict(self, hidden: Tensor, image_tokens: Tensor) -> Tensor:
        """Logits of the next token: states (L, H) about one image, tokens (K, H), to (L, V)."""
        logits = self.lm_head(hidden)
        if self.presence is None:
            return logits
        return logits + self.presence(hidden, image_tokens)[:, None] * self.presence.tokens

    def seg_positions(self, ids: Tensor, seg_token_id: int, num_image_tokens: int) -> Tensor:
        """(N, L) bool: the positions that PREDICT ``[SEG]``, one before it, with K image tokens before them."""
        predicts = torch.zeros_like(ids, dtype=torch.bool)
        predicts[:, :-1] = ids[:, 1:] == seg_token_id
        expanded = predicts.new_zeros(ids.shape[0], ids.shape[1] + num_image_tokens - 1)
        # The image stands before every [SEG], so each position moves right by K - 1.
        expanded[:, num_image_tokens - 1 :] = predicts
        return expanded

    def decode_masks(self, image_embedding: Tensor, seg_embeddings: Tensor) -> Tensor:
        """Mask logits of one image: (1, C, h, w) and (S, C) to (S, 1, 4h, 4w), in the decoder's own precision."""
        dtype = self.sam.mask_decoder.iou_token.weight.dtype
        image_embedding, seg_embeddings = image_embedding.to(dtype), seg_embeddings.to(dtype)
        if not len(seg_embeddings):
            side = 4 * image_embedding.shape[-1]
            return image_embedding.new_zeros(0, 1, side, side)
        dense = self.sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
        prompts = seg_embeddings[None]  # (1, S, C)
        logits = decode_many(self.sam.mask_decoder, image_embedding + dense, self._image_positions(), prompts)
        return logits.transpose(0, 1)

    def _image_positions(self) -> Tensor:
        """(1, C, h, w) SAM's positional encoding of the grid: a constant, so computed once for each device."""
        if self._positions is None or self._positions.device != self.device:
            # Leaving inference mode, so that a model which answered first can still be trained.
            with torch.inference_mode(False), torch.no_grad():
                positions = self.sam.get_image_wide_positional_embeddings()
                self._positions = positions.to(self.sam.mask_decoder.iou_token.weight.dtype)
        return self._positions
