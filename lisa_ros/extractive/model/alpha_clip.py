"""AlphaCLIP: CLIP's image encoder with a second patch convolution that reads a mask (Sun et al., arXiv:2312.03818)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.tensors import iterate_tensors

_HEAD_WIDTH = 64
"""Of every CLIP that OpenAI released."""

# OpenAI's name of a tensor -> transformers'. Attention's three matrices are split apart.
_NAMES = (
    (r"class_embedding", r"embeddings.class_embedding"),
    (r"positional_embedding", r"embeddings.position_embedding.weight"),
    (r"conv1\.(.+)", r"embeddings.patch_embedding.\1"),
    (r"ln_pre\.(.+)", r"pre_layrnorm.\1"),
    (r"ln_post\.(.+)", r"post_layernorm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(.+)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.+)", r"encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.+)", r"encoder.layers.\1.mlp.fc2.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.+)", r"encoder.layers.\1.self_attn.out_proj.\2"),
)
_PACKED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj(?:_|\.)(weight|bias)")


class AlphaClip(nn.Module):
    """Pixels and a mask to one vector.

    Args:
        config: Of the image encoder.
    """

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        self.clip = CLIPVisionModelWithProjection(config)
        patch = cast(int, config.patch_size)  # declared as a union; CLIP's are square
        self.alpha = nn.Conv2d(1, config.hidden_size, patch, patch, bias=False)

    @property
    def network(self) -> Any:
        """The vision transformer, without the projection."""
        return self.clip.vision_model

    @property
    def image_size(self) -> int:
        """Side of the input, pixels."""
        return cast(int, self.config.image_size)

    @property
    def device(self) -> torch.device:
        return self.alpha.weight.device

    def forward(self, pixels: Tensor, alpha: Tensor) -> Tensor:
        """CLIP's features.

        Args:
            pixels: (B, 3, size, size), normalised as for CLIP.
            alpha: (B, 1, size, size): (mask - 0.5) / 0.26, for a mask of 0 and 1.

        Returns:
            (B, D), not normalised.
        """
        embeddings = self.network.embeddings
        patches = embeddings.patch_embedding(pixels) + self.alpha(alpha)  # (B, C, g, g)
        tokens = patches.flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.expand(len(pixels), 1, -1)
        states = torch.cat([first, tokens], dim=1) + embeddings.position_embedding.weight
        states = self.network.encoder(inputs_embeds=self.network.pre_layrnorm(states)).last_hidden_state
        return self.clip.visual_projection(self.network.post_layernorm(states[:, 0]))


def load_alpha_clip(folder: Path, device: torch.device) -> AlphaClip:
    """Read AlphaCLIP's visual tower.

    Args:
        folder: With one ``.pth`` file, and a config.json with ``num_attention_heads`` if a head is not 64 wide.
        device: Where the model goes.

    Raises:
        CheckpointError: The file is missing, damaged or of another model.
    """
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise CheckpointError(f"{folder} has {len(files)} .pth files; AlphaCLIP's folder has one, its visual tower")
    config = folder / "config.json"
    heads = read_json_object(config, CheckpointError).get("num_attention_heads") if config.is_file() else None
    tensors = {name.removeprefix("visual."): tensor.float().clone() for name, tensor in iterate_tensors(files)}
    try:
        return from_tensors(tensors, heads).to(device)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{files[0]} is not AlphaCLIP's visual tower: {error}") from error


def from_tensors(tensors: Mapping[str, Tensor], heads: int | None = None) -> AlphaClip:
    """AlphaCLIP of tensors with OpenAI's names.

    Args:
        tensors: float32.
        heads: Of each layer; None: one for each 64 numbers.

    Raises:
        KeyError: A tensor is missing.
        RuntimeError: A tensor has another shape.
    """
    width, _, patch, _ = tensors["conv1.weight"].shape
    layers = {int(match[1]) for name in tensors if (match := _PACKED.fullmatch(name))}
    side = round((len(tensors["positional_embedding"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(tensors["transformer.resblocks.0.mlp.c_fc.weight"]),
        projection_dim=tensors["proj"].shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=heads or max(width // _HEAD_WIDTH, 1),
        image_size=side * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    model = AlphaClip(config)
    model.network.load_state_dict(_renamed(tensors), strict=True)
    model.clip.visual_projection.weight.data = tensors["proj"].T.contiguous()
    model.alpha.load_state_dict({"weight": tensors["conv1_alpha.weight"]})
    return model.eval().requires_grad_(False)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _PACKED.fullmatch(name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"encoder.layers.{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece
            continue
        for theirs, ours in _NAMES:
            if re.fullmatch(theirs, name):
                renamed[re.sub(f"^{theirs}$", ours, name)] = tensor
    return renamed
