"""Masks as images, and their score. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop, crop_mask


def mask_score(seg_probability: float, logits: NDArray[np.float32]) -> float:
    """Confidence of one mask: P([SEG]) times the mean foreground probability inside the mask.

    The second factor is the mean of ``sigmoid(logits)`` over the pixels with ``logits > 0``. It lies in (0.5, 1]; near
    0.5, every pixel of the mask is uncertain. SAM's own prediction of the IoU is not used: LISA does not train it.

    Args:
        seg_probability: Probability of the token ``[SEG]``, in [0, 1].
        logits: (H, W) float32.

    Returns:
        The score, in [0, 1]; 0 for an empty mask.
    """
    inside = logits[logits > 0]
    if inside.size == 0:
        return 0.0
    return float(seg_probability * np.mean(1.0 / (1.0 + np.exp(-inside))))


def union_image(crops: Sequence[MaskCrop], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Union of masks as one image.

    Args:
        crops: Masks of one camera image.
        size: (height, width) of that image, pixels.

    Returns:
        (H, W) uint8, exactly 0 or 255.
    """
    image = np.zeros(size, np.uint8)
    for crop in crops:
        window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        np.maximum(window, crop.pixels, out=window)
    return image


def united_crop(crops: Sequence[MaskCrop], score: float) -> MaskCrop:
    """Union of masks of one image as one crop.

    Args:
        crops: At least one mask; the label of the first is used.
        score: Confidence of the union, in [0, 1].
    """
    size = (max(crop.y + crop.height for crop in crops), max(crop.x + crop.width for crop in crops))
    return crop_mask(union_image(crops, size) > 0, crops[0].label, score)


def labels_image(crops: Sequence[MaskCrop], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Labels of masks as one image.

    Args:
        crops: Masks of one camera image, with labels from 1 to 255.
        size: (height, width) of that image, pixels.

    Returns:
        (H, W) uint8: the label of the mask at each pixel, 0 for background. Where masks overlap, the higher score wins.
    """
    image = np.zeros(size, np.uint8)
    for crop in sorted(crops, key=lambda crop: crop.score):
        window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        window[crop.pixels > 0] = crop.label
    return image
