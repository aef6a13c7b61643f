"""LLaMA: positions in, hidden states out."""

from __future__ import annotations

import inspect

from torch import Tensor
from transformers import LlamaModel

from lisa_ros.lisa.model.cache import PrefixCache

_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
"""What LlamaModel calls its cache; transformers 5.24 gave it another name."""


def read(llama: LlamaModel, embedded: Tensor, cache: PrefixCache | None = None) -> Tensor:
    """Hidden states after the last norm: (N, L, H) to (N, L, H); with a cache, L positions after those it holds.

    No attention mask: rows are padded on the right, where a causal model never looks.
    """
    return llama(inputs_embeds=embedded, use_cache=cache is not None, **{_CACHE: cache}).last_hidden_state
