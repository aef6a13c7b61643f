"""The networks of a checkpoint: the paper's, or those of another engine in their place."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn
from transformers import SamModel

from lisa_ros.engine.registry import engine_name, module_of
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.lisa.model.clip import ClipTower, VisionTower
from lisa_ros.lisa.weights.spec import ClipFolder, Spec


class ImageEncoder(Protocol):
    """Pixels (B, 3, S, S) to an image embedding (B, C, S / stride, S / stride). A torch module.

    stride: Pixels.
    """

    stride: int

    def __call__(self, pixels: Tensor) -> Tensor: ...


class Networks:
    """The paper's: CLIP reads for the language model, SAM's ViT for the mask decoder. A subclass may have others."""

    def image_encoder(self, spec: Spec) -> ImageEncoder | None:
        """An encoder in place of SAM's ViT; None for the ViT."""
        if spec.image_encoder is not None:
            raise CheckpointError(
                f"{spec.name} has an image encoder of its own, which engine 'lisa' does not have; name the engine that "
                'built it in its config.json ("engine": NAME)'
            )
        return None

    def vision_tower(self, spec: Spec, clip: ClipFolder | None, sam: SamModel) -> VisionTower:
        """What makes the image tokens. Raises CheckpointError, ConfigError."""
        del sam
        if clip is None:
            raise CheckpointError(
                f"{spec.name} needs a CLIP tower, and its config.json names none; pass vision_tower=FOLDER"
            )
        if clip.config.hidden_size != spec.mm_hidden_size:
            raise CheckpointError(
                f"the CLIP tower in {clip.folder} is {clip.config.hidden_size} wide, the checkpoint was trained with "
                f"one of {spec.mm_hidden_size}; pass another with vision_tower=FOLDER"
            )
        return ClipTower(clip.config, spec.select_layer)

    def presence(self, spec: Spec) -> nn.Module | None:
        """A module that adds to the next token's logits, from states (L, H) and image tokens (K, H); None for none."""
        del spec
        return None


def networks_for(folder: Path) -> Networks:
    """The networks of the engine that serves ``folder``: its module may offer ``networks()`` beside its factory."""
    module = importlib.import_module(module_of(engine_name(folder)))
    networks = getattr(module, "networks", None)
    made = networks() if networks is not None else Networks()
    if not isinstance(made, Networks):
        raise ConfigError(f"{module.__name__}.networks() returned a {type(made).__name__}; it must return a Networks")
    return made
