"""LLaMA, or a language model with the same interface: positions in, hidden states out."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import LlamaModel

from lisa_ros.lisa.model.cache import PrefixCache

_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
"""What LlamaModel calls its cache; transformers 5.24 gave it another name."""


def read(llama: nn.Module, embedded: Tensor, cache: PrefixCache | None = None, **options: Any) -> Tensor:
    """Hidden states after the last norm: (N, L, H) to (N, L, H); with a cache, L positions after those it holds.

    Rows that are padded on the right need no attention mask, since a causal model never looks there.

    Args:
        llama: LlamaModel or GemmaModel of transformers.
        embedded: (N, L, H) input embeddings.
        cache: Keys and values of earlier positions; the new ones are appended.
        options: For the model: ``attention_mask`` and ``position_ids``, where rows are padded on the left.
    """
    return llama(inputs_embeds=embedded, use_cache=cache is not None, **{_CACHE: cache}, **options).last_hidden_state
