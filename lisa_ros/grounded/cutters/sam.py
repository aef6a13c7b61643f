"""SAM 1, SAM 2 and 2.1, and SAM 3's tracker as cutters: boxes and points in, masks out.

transformers' processors of SAM 2 and SAM 3 need torchvision; the few lines here compute the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lisa_ros.errors import ConfigError
from lisa_ros.grounded.finds import Cut, Find, Size
from lisa_ros.grounded.recipe import Part
from lisa_ros.grounded.weights.load import Place, load_model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Input:
    """How a SAM wants its picture.

    Args:
        side: Of the square input, pixels.
        mean: Of each channel, for values in [0, 1].
        std: Of each channel, for values in [0, 1].
        pads: The aspect ratio is kept and the rest is 0 (SAM 1); else the picture is squashed to the square.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pads: bool = False

    def size_of(self, size: Size) -> Size:
        """(height, width) that a picture of ``size`` takes of the square."""
        if not self.pads:
            return self.side, self.side
        scale = self.side / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def pixels(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(3, side, side) float32 of uint8 (H, W, 3)."""
        height, width = self.size_of(rgb.shape[:2])
        small = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        pixels = np.zeros((3, self.side, self.side), np.float32)
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        for channel in range(3):
            table = (values - np.float32(self.mean[channel])) / np.float32(self.std[channel])
            pixels[channel, :height, :width] = table[small[:, :, channel]]
        return pixels


@dataclass(frozen=True, eq=False)
class Embedding:
    """A frame that SAM has processed. features: as the model gives them. size: (height, width) of the frame."""

    features: Any
    size: Size


class SamCutter:
    """A SAM with its weights.

    Args:
        model: ``SamModel``, ``Sam2Model`` or ``Sam3TrackerModel``.
        name: For logs and results.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self.input = input_of(model)

    @classmethod
    def load(cls, part: Part, place: Place) -> SamCutter:
        """Load a SAM. Raises CheckpointError and OutOfMemory."""
        return cls(load_model(class_of(part.kind), part, place), _name_of(part))

    @torch.inference_mode()
    def embed(self, rgb: NDArray[np.uint8]) -> Embedding:
        """See :meth:`Cutter.embed`."""
        pixels = torch.from_numpy(self.input.pixels(rgb))[None]
        features = self.model.get_image_embeddings(pixels.to(self.model.device, self.model.dtype))
        return Embedding(features, rgb.shape[:2])

    @torch.inference_mode()
    def cut(self, embedding: Embedding, finds: Sequence[Find], multimask: bool = False) -> list[Cut]:
        """See :meth:`Cutter.cut`."""
        if not finds:
            return []
        outputs = self.model(
            image_embeddings=embedding.features,
            multimask_output=multimask,
            **self._prompts(embedding, finds),
        )
        ious, low_res = outputs.iou_scores[0].float(), outputs.pred_masks[0].float()  # (S, M), (S, M, h, w)
        best = ious.argmax(dim=1)
        rows = torch.arange(len(finds), device=best.device)
        scores = getattr(outputs, "object_score_logits", None)  # (1, S, 1); SAM 1 has none
        there = torch.ones(len(finds)) if scores is None else torch.sigmoid(scores[0, :, 0].float())
        chosen = low_res[rows, best]
        return [
            Cut(
                self._upsampled(mask, embedding.size).cpu().numpy(),
                mask.cpu().numpy(),
                min(max(float(iou), 0.0), 1.0),
                float(object_),
            )
            for mask, iou, object_ in zip(chosen, ious[rows, best], there, strict=True)
        ]

    def _prompts(self, embedding: Embedding, finds: Sequence[Find]) -> dict[str, Tensor]:
        """Boxes (1, S, 4), points (1, S, P, 2) and their labels (1, S, P), in pixels of the square input."""
        height, width = embedding.size
        in_height, in_width = self.input.size_of(embedding.size)
        scale = np.array([in_width / width, in_height / height], np.float64)
        prompts: dict[str, Tensor] = {}
        if all(find.box is not None for find in finds):
            boxes = np.array([find.box for find in finds], np.float64) * np.tile(scale, 2)
            prompts["input_boxes"] = self._tensor(boxes)[None]
        if all(find.points for find in finds):
            points = np.array([find.points for find in finds], np.float64) * scale
            labels = np.array([find.point_labels or (1,) * len(find.points) for find in finds], np.int64)
            prompts["input_points"] = self._tensor(points)[None]
            prompts["input_labels"] = torch.from_numpy(labels)[None].to(self.model.device)
        return prompts

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(self.model.device, self.model.dtype)

    def _upsampled(self, mask: Tensor, size: Size) -> Tensor:
        """(H, W) logits of a mask (h, w): one bilinear step, for SAM 1 two, with the padding cut off between them."""
        one = mask[None, None]
        if self.input.pads:
            square = (self.input.side, self.input.side)
            one = F.interpolate(one, square, mode="bilinear", align_corners=False)
            height, width = self.input.size_of(size)
            one = one[:, :, :height, :width]
        return F.interpolate(one, size, mode="bilinear", align_corners=False)[0, 0]


def class_of(kind: str) -> Any:
    """The class of transformers for a ``model_type``; videos' checkpoints hold the model of pictures, too.

    Raises:
        ConfigError: The installed transformers does not have it.
    """
    name = "SamModel" if kind == "sam" else "Sam2Model" if kind.startswith("sam2") else "Sam3TrackerModel"
    try:
        return getattr(transformers, name)
    except AttributeError as error:
        raise ConfigError(
            f"transformers {transformers.__version__} has no {name}; pip install -U transformers"
        ) from error


def _name_of(part: Part) -> str:
    return {"sam": "SAM", "sam2": "SAM 2.1", "sam2_video": "SAM 2.1"}.get(part.kind, "SAM 3 tracker")


def input_of(model: Any) -> Input:
    """How a model of the SAM family wants its picture, by its class and its sizes."""
    side = int(model.config.prompt_encoder_config.image_size)
    kind = type(model).__name__
    if kind == "SamModel":
        return Input(side, IMAGENET_MEAN, IMAGENET_STD, pads=True)
    return Input(side, HALF, HALF) if kind.startswith("Sam3") else Input(side, IMAGENET_MEAN, IMAGENET_STD)
