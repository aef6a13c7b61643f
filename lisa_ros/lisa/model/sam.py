"""SAM, and its sizes, read off its tensors: a LISA checkpoint stores none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig
from transformers.models.sam.modeling_sam import SamAttention

from lisa_ros.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


# transformers declares the parts of a config as unions with dict and None; a config that was built holds the classes.
def vision_config(sam: SamModel) -> SamVisionConfig:
    """Of the image encoder."""
    return cast(SamVisionConfig, sam.config.vision_config)


def prompt_config(sam: SamModel) -> SamPromptEncoderConfig:
    """Of the prompt encoder: image size, grid and width of the image embedding."""
    return cast(SamPromptEncoderConfig, sam.config.prompt_encoder_config)


def embedding_side(sam: SamModel) -> int:
    """Side of the image embedding's grid, cells."""
    return int(prompt_config(sam).image_embedding_size)


def new_sam(config: SamConfig) -> SamModel:
    """SAM with untrained weights, whose mask decoder heeds ``attention_downsample_rate`` in its layers too:
    transformers heeds it in the last attention only and takes 2 for the others."""
    sam, decoder = SamModel(config), cast(SamMaskDecoderConfig, config.mask_decoder_config)
    width = decoder.hidden_size // decoder.attention_downsample_rate
    for layer in sam.mask_decoder.transformer.layers:
        for name in ("cross_attn_token_to_image", "cross_attn_image_to_token"):
            if getattr(layer, name).internal_dim != width:
                setattr(layer, name, SamAttention(decoder).apply(sam._init_weights))
    return sam


def infer_sam_config(shapes: Shapes) -> SamConfig:
    """SamConfig from the shapes of the reference's tensors, keyed without the ``visual_model.`` prefix.

    The number of attention heads of the image encoder follows from ``rel_pos`` (its width is the head's), the window
    from its length. The mask decoder has 8 heads in every SAM. Raises CheckpointError naming the tensor it misses.
    """
    try:
        vision = _vision_config(shapes)
        return SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=_prompt_config(
                shapes, cast(int, vision.image_size), cast(int, vision.patch_size)
            ).to_dict(),
            mask_decoder_config=_decoder_config(shapes).to_dict(),
        )
    except KeyError as error:
        raise CheckpointError(f"no SAM in this checkpoint: tensor visual_model.{error.args[0]} is missing") from error


def sam_without_encoder(shapes: Shapes, image_size: int, stride: int) -> SamModel:
    """SAM's prompt encoder and mask decoder for another image encoder, whose grid is image_size / stride.

    The vision encoder is left as small as possible; the caller replaces it.
    """
    try:
        prompt = _prompt_config(shapes, image_size, stride)
        decoder = _decoder_config(shapes)
    except KeyError as error:
        raise CheckpointError(f"no mask decoder here: tensor visual_model.{error.args[0]} is missing") from error
    vision = SamVisionConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        output_channels=prompt.hidden_size,
        image_size=image_size,
        patch_size=stride,
        num_pos_feats=prompt.hidden_size // 2,
        window_size=1,
    )
    config = SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )
    return new_sam(config)


