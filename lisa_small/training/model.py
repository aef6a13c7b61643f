"""The small LISA: its sizes, and how it is built untrained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, SamConfig, SamModel, SamVisionConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig

from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.sam import new_sam
from lisa_ros.lisa.prompt import QuestionForms
from lisa_small.network.conv import ConvImageEncoder, bias_of
from lisa_small.network.presence import Presence
from lisa_small.network.tower import SharedTower, tower_of
from lisa_small.scenes.colours import COLOURS

PLACE_SCALE = 0.4
"""Standard deviation of the frequencies that encode a place, in waves for half of the picture. SAM's is 1; from slower
waves a small decoder learns sooner which of two things is meant, and a small language model to say it."""


def build_sam(channels: int, image_size: int, stride: int, decoder_mlp: int) -> SamModel:
    """SAM's prompt encoder and mask decoder at a small width, for another image encoder.

    One mask token: LISA never asks for SAM's three alternatives. Attention between image and tokens is as wide as they
    are, since SAM's half leaves a head of so small a decoder too few numbers for a place.
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
        hidden_size=channels,
        mlp_dim=decoder_mlp,
        num_multimask_outputs=0,
        iou_head_hidden_dim=channels,
        attention_downsample_rate=1,
    )
    sam = new_sam(
        SamConfig(
            vision_config=vision.to_dict(),
            prompt_encoder_config=prompt.to_dict(),
            mask_decoder_config=decoder.to_dict(),
        )
    )
    with torch.no_grad():  # transformers derives the scale from the vision encoder's width
        gaussian = torch.randn_like(sam.shared_image_embedding.positional_embedding)
        sam.shared_image_embedding.positional_embedding.copy_(PLACE_SCALE * gaussian)
    sam.vision_encoder = cast(Any, nn.Identity())  # the caller's: an image encoder for any size of picture
    sam.prompt_encoder.shared_embedding = sam.shared_image_embedding  # one matrix serves the grid and the points
    return sam


@dataclass(frozen=True)
class Sizes:
    """The small model's sizes. grid: image tokens a side. mm_hidden: their width before the projector."""

    image_size: int = 256
    channels: int = 96
    decoder_mlp: int = 512
    grid: int = 16
    mm_hidden: int = 192
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    heads: int = 6
    max_positions: int = 1024


def llama_config(sizes: Sizes, vocabulary: int) -> LlamaConfig:
    """The language model, LLaMA's architecture throughout."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
        max_position_embeddings=sizes.max_positions,
        rms_norm_eps=1e-6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        use_cache=False,
    )


def build_lisa(sizes: Sizes, vocabulary: int, sam: SamModel, encoder: ConvImageEncoder, classes: int) -> Lisa:
    """The whole small LISA around a trained encoder and mask decoder; the language half is untrained.

    classes: that the image tokens name.
    """
    sam.vision_encoder = cast(Any, encoder)  # declared as SAM's own ViT
    grid = sizes.image_size // encoder.stride
    lisa = Lisa(
        vision_tower=SharedTower(sizes.channels, sizes.grid, grid, sizes.mm_hidden, classes, len(COLOURS), things=True),
        image_projector=nn.Linear(sizes.mm_hidden, sizes.hidden),
        llama=LlamaModel(llama_config(sizes, vocabulary)),
        lm_head=nn.Linear(sizes.hidden, vocabulary, bias=False),
        seg_projector=nn.Sequential(
            nn.Linear(sizes.hidden, sizes.hidden), nn.ReLU(inplace=True), nn.Linear(sizes.hidden, sizes.channels)
        ),
        sam=sam,
        presence=Presence(sizes.hidden, vocabulary),
    )
    nn.init.zeros_(tower_of(lisa).merge.weight)  # the words come first, what else a cell shows is added to them
    nn.init.zeros_(bias_of(tower_of(lisa).merge))
    _, words = tower_of(lisa).reader
    nn.init.normal_(words.weight)
    nn.init.normal_(lisa.llama.embed_tokens.weight, std=0.08)
    nn.init.normal_(lisa.lm_head.weight, std=0.02)
    return lisa


def checkpoint_config(sizes: Sizes, vocabulary: int, name: str, classes: int) -> dict[str, Any]:
    """The content of config.json."""
    return llama_config(sizes, vocabulary).to_dict() | {
        "architectures": ["LISAForCausalLM"],
        "model_type": "llava",
        "torch_dtype": "float16",
        "train_mask_decoder": True,
        "out_dim": sizes.channels,
        "mm_hidden_size": sizes.mm_hidden,
        "mm_use_im_start_end": True,
        "lisa": {
            "name": name,
            "image_size": sizes.image_size,
            "conversation": "compact",
            "image_encoder": {"kind": "conv", "out_channels": sizes.channels},
            "vision_tower": {
                "kind": "shared",
                "grid": sizes.grid,
                "classes": classes,
                "colours": len(COLOURS),
                "things": True,
            },
            "presence": True,
            "smallest_part": 0.2,
            "questions": asdict(QUESTIONS),
        },
    }


QUESTIONS = QuestionForms(sentence="{}", phrase="{}", explain="{} Explain why.")
"""The small model is asked in the person's own words."""
