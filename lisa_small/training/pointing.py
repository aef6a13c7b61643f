"""Supervised attention: an auxiliary loss of the language stages, without weights of its own.

"The thing next to the book" takes two looks at the picture: where is the book, and what lies there. From the answer's
words alone a small language model takes long to find out where it has to look. So the attention of some heads is
supervised. A noun of the question looks at all that it names, a third of the way up. Half of the way up, the answer's
first words look at what the question's nouns named beside what is meant (or at all that they named, if that is all).
Two thirds up, they and what predicts ``[SEG]`` look at what is meant.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from lisa_ros.lisa.model.lisa import Lisa
from lisa_small.training.packing import Cells, Packed, by_row

HEADS = 2
"""Supervised heads of a layer."""


def supervised_layers(depth: int) -> dict[str, int]:
    """The layer, of ``depth``, that is supervised for nouns, for what was asked, and for what is meant."""
    return {"nouns": depth // 3, "asked": depth // 2, "meant": 2 * depth // 3}


def _layer(lisa: Lisa, index: int) -> LlamaDecoderLayer:
    return cast(LlamaDecoderLayer, lisa.llama.layers[index])


def supervised_parameters(lisa: Lisa) -> list[nn.Parameter]:
    """The weights of queries and keys in supervised layers: sharp attention needs large ones."""
    layers = sorted(set(supervised_layers(len(lisa.llama.layers)).values()))
    attentions = [_layer(lisa, layer).self_attn for layer in layers]
    return [
        cast(nn.Parameter, cast(nn.Linear, part).weight)
        for attention in attentions
        for part in (attention.q_proj, attention.k_proj)
    ]


def pointing_losses(lisa: Lisa, packed: Packed, hidden: tuple[Tensor, ...], cells: list[Cells]) -> dict[str, Tensor]:
    """Cross-entropy in nats between where supervised heads look and where they should, by kind.

    hidden: (B, L, H) before each layer. cells: of each row. 0 where nothing points at anything.
    """
    points = {"nouns": packed.nouns, "asked": packed.asked, "meant": packed.meant}
    layers = supervised_layers(len(lisa.llama.layers))
    return {name: _loss(lisa, packed, hidden, cells, points[name], layer) for name, layer in layers.items()}


def attention_of(lisa: Lisa, packed: Packed, hidden: tuple[Tensor, ...], layer: int) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, HEADS, L, D) of the supervised heads of a layer, as its own attention has them."""
    block = _layer(lisa, layer)
    states = block.input_layernorm(hidden[layer])
    width = HEADS * block.self_attn.head_dim
    shape = (*states.shape[:2], HEADS, block.self_attn.head_dim)
    query, key = (
        F.linear(states, cast(nn.Linear, part).weight[:width]).view(shape).transpose(1, 2)
        for part in (block.self_attn.q_proj, block.self_attn.k_proj)
    )
    cos, sin = lisa.llama.rotary_emb(states, packed.positions)
    return apply_rotary_pos_emb(query, key, cos, sin)


def _loss(
    lisa: Lisa,
    packed: Packed,
    hidden: tuple[Tensor, ...],
    cells: list[Cells],
    points: list[tuple[int, int, list[int]]],
    layer: int,
) -> Tensor:
    known = [(row, at, [cells[row].parts[i] for i in members if i in cells[row].parts]) for row, at, members in points]
    targets = [(row, at, torch.stack(parts).mean(0)) for row, at, parts in known if parts]
    if not targets:
        return hidden[layer].sum() * 0.0
    query, key = attention_of(lisa, packed, hidden, layer)
    first = packed.first_cell
    losses = []
    for row, mine in by_row([row for row, _, _ in targets]):
        at = torch.tensor([place for _, place, _ in targets[mine]])
        index = packed.images[row][0]
        truth = torch.stack([part for _, _, part in targets[mine]])[:, index]
        truth = truth / truth.sum(1, keepdim=True).clamp_min(1e-6)
        scores = (query[row][:, at] @ key[row].transpose(1, 2)).float() * _layer(lisa, layer).self_attn.scaling
        attention = scores.masked_fill(~packed.mask[row, 0, at], -torch.inf).log_softmax(-1)
        losses.append(-(truth * attention[:, :, first : first + len(index)]).sum(-1).mean(0))
    return torch.cat(losses).mean()
