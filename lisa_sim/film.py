"""A film and a picture of one command, from the robot's own camera."""

from __future__ import annotations

import textwrap
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BAR_PX = 46  # height of the words above a picture
WHITE, GREY, DARK, POINT = (255, 255, 255), (190, 190, 190), (32, 34, 38), (220, 20, 60)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def titled(rgb: NDArray[np.uint8], title: str, line: str = "") -> NDArray[np.uint8]:
    """A picture (H, W, 3) with a bar of two lines above it. OpenCV's font has ASCII only."""
    bar = np.full((BAR_PX, rgb.shape[1], 3), DARK, np.uint8)
    longest = rgb.shape[1] // 8
    for text, y, colour in ((title, 19, WHITE), (line, 38, GREY)):
        plain = text.encode("ascii", "replace").decode()
        cv2.putText(
            bar, textwrap.shorten(plain, longest, placeholder="..."), (8, y), FONT, 0.45, colour, 1, cv2.LINE_AA
        )
    return np.concatenate([bar, rgb])


def with_point(rgb: NDArray[np.uint8], pixel: tuple[float, float]) -> NDArray[np.uint8]:
    """A copy of a picture with a cross where the cup goes. pixel: x, y."""
    image = rgb.copy()
    centre = (round(pixel[0]), round(pixel[1]))
    for colour, thickness in ((WHITE, 4), (POINT, 2)):
        cv2.drawMarker(image, centre, colour, cv2.MARKER_CROSS, 18, thickness, cv2.LINE_AA)
        cv2.circle(image, centre, 11, colour, thickness, cv2.LINE_AA)
    return image


class Film:
    """Writes frames to an MP4 file, all of the first one's size. Nothing is written where there was no frame.

    Where nothing changes for longer than a second, the rest of that time is left out.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[np.uint8] | None = None
        self._repeats = 0

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """rgb: (H, W, 3) uint8."""
        self._repeats = self._repeats + 1 if self._last is not None and np.array_equal(rgb, self._last) else 0
        self._last = rgb
        if self._repeats > self._rate_hz:
            return
        if self._writer is None:
            size = (rgb.shape[1], rgb.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate_hz, size)
        self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))

    def close(self) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.release()
