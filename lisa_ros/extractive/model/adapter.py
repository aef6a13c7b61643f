"""SegAdapter: the embedding of a proposal becomes a row of the language model's word table (ELISA).

Shapes: N proposals, D numbers of an embedding, H hidden size of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SegAdapter(nn.Module):
    """Embeddings (N, D) to rows (N, H).

    Args:
        embedding_size: D.
        hidden_size: H.
        body: From normalised embeddings (N, D) to (N, H).
        noise_level: Standard deviation of the noise on normalised embeddings in training.
    """

    mean: Tensor

    def __init__(self, embedding_size: int, hidden_size: int, body: Body, noise_level: float = 1e-4):
        super().__init__()
        self.input_norm = nn.LayerNorm(embedding_size)
        self.body = body
        self.norm = nn.LayerNorm(hidden_size)
        self.mean_emb = nn.Parameter(torch.zeros(hidden_size))
        self.std_emb = nn.Parameter(torch.ones(hidden_size))
        # Embeddings of one picture are nearly equal; without their mean they differ. No checkpoint has it.
        self.register_buffer("mean", torch.zeros(embedding_size), persistent=False)
        self.noise_level = noise_level

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, D) to (N, H)."""
        rows = self.body(self.input_norm(embeddings - self.mean), self.noise_level if self.training else 0.0)
        return self.norm(rows) * self.std_emb + self.mean_emb


class Body(nn.Module):
    """What a SegAdapter computes between its two norms."""

    def forward(self, x: Tensor, noise_level: float) -> Tensor:
        """(N, D) to (N, H). noise_level: standard deviation of the noise on ``x``."""
        raise NotImplementedError


class MlpBody(Body):
    """Two layers.

    Args:
        embedding_size: D.
        hidden_size: H.
        inner_size: Width between the layers.
        dropout: Share of the inner numbers that is dropped in training.
    """

    def __init__(self, embedding_size: int, hidden_size: int, inner_size: int, dropout: float = 0.0):
        super().__init__()
        self.mlp = _two_layers(embedding_size, inner_size, hidden_size, dropout)

    def forward(self, x: Tensor, noise_level: float) -> Tensor:
        return self.mlp(_noisy(x, noise_level))


class AttentionBody(Body):
    """Several linear views of an embedding, which blocks of attention join.

    Args:
        embedding_size: D.
        hidden_size: H.
        num_linears: Views of an embedding.
        heads: Heads of each block.
        queries: Learned queries of each block.
        inner_size: Width inside the blocks' feed-forward layers.
        dropout: Share of the inner numbers that is dropped in training.
    """

    def __init__(
        self,
        embedding_size: int,
        hidden_size: int,
        num_linears: int,
        heads: Sequence[int],
        queries: Sequence[int],
        inner_size: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(embedding_size, hidden_size) for _ in range(num_linears))
        self.blocks = nn.ModuleList(
            AttentionBlock(hidden_size, head, count, inner_size, dropout)
            for head, count in zip(heads, queries, strict=True)
        )
        self.skips = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in heads)
        self.final_skip = nn.Linear(embedding_size, hidden_size, bias=False)

    def forward(self, x: Tensor, noise_level: float) -> Tensor:
        views = torch.stack([linear(_noisy(x, noise_level)) for linear in self.linears], dim=1)  # (N, n, H)
        rows = self.final_skip(x)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            rows = rows + skip(views.mean(1))
            views = block(views)  # (N, q, H)
        return rows + views.mean(1)


class AttentionBlock(nn.Module):
    """Learned queries look at the views; a feed-forward layer and a norm follow. Nothing is added to the input.

    Args:
        hidden_size: H.
        heads: Of the attention.
        queries: q.
        inner_size: Width inside the feed-forward layer.
        dropout: Share of the inner numbers that is dropped in training.
    """

    def __init__(self, hidden_size: int, heads: int, queries: int, inner_size: int, dropout: float = 0.0):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, queries, hidden_size))
        self.attention = nn.MultiheadAttention(hidden_size, heads, batch_first=True)
        self.ffn = _two_layers(hidden_size, inner_size, hidden_size, dropout)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, views: Tensor) -> Tensor:
        """(N, n, H) to (N, q, H)."""
        query = self.query.expand(len(views), -1, -1)
        return self.norm(self.ffn(self.attention(query, views, views, need_weights=False)[0]))


def _two_layers(size_in: int, inner_size: int, size_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size_in, inner_size), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner_size, size_out)
    )


def _noisy(x: Tensor, level: float) -> Tensor:
    return x + level * torch.randn_like(x) if level else x
