"""SAM's mask decoder for many prompts of many images, faster than that of transformers, with the same results.

There are few prompt tokens and many image tokens. So, unless there are many of both, projections are applied to the
prompt tokens: ``(keys W) (queries)`` is computed as ``keys (W queries)``, heads become columns of one matrix, and no
image token is projected or transposed. The transposed convolutions (kernel 2, stride 2, so no overlap) are a matrix
product for each cell; only the logits are then rearranged to an image.

Shapes: B images, P prompts each, N = B * P, G = h * w image tokens, T tokens (predicted IoU, masks, prompt), C
channels, n heads of d channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder, SamTwoWayAttentionBlock

from lisa_ros.lisa.preprocess import Size, resized_size


def decode_prompts(
    sam: SamModel, image_embeddings: Tensor, positions: Tensor, prompts: Tensor, dense: Tensor | None = None
) -> Tensor:
    """Mask logits of SAM's single-mask output.

    Args:
        sam: The model.
        image_embeddings: (B, C, h, w).
        positions: (1, C, h, w), see ``sam.image_positions``.
        prompts: (B, P, C), one sparse prompt token for each mask, or (B, P, k, C), k tokens for each.
        dense: (B, C, h, w), dense prompt from a mask; None: SAM's embedding for no mask.

    Returns:
        (B, P, 4h, 4w).
    """
    if dense is None:
        return decode_and_look(sam, image_embeddings, positions, prompts)[0]
    return _decode(sam.mask_decoder, image_embeddings + dense, positions, prompts)[0]


def decode_and_look(
    sam: SamModel, image_embeddings: Tensor, positions: Tensor, prompts: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """:func:`decode_prompts`, and for each layer the attention scores (N, n, T, G) from image tokens to tokens."""
    dense = sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
    return _decode(sam.mask_decoder, image_embeddings + dense, positions, prompts)


Window = tuple[int, int, int, int]
"""Top, left, bottom and right (exclusive) of a part of the image embedding, in cells."""


def decode_windows(
    sam: SamModel, image_embedding: Tensor, positions: Tensor, prompts: Tensor, windows: Sequence[Window]
) -> list[Tensor]:
    """:func:`decode_prompts` of one image, each mask in a part of it only. Half of the work is to upscale the logits.

    Args:
        sam: The model.
        image_embedding: (1, C, h, w); not necessarily square.
        positions: (1, C, h, w), see ``sam.image_positions``.
        prompts: (1, P, C).
        windows: P parts.

    Returns:
        P times (4 * rows, 4 * columns) of the window: the same logits as :func:`decode_prompts` has there.
    """
    dense = sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
    keys, weights, _ = _attend(sam.mask_decoder, image_embedding + dense, positions, prompts)
    grid = keys.unflatten(1, image_embedding.shape[-2:])  # (P, h, w, C)
    logits = []
    for number, (top, left, bottom, right) in enumerate(windows):
        part = grid[number : number + 1, top:bottom, left:right]
        upscaled = _upscale(sam.mask_decoder, part.flatten(1, 2), weights[number : number + 1])
        logits.append(_as_image(upscaled, 1, bottom - top, right - left)[0, 0])
    return logits


def upsample_logits(low_res: Tensor, size: Size, input_size: int) -> Tensor:
    """Resize mask logits to the camera image, as SAM does: bilinear to the square, then from its unpadded part.

    Args:
        low_res: (S, 1, h, w) float32, of the padded square.
        size: (height, width) of the camera image, pixels.
        input_size: Side of the square, pixels.

    Returns:
        (S, H, W) float32.
    """
    if low_res.shape[0] == 0:
        return low_res.new_zeros(0, *size)
    square = F.interpolate(low_res, (input_size, input_size), mode="bilinear", align_corners=False)
    height, width = resized_size(size, input_size)
    return F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)[:, 0]


def _decode(
    decoder: SamMaskDecoder, image_embeddings: Tensor, positions: Tensor, prompts: Tensor
) -> tuple[Tensor, list[Tensor]]:
    keys, weights, looks = _attend(decoder, image_embeddings, positions, prompts)
    height, width = image_embeddings.shape[-2:]
    return _as_image(_upscale(decoder, keys, weights), prompts.shape[0], height, width), looks


def _as_image(logits: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(N, G, 2 * 2, 2 * 2), two doublings with rows and columns of each, to (B, P, 4h, 4w)."""
    logits = logits.view(batch, -1, height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return logits.reshape(batch, -1, 4 * height, 4 * width)


def _attend(
    decoder: SamMaskDecoder, image_embeddings: Tensor, positions: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Image tokens (N, G, C) and the mask's weights (N, C / 8) after all layers, and the scores of each layer."""
    if prompts.ndim == 3:
        prompts = prompts[:, :, None]  # (B, P, 1, C)
    batch, count = prompts.shape[:2]
    fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([fixed.expand(batch, count, -1, -1), prompts], dim=2).flatten(0, 1)  # (N, T, C)
    where = positions.flatten(2).transpose(1, 2)  # (1, G, C)
    keys = image_embeddings.flatten(2).transpose(1, 2)  # (B, G, C): shared by an image's prompts until they write to it
    queries, looks = tokens, []
    placed = keys + where  # until they are written to, both directions read the same sum
    for layer in cast(Iterable[SamTwoWayAttentionBlock], decoder.transformer.layers):
        if layer.skip_first_layer_pe:
            queries = _among_tokens(layer.self_attn, queries, queries)
        else:
            queries = queries + _among_tokens(layer.self_attn, queries + tokens, queries)
        queries = layer.layer_norm1(queries)
        queries = queries + _from_image(layer.cross_attn_token_to_image, queries + tokens, keys, placed)
        queries = layer.layer_norm2(queries)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        keys, scores = _to_image(layer.cross_attn_image_to_token, keys, placed, queries + tokens, queries)
        keys = layer.layer_norm4(keys)
        placed = keys + where
        looks.append(scores)
    queries = queries + _from_image(decoder.transformer.final_attn_token_to_image, queries + tokens, keys, placed)
    queries = decoder.transformer.layer_norm_final_attn(queries)
    return keys, decoder.output_hypernetworks_mlps[0](queries[:, 1]), looks


FEW_TOKENS = 8
"""Iou, four masks, a prompt and its padding: LISA's tokens and fewer. There both ways cost about the same at any width,
and projecting the tokens is nearer to the result in float64."""


def _has_many(attention: SamAttention, tokens: Tensor) -> bool:
    """Whether projecting the image tokens takes fewer multiplications than projecting the tokens (N, T, C) for each."""
    (_, count, width), inner = tokens.shape, attention.internal_dim
    return count > FEW_TOKENS and attention.num_attention_heads * count * width > inner * (width + count)


def _of_each(x: Tensor, prompts: int) -> Tensor:
    """Values of each image for each of its prompts: (B, ...) -> (B * prompts, ...)."""
    return x if prompts == 1 else x[:, None].expand(-1, prompts, *x.shape[1:]).flatten(0, 1)


def _heads(attention: SamAttention, x: Tensor) -> Tensor:
    """(N, T, n * d) -> (N, n, T, d)."""
    return x.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _among_tokens(attention: SamAttention, query: Tensor, value: Tensor) -> Tensor:
    """Self-attention of the tokens; keys are the queries."""
    q, k = _heads(attention, attention.q_proj(query)), _heads(attention, attention.k_proj(query))
    v = _heads(attention, attention.v_proj(value))
    out = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


def _scores(columns: Tensor, placed: Tensor) -> Tensor:
    """columns (N, n, T, C) against image tokens with their places (B or N, G, C): (B or N, all columns, G)."""
    rows = columns.reshape(placed.shape[0], -1, columns.shape[-1])
    return rows @ placed.transpose(1, 2)


def _from_image(attention: SamAttention, query: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
    """Cross-attention from tokens (N, T, C) to the image, keys (B or N, G, C) and the same with their places. Returns
    (N, T, C).

    The bias of k_proj adds the same to all of a query's scores and falls out of the softmax.
    """
    if _has_many(attention, query):
        q, each = _heads(attention, attention.q_proj(query)), len(query) // len(keys)
        k = _of_each(_heads(attention, attention.k_proj(placed)), each)
        v = _of_each(_heads(attention, attention.v_proj(keys)), each)
        out = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        return attention.out_proj(out.transpose(1, 2).flatten(2))
    n, tokens = attention.num_attention_heads, query.shape[1]
    q = _heads(attention, attention.q_proj(query)) * attention.scaling  # (N, n, T, d)
    through_k = attention.k_proj.weight.unflatten(0, (n, -1))  # (n, d, C)
    seen = torch.softmax(_scores(q @ through_k, placed), dim=-1) @ keys
    seen = seen.view(-1, n, tokens, seen.shape[-1])  # (N, n, T, C)
    through_v = attention.v_proj.weight.unflatten(0, (n, -1)).transpose(1, 2)  # (n, C, d)
    out = (seen @ through_v).transpose(1, 2).flatten(2) + attention.v_proj.bias
    return attention.out_proj(out)


def _to_image(
    attention: SamAttention, keys: Tensor, placed: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-attention from the image, keys (B or N, G, C) and the same with their places, to the tokens, key and value
    (N, T, C).

    Returns keys + attention (N, G, C), and the scores of the tokens (N, n, T, G) before the softmax."""
    n, (count, tokens) = attention.num_attention_heads, key.shape[:2]
    if _has_many(attention, key):
        each = count // len(keys)
        q = _of_each(_heads(attention, attention.q_proj(placed)), each)  # (N, n, G, d)
        k = _heads(attention, attention.k_proj(key)) * attention.scaling
        scores = k @ q.transpose(2, 3)  # (N, n, T, G)
        out = torch.softmax(scores, dim=2).transpose(2, 3) @ _heads(attention, attention.v_proj(value))
        return _of_each(keys, each) + attention.out_proj(out.transpose(1, 2).flatten(2)), scores
    k = _heads(attention, attention.k_proj(key)) * attention.scaling  # (N, n, T, d)
    through_q = attention.q_proj.weight.unflatten(0, (n, -1))  # (n, d, C)
    offset = k @ attention.q_proj.bias.view(n, -1, 1)  # (N, n, T, 1)
    scores = _scores(k @ through_q, placed).view(count, n, tokens, -1) + offset
    seen = torch.softmax(scores, dim=2).flatten(1, 2)  # (N, n * T, G)
    v = _heads(attention, attention.v_proj(value))  # (N, n, T, d)
    through_out = attention.out_proj.weight.unflatten(1, (n, -1)).permute(1, 2, 0)  # (n, d, C)
    # A head's weights sum to one, so the bias can ride on the values.
    rows = (v @ through_out + attention.out_proj.bias / n).flatten(1, 2)  # (N, n * T, C)
    keys = _of_each(keys, count // len(keys))
    return torch.baddbmm(keys, seen.transpose(1, 2), rows), scores


def _bias(layer: nn.ConvTranspose2d) -> Tensor:
    assert layer.bias is not None  # SAM's decoder has one
    return layer.bias


def _upscale(decoder: SamMaskDecoder, keys: Tensor, weights: Tensor) -> Tensor:
    """(N, G, C) and the mask's weights (N, C / 8) to logits (N, G, 2 * 2, 2 * 2)."""
    first, second = decoder.upscale_conv1, decoder.upscale_conv2
    # ConvTranspose2d keeps (in, out, row, column); a cell's four outputs are columns of one product.
    x = keys @ first.weight.permute(0, 2, 3, 1).flatten(1) + _bias(first).repeat(4)
    norm = decoder.upscale_layer_norm
    x = x.unflatten(-1, (4, -1))  # (N, G, 4, C / 4)
    x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = x @ second.weight.permute(0, 2, 3, 1).flatten(1) + _bias(second).repeat(4)
    x = F.gelu(x.unflatten(-1, (4, -1)))  # (N, G, 4, 4, C / 8)
    return (x.flatten(1, 3) @ weights[:, :, None]).view(x.shape[:-1])
