"""Proposals in numbers, for the pointer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.lisa.preprocess import Size


def places_of(crops: Sequence[MaskCrop], size: Size) -> NDArray[np.float32]:
    """Where masks are in the padded square that the model sees.

    Args:
        crops: N masks of a frame.
        size: (height, width) of the frame, pixels.

    Returns:
        (N, 6): x and y of the middle, width, height, root of the area, all relative to the square; the score.
    """
    longest = max(size)
    rows = [
        (
            *((crop.x + crop.width / 2) / longest, (crop.y + crop.height / 2) / longest),
            *(crop.width / longest, crop.height / longest, crop.area**0.5 / longest, crop.score),
        )
        for crop in crops
    ]
    return np.array(rows, np.float32).reshape(len(crops), 6)
