"""LLaVA's parts, as an extractive model uses them: vision tower, projector, language model with Gemma or LLaMA.

The networks are transformers' classes. Shapes: K image tokens, N proposals, L positions, V words, H hidden size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaModel

from lisa_ros.extractive.model.adapter import SegAdapter
from lisa_ros.extractive.model.vocabulary import GrownVocabulary
from lisa_ros.lisa.model import llama as language_model
from lisa_ros.lisa.model.cache import PrefixCache


class Elisa(nn.Module):
    """ELISA: a LLaVA whose word table grows by one row for each proposal.

    Args:
        config: Of the LLaVA.
        adapter: From embeddings of proposals to rows.
        first: Id of the first proposal: that of ``<image>`` plus 1.
    """

    def __init__(self, config: LlavaConfig, adapter: SegAdapter, first: int):
        super().__init__()
        self.config = config
        self.adapter = adapter
        self.first = first
        llava = LlavaModel(config)
        self.vision_tower: nn.Module = llava.vision_tower
        self.multi_modal_projector: nn.Module = llava.multi_modal_projector
        self.language_model: Any = llava.language_model
        self.text_config: Any = config.text_config  # declared as a union with dict and None
        text: Any = self.text_config
        tied = bool(text.tie_word_embeddings)
        self.lm_head = None if tied else nn.Linear(text.hidden_size, text.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def dtype(self) -> torch.dtype:
        return self.words.dtype

    @property
    def words(self) -> Tensor:
        """(V, H) the input table."""
        return cast(Tensor, self.language_model.get_input_embeddings().weight)

    @property
    def num_layers(self) -> int:
        return int(self.text_config.num_hidden_layers)

    @property
    def max_positions(self) -> int:
        return int(self.text_config.max_position_embeddings)

    @property
    def scale(self) -> float:
        """Factor of the input embeddings. Where the model's own table applies it, what bypasses the table needs it."""
        return float(getattr(self.language_model.get_input_embeddings(), "scalar_embed_scale", 1.0))

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features (1, P, C) before the projector, and image tokens (1, K, H), of pixels (1, 3, size, size)."""
        states = self.vision_tower(pixels, output_hidden_states=True).hidden_states
        layer, strategy = self.config.vision_feature_layer, self.config.vision_feature_select_strategy
        layers = [layer] if isinstance(layer, int) else list(layer)
        chosen = [states[one][:, 1:] if strategy == "default" else states[one] for one in layers]
        features = torch.cat(chosen, dim=-1)
        return features, self.multi_modal_projector(features)

    def vocabulary(self, rows: Tensor) -> GrownVocabulary:
        """The words and the rows (N, H) of a picture's proposals."""
        head = self.words if self.lm_head is None else self.lm_head.weight
        return GrownVocabulary(self.words, head, rows, self.first, self.scale)

    def embed(self, ids: Tensor, vocabulary: GrownVocabulary, image_tokens: Tensor | None) -> Tensor:
        """Input embeddings (L, H) of expanded ids.

        Args:
            ids: (L,), negative at the place of each image token.
            vocabulary: Of the picture.
            image_tokens: (K, H), as many as there are such places; None if there is none.
        """
        embedded = vocabulary.embed(ids.clamp_min(0))
        if image_tokens is None:
            return embedded
        places = (ids < 0)[:, None]
        return embedded.masked_scatter(places, vocabulary.scaled(image_tokens.to(embedded.dtype)))

    def new_cache(self) -> PrefixCache:
        return PrefixCache(self.num_layers)

    def read(self, embedded: Tensor, cache: PrefixCache | None = None, **options: Any) -> Tensor:
        """Hidden states: (B, L, H) to (B, L, H). With a cache, the positions follow those in the cache."""
        return language_model.read(self.language_model, embedded, cache, **options)
