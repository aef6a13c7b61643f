"""Masks as images, and their score. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop


def mask_score(seg_probability: float, logits: NDArray[np.float32]) -> float:
    """Confidence of one mask in [0, 1]: P([SEG]) times the mean foreground probability inside the mask.

    logits: (H, W) float32. The mean of ``sigmoid(logits)`` over the pixels with ``logits > 0`` lies in (0.5, 1]: near
    0.5 the mask is a guess at its every pixel. An empty mask scores 0. SAM's own predicted IoU is not used: LISA never
    trains it.
    """
    inside = logits[logits > 0]
    if inside.size == 0:
        return 0.0
    return float(seg_probability * np.mean(1.0 / (1.0 + np.exp(-inside))))


def union_image(crops: Sequence[MaskCrop], size: tuple[int, int]) -> NDArray[np.uint8]:
    """All masks in one image: (H, W) uint8, exactly 0 or 255. size: (height, width) of the camera image."""
    image = np.zeros(size, np.uint8)
    for crop in crops:
        window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        np.maximum(window, crop.pixels, out=window)
    return image


def labels_image(crops: Sequence[MaskCrop], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Instance ids in one image: (H, W) uint8, 0 is background. Where masks overlap the higher score wins."""
    image = np.zeros(size, np.uint8)
    for crop in sorted(crops, key=lambda crop: crop.score):
        window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        window[crop.pixels > 0] = crop.label
    return image
