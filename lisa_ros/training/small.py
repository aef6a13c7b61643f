"""The small LISA: its sizes, and how it is built untrained."""

from __future__ import annotations

import torch
from transformers import SamConfig, SamModel, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig


def build_sam(channels: int, image_size: int, stride: int, decoder_mlp: int) -> SamModel:
    """SAM's prompt encoder and mask decoder at a small width, for another image encoder.

    One mask token: LISA never asks for SAM's three alternatives. The vision encoder inside is left as small as possible
    for the caller to replace.
    """
    vision = SamVisionConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        output_channels=channels,
        image_size=image_size,
        patch_size=stride,
        num_pos_feats=channels // 2,
        window_size=1,
    )
    prompt = SamPromptEncoderConfig(hidden_size=channels, image_size=image_size, patch_size=stride)
    decoder = SamMaskDecoderConfig(
        hidden_size=channels, mlp_dim=decoder_mlp, num_multimask_outputs=0, iou_head_hidden_dim=channels
    )
    sam = SamModel(
        SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompt.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
    )
    with torch.no_grad():  # SAM's own scale is 1; transformers derives it from the vision encoder's width
        gaussian = torch.randn_like(sam.shared_image_embedding.positional_embedding)
        sam.shared_image_embedding.positional_embedding.copy_(gaussian)
    sam.prompt_encoder.shared_embedding = sam.shared_image_embedding  # one matrix serves the grid and the points
    return sam
