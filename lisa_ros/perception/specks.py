"""Specks: small parts of a mask beside the thing, which spoil its box more than its overlap."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import crop_mask


def drop_specks(logits: NDArray[np.float32], share: float) -> None:
    """Set to 0, in place, what is positive in parts of less than ``share`` of the largest part's pixels.

    logits: (H, W) float32, C-contiguous. A part is what hangs together by sides or corners.
    """
    crop = crop_mask(logits > 0, 1, 0.0)
    if not crop.area:
        return
    box = logits[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    count, parts, stats, _ = cv2.connectedComponentsWithStats(crop.pixels)
    if count > 2:  # more than background and one part
        areas = stats[:, cv2.CC_STAT_AREA]
        small = areas < share * areas[1:].max()
        small[0] = False
        box[small[parts]] = 0.0
