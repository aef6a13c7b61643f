"""Removal of specks, small parts of a mask beside the object. They hardly change its area, but enlarge its box."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import crop_mask


def drop_specks(logits: NDArray[np.float32], share: float) -> None:
    """Set the logits of small parts of a mask to 0, in place.

    Args:
        logits: (H, W) float32, C-contiguous. The mask is ``logits > 0``. Its parts are 8-connected components.
        share: Parts with fewer pixels than this share of the largest part are removed, in [0, 1].
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
