"""Vision features of a frame that are pooled under proposals: DINOv2's, or the model's own image embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import Dinov2Model

from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.preprocess import for_sam
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter

DINO_SIDE = 896
"""Side of the padded square that LLM-Seg shows to DINOv2, pixels."""


class Vision(Protocol):
    """Makes features of the padded square."""

    @property
    def channels(self) -> int:
        """F, their width."""

    def patches(self, image: EncodedImage) -> Tensor:
        """(G * G, F) features of the padded square of a frame, row by row."""


class OwnEmbedding:
    """The image embedding of the mask decoder: nothing is computed twice. Used where there is no other tower."""

    def __init__(self, segmenter: Segmenter):
        self._segmenter = segmenter

    @property
    def channels(self) -> int:
        return self._segmenter.spec.out_dim

    def patches(self, image: EncodedImage) -> Tensor:
        self._segmenter.ensure_embedding(image)
        assert image.features.embedding is not None
        return image.features.embedding[0].flatten(1).T


class DinoTower:
    """DINOv2 by transformers. Its position table is resized by transformers, which differs a little from torch.hub's.

    Args:
        model: With weights, on its device.
    """

    def __init__(self, model: Dinov2Model):
        self._model = model
        patch = cast(int, model.config.patch_size)  # declared as a union; DINOv2's patches are square
        self._side = DINO_SIDE // patch * patch

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> DinoTower:
        """Read a folder of transformers. Never touches the network.

        Raises:
            CheckpointError: There is no DINOv2 in it.
        """
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"there is no DINOv2 in {folder}; get one with 'lisa fetch facebook/dinov2-large'")
        try:
            model: Any = Dinov2Model.from_pretrained(folder, local_files_only=True, dtype=dtype)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"{folder} is no DINOv2: {' '.join(str(error).split())[:200]}") from error
        return cls(model.to(device).eval().requires_grad_(False))

    @property
    def channels(self) -> int:
        return int(self._model.config.hidden_size)

    def patches(self, image: EncodedImage) -> Tensor:
        """Of the frame with its longest side at 896, normalised as for SAM and padded with zeros: the states after the
        last norm, without the class token."""
        pixels = torch.from_numpy(for_sam(image.rgb, self._side))[None]
        weight = self._model.embeddings.patch_embeddings.projection.weight
        states: Tensor = self._model(pixels.to(weight.device, weight.dtype)).last_hidden_state
        return states[0, 1:]
