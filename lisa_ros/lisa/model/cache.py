"""Key-value cache of the language model, one for each frame.

The cache stores the ids of its tokens. The next prompt reuses the common prefix: the system text and the image are
computed once, a follow-up continues the conversation, and a rejected draft is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _GrowingLayer(DynamicLayer):
    """Keys and values of a layer in one buffer, whose size doubles. An append copies only the new tokens.

    DynamicLayer concatenates: for every token it copies all earlier ones.
    """

    keys: Tensor
    values: Tensor
    is_initialized: bool

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        if not self.is_initialized or end > self._key_buffer.shape[-2]:
            self._grow(key_states, max(end, 2 * self.length))
        self._key_buffer[..., self.length : end, :] = key_states
        self._value_buffer[..., self.length : end, :] = value_states
        self.length = end
        self._expose()
        return self.keys, self.values

    def truncate(self, length: int) -> None:
        if self.is_initialized:
            self.length = length
            self._expose()

    def copy(self, length: int) -> _GrowingLayer:
        """An independent layer with the first ``length`` tokens."""
        layer = _GrowingLayer()
        if length:
            layer.update(self.keys[..., :length, :], self.values[..., :length, :])
        return layer

    def get_seq_length(self) -> int:
        return self.length

    def _grow(self, like: Tensor, capacity: int) -> None:
        # Room for a question and an answer after the prefix, so that most commands never grow the buffer again.
        shape = (*like.shape[:-2], capacity + 128, like.shape[-1])
        keys, values = like.new_empty(shape), like.new_empty(shape)
        if self.is_initialized:
            keys[..., : self.length, :] = self.keys
            values[..., : self.length, :] = self.values
        else:
            self.dtype, self.device = like.dtype, like.device
        self._key_buffer, self._value_buffer, self.is_initialized = keys, values, True

    def _expose(self) -> None:
        self.keys = self._key_buffer[..., : self.length, :]
        self.values = self._value_buffer[..., : self.length, :]


class PrefixCache(Cache):
    """Keys and values of one sequence, with its ids.

    ``tokens`` has the ids; each image token is an ``IMAGE_ID``.

    Args:
        layers: Number of layers.
    """

    def __init__(self, layers: int):
        self.tokens: list[int] = []
        super().__init__(layers=[_GrowingLayer() for _ in range(layers)])

    def common_prefix(self, ids: Sequence[int]) -> int:
        """Number of leading ids that are in the cache."""
        for index, (held, wanted) in enumerate(zip(self.tokens, ids, strict=False)):
            if held != wanted:
                return index
        return min(len(self.tokens), len(ids))

    def truncate(self, length: int) -> None:
        """Remove everything after the first ``length`` tokens. Nothing is copied."""
        del self.tokens[length:]
        for layer in self._own_layers():
            layer.truncate(length)

    def copy(self, length: int) -> PrefixCache:
        """An independent cache with the first ``length`` tokens."""
        copy = PrefixCache(0)
        copy.layers = [layer.copy(length) for layer in self._own_layers()]
        copy.tokens = self.tokens[:length]
        return copy

    def _own_layers(self) -> list[_GrowingLayer]:
        return cast(list[_GrowingLayer], self.layers)  # transformers declares a union of its own kinds
