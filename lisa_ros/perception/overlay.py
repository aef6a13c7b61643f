"""Masks drawn over the frame, for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop

# Okabe and Ito's: strong, far apart in hue, and told apart by most colour-blind people too.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
LONGEST_PHRASE = 30  # characters
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overlay(
    rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], opacity: float = 0.5, phrases: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """A copy of an image with every mask filled and outlined in its own colour, its label, phrase and score above.

    Args:
        rgb: uint8 (H, W, 3).
        crops: Masks of the image. Empty ones are not drawn.
        opacity: Of the fill, in [0, 1]; with 0 there is only the outline, with 1 the image below is hidden.
        phrases: A name for each mask; or empty. OpenCV's font has only ASCII; other phrases are not drawn.
    """
    image = np.array(rgb, order="C")
    names = dict(zip(map(id, crops), phrases, strict=True)) if phrases else {}
    crops = [crop for crop in crops if crop.area]
    for crop in crops:
        _fill(image, crop, opacity)
    # Names last, so that no mask covers them.
    thickness = max(1, round(max(image.shape[:2]) / 500))
    for crop in crops:
        _outline(image, crop, thickness)
    for crop in crops:
        _name(image, crop, thickness, names.get(id(crop), ""))
    return image


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a mask's label, from 1."""
    return COLOURS[(label - 1) % len(COLOURS)]


def _colour(crop: MaskCrop) -> tuple[int, int, int]:
    return colour_of(crop.label)


def _fill(image: NDArray[np.uint8], crop: MaskCrop, opacity: float) -> None:
    window = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    share = round(256 * opacity)
    mixed = (window.astype(np.uint16) * (256 - share) + np.array(_colour(crop), np.uint16) * share) >> 8
    np.copyto(window, mixed.astype(np.uint8), where=crop.pixels[:, :, None] > 0)


def _outline(image: NDArray[np.uint8], crop: MaskCrop, thickness: int) -> None:
    """The mask's border in its colour on white: one of the two stands out from any background."""
    contours, _ = cv2.findContours(crop.pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for width, colour in ((3 * thickness, _WHITE), (thickness, _colour(crop))):
        cv2.drawContours(image, contours, -1, colour, width, cv2.LINE_AA, offset=(crop.x, crop.y))


def _cut(phrase: str) -> str:
    return phrase if len(phrase) <= LONGEST_PHRASE else f"{phrase[: LONGEST_PHRASE - 3]}..."


def _name(image: NDArray[np.uint8], crop: MaskCrop, thickness: int, phrase: str) -> None:
    """Label, phrase and score on a plate of the mask's colour above its box, moved to where the image has room."""
    shown = f"{_cut(phrase)} " if phrase.isascii() and phrase else ""
    text, scale, margin = f"{crop.label}: {shown}{crop.score:.2f}", 0.4 + 0.2 * thickness, 2 + 2 * thickness
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    x = max(0, min(crop.x, image.shape[1] - width - 2 * margin))
    y = max(0, crop.y - height - below - 2 * margin)
    colour = _colour(crop)
    cv2.rectangle(image, (x, y), (x + width + 2 * margin, y + height + below + 2 * margin), colour, cv2.FILLED)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128
    at = (x + margin, y + margin + height)
    cv2.putText(image, text, at, _FONT, scale, _BLACK if bright else _WHITE, thickness, cv2.LINE_AA)
