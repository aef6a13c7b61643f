"""A tiny SAM, untrained, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import SamConfig, SamModel


def write_sam(folder: Path) -> Path:
    """Write one that sees a square of 64 pixels into ``folder``."""
    torch.manual_seed(0)
    prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 4, "image_embedding_size": 8}
    vision = {"hidden_size": 16, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 8, "window_size": 4, "num_pos_feats": 16, "global_attn_indexes": [0]}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
    SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)
    return folder
