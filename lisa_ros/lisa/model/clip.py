"""CLIP's vision tower: a frame's image tokens for the language model."""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel


def num_patches(config: CLIPVisionConfig) -> int:
    """Image tokens of a CLIP tower, without the class token."""
    side = cast(int, config.image_size) // cast(int, config.patch_size)  # declared as unions; CLIP's are square
    return side * side


class VisionTower(Protocol):
    """What makes image tokens.

    reads_embedding: its input is the mask decoder's image embedding instead of normalised pixels.
    """

    reads_embedding: bool

    @property
    def num_tokens(self) -> int:
        """K, image tokens of a frame."""

    def __call__(self, tower_input: Tensor) -> Tensor:
        """(B, ...) to (B, K, mm_hidden)."""


class ClipTower(nn.Module):
    """Patch features of CLIP, taken before its last layers as LLaVA does; the layers after that are not built.

    Args:
        config: Of the whole tower.
        select_layer: As in LLaVA's config, an index into [embeddings, layer 1, ..., layer n], usually -2.
    """

    reads_embedding = False

    def __init__(self, config: CLIPVisionConfig, select_layer: int = -2):
        super().__init__()
        depth = config.num_hidden_layers
        needed = CLIPVisionConfig(**{**config.to_dict(), "num_hidden_layers": range(depth + 1)[select_layer]})
        clip = CLIPVisionModel(needed)
        # Some releases of transformers keep the network one level down; ours has one name for its tensors.
        self.clip = getattr(clip, "vision_model", clip)

    @property
    def num_tokens(self) -> int:
        return num_patches(self.clip.config)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) normalised pixels to (B, K, mm_hidden) patch features, without the class token."""
        return self.clip(pixels).last_hidden_state[:, 1:]
