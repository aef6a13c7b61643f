"""A word table that grows with each picture: the rows of its proposals are inserted behind the tokenizer's words.

Ids of the grown vocabulary: 0 to ``first - 1`` are words, ``first`` to ``first + N - 1`` are the N proposals, and
behind them follow the rows that pad the table ("phantom rows"), moved up by N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class GrownVocabulary:
    """The words of a model and the rows of one picture's proposals. No word is copied.

    Args:
        words: (V, H) input table.
        head: (V, H) output table; the same tensor in a model with tied weights.
        rows: (N, H) rows of the proposals, for both tables.
        first: Id of the first proposal.
        scale: By which the model multiplies its input embeddings (Gemma: sqrt(H)).
    """

    def __init__(self, words: Tensor, head: Tensor, rows: Tensor, first: int, scale: float = 1.0):
        self._words, self._head = words, head
        self.rows = rows
        self.first = first
        self._scale = scale

    @property
    def end(self) -> int:
        """Id behind the last proposal."""
        return self.first + len(self.rows)

    def __len__(self) -> int:
        """V + N."""
        return len(self._words) + len(self.rows)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of ids: (L,) to (L, H), scaled as the language model expects them."""
        words = torch.where(ids < self.first, ids, (ids - len(self.rows)).clamp_min(0))
        embedded = F.embedding(words, self._words)
        chosen = self.is_proposal(ids)
        if len(self.rows):
            rows = self.rows[(ids - self.first).clamp(0, len(self.rows) - 1)].to(embedded.dtype)
            embedded = torch.where(chosen[..., None], rows, embedded)
        return self.scaled(embedded)

    def scaled(self, embedded: Tensor) -> Tensor:
        """Embeddings multiplied by the model's factor, in their own dtype."""
        return embedded if self._scale == 1 else embedded * torch.tensor(self._scale).to(embedded)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., H) to logits (..., V + N)."""
        before, behind = self._head[: self.first], self._head[self.first :]
        return torch.cat([F.linear(hidden, part) for part in (before, self.rows.to(hidden.dtype), behind)], dim=-1)

    def is_proposal(self, ids: Tensor) -> Tensor:
        """Bool, of the shape of ``ids``."""
        return (ids >= self.first) & (ids < self.end)
