"""Embeddings of proposals: what stands under a mask, as one vector of length 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lisa_ros.engine.api import Proposals
from lisa_ros.extractive.model.alpha_clip import AlphaClip
from lisa_ros.lisa.preprocess import ClipPreprocessing, Size, for_clip

SQUARE = 1024
"""ELISA squashes a picture to a square of so many pixels before it looks at its proposals."""
ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
BATCH = 16


class MaskEncoder(Protocol):
    """Describes masks."""

    def encode(self, rgb: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]]) -> Tensor:
        """Embeddings (N, D) float32 of length 1, of masks, each (H, W), of a frame uint8 (H, W, 3)."""


def planes(proposals: Proposals, size: Size) -> Iterator[NDArray[np.bool_]]:
    """The mask of each proposal, (H, W) bool, one at a time: all at once may take hundreds of megabytes.

    Args:
        proposals: With masks or crops.
        size: (height, width) of the frame, pixels.
    """
    if proposals.masks is not None:
        yield from proposals.masks
        return
    for crop in proposals.crops:
        plane = np.zeros(size, bool)
        plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
        yield plane


class AlphaClipEncoder:
    """AlphaCLIP looks at the whole picture, with the mask as a fourth channel.

    Args:
        model: With weights.
    """

    def __init__(self, model: AlphaClip):
        self._model = model

    @property
    def size(self) -> int:
        """D."""
        return int(self._model.config.projection_dim)

    @torch.inference_mode()
    def encode(self, rgb: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]]) -> Tensor:
        side = self._model.image_size
        square = np.asarray(Image.fromarray(rgb).resize((SQUARE, SQUARE), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(for_clip(square, ClipPreprocessing(side, side)))[None].to(self._model.device)
        embeddings = []
        resized = (_resized(mask, side) for mask in masks)
        while some := list(islice(resized, BATCH)):
            alpha = ((torch.from_numpy(np.stack(some)) - ALPHA_MEAN) / ALPHA_STD)[:, None].to(self._model.device)
            embeddings.append(self._model(pixels.expand(len(some), -1, -1, -1), alpha))
        return F.normalize(torch.cat(embeddings), dim=1)


def pooled(features: Tensor, masks: Iterable[NDArray[np.bool_]], preprocessing: ClipPreprocessing) -> Tensor:
    """Mean of a vision tower's patch features under each mask.

    Args:
        features: (P, C), the patches row by row; a class token in front of them is left out.
        masks: N of the frame, each (H, W).
        preprocessing: Which square of the frame the tower sees.

    Returns:
        (N, C) float32 of length 1; 0 for a mask that lies outside of that square.
    """
    side = math.isqrt(len(features))
    patches = features[len(features) - side * side :].float()
    weights = [_seen_share(mask, side, preprocessing).ravel() for mask in masks]
    share = torch.from_numpy(np.stack(weights)).to(patches.device)
    return F.normalize(share @ patches, dim=1)


def _seen_share(mask: NDArray[np.bool_], side: int, preprocessing: ClipPreprocessing) -> NDArray[np.float32]:
    """(side, side) share of each patch that the mask covers, in the square that the tower sees."""
    height, width = mask.shape
    edge = min(height, width) * preprocessing.crop / preprocessing.size  # pixels of the frame
    top, left = round((height - edge) / 2), round((width - edge) / 2)
    top, left = max(top, 0), max(left, 0)
    window = mask[top : top + max(round(edge), 1), left : left + max(round(edge), 1)]
    how = cv2.INTER_AREA
    if min(window.shape) < side:
        how = cv2.INTER_LINEAR
    return np.asarray(cv2.resize(window.astype(np.float32), (side, side), interpolation=how), np.float32)


def _resized(mask: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
