"""Masks drawn over the frame, for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.segmentation import MaskCrop

# Okabe and Ito's: strong, far apart in hue, and told apart by most colour-blind people too.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def draw_overlay(rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], opacity: float = 0.5) -> NDArray[np.uint8]:
    """A copy of ``rgb`` (H, W, 3) with every mask in a colour of its own. opacity: 0 invisible, 1 opaque."""
    image = rgb.copy()
    share = round(256 * opacity)
    for crop in crops:
        window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        colour = np.array(COLOURS[(crop.label - 1) % len(COLOURS)], np.uint16)
        mixed = (window.astype(np.uint16) * (256 - share) + colour * share) >> 8
        np.copyto(window, mixed.astype(np.uint8), where=crop.pixels[:, :, None] > 0)
    return image