def _vision_config(shapes: Shapes) -> SamVisionConfig:
    hidden, channels, patch, _ = shapes["image_encoder.patch_embed.proj.weight"]
    _, grid, _, _ = shapes["image_encoder.pos_embed"]
    depth = _count(shapes, "image_encoder.blocks.{}.norm1.weight")
    rel_pos = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    is_global = [length == 2 * grid - 1 for length, _ in rel_pos]
    windows = {(length + 1) // 2 for (length, _), whole in zip(rel_pos, is_global, strict=True) if not whole}
    if len(windows) > 1:
        raise CheckpointError(f"SAM's image encoder mixes attention windows {sorted(windows)}; one size is supported")
    mlp = shapes["image_encoder.blocks.0.mlp.lin1.weight"][0]
    out_channels = shapes["image_encoder.neck.0.weight"][0]
    return SamVisionConfig(
        hidden_size=hidden,
        output_channels=out_channels,
        num_hidden_layers=depth,
        num_attention_heads=hidden // rel_pos[0][1],
        num_channels=channels,
        image_size=grid * patch,
        patch_size=patch,
        window_size=windows.pop() if windows else grid,
        global_attn_indexes=[i for i, whole in enumerate(is_global) if whole],
        mlp_ratio=mlp / hidden,
        mlp_dim=mlp,
        num_pos_feats=out_channels // 2,
        use_rel_pos=True,
    )


def _prompt_config(shapes: Shapes, image_size: int, patch: int) -> SamPromptEncoderConfig:
    return SamPromptEncoderConfig(
        hidden_size=shapes["prompt_encoder.no_mask_embed.weight"][1],
        image_size=image_size,
        patch_size=patch,
        mask_input_channels=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
        num_point_embeddings=_count(shapes, "prompt_encoder.point_embeddings.{}.weight"),
    )


def _decoder_config(shapes: Shapes) -> SamMaskDecoderConfig:
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    inner = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    options: dict[str, Any] = {
        "hidden_size": hidden,
        "mlp_dim": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        "num_hidden_layers": _count(shapes, "mask_decoder.transformer.layers.{}.norm1.weight"),
        "num_attention_heads": 8,
        "attention_downsample_rate": hidden // inner,
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_depth": _count(shapes, "mask_decoder.iou_prediction_head.layers.{}.weight"),
        # The official decoder's LayerNorms have PyTorch's default; transformers' default is the image encoder's 1e-6.
        "layer_norm_eps": 1e-5,
        "iou_head_hidden_dim": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
    }
    return SamMaskDecoderConfig(**options)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many consecutive indices, from 0, exist; KeyError with the first name where there is none."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    if count == 0:
        raise KeyError(pattern.format(0))
    return count


def image_positions(sam: SamModel, side: int) -> Tensor:
    """(1, C, side, side): SAM's encoding of the cell centres of a grid of any side, in the encoding's precision."""
    like = sam.shared_image_embedding.positional_embedding
    centres = (torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) / side
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="ij")[::-1], dim=-1)  # (side, side, 2) x, y
    return sam.shared_image_embedding(grid.to(like.dtype)).permute(2, 0, 1)[None]


def point_tokens(sam: SamModel, points: Tensor, labels: Tensor) -> Tensor:
    """Sparse prompt tokens of points, as SAM's prompt encoder makes them where there is no box.

    Args:
        sam: The model.
        points: (S, n, 2) float32, (x, y) in pixels of the encoder's square input.
        labels: (S, n): 1 on the object, 0 not on it, -1 not a point.

    Returns:
        (S, n + 1, C), in the encoding's precision; the last one is padding, which SAM was trained with.
    """
    encoder = sam.prompt_encoder
    places = (points + 0.5) / cast(int, prompt_config(sam).image_size)
    tokens = sam.shared_image_embedding(F.pad(places, (0, 0, 0, 1)))  # (S, n + 1, C)
    labels = F.pad(labels, (0, 1), value=-1)[..., None]
    tokens = torch.where(labels == -1, encoder.not_a_point_embed.weight, tokens)
    for label in (0, 1):
        embedding = cast(nn.Embedding, encoder.point_embed[label]).weight
        tokens = torch.where(labels == label, tokens + embedding, tokens)
    return tokens


def box_tokens(sam: SamModel, boxes: Tensor) -> Tensor:
    """Sparse prompt tokens of boxes, as SAM's prompt encoder makes them.

    Args:
        sam: The model.
        boxes: (S, 4) float32, left, top, right and bottom in pixels of the encoder's square input.

    Returns:
        (S, 2, C), in the encoding's precision: top left and bottom right corner.
    """
    corners = (boxes.reshape(-1, 2, 2) + 0.5) / cast(int, prompt_config(sam).image_size)
    kinds = [cast(nn.Embedding, sam.prompt_encoder.point_embed[index]).weight for index in (2, 3)]
    tokens: Tensor = sam.shared_image_embedding(corners) + torch.cat(kinds)
    return tokens
