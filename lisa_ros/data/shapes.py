"""labelme's shapes: what each draws, or why it draws nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.data.outline import corners

Paint = Callable[[NDArray[np.uint8], int], None]
"""Sets the pixels of a shape in an (H, W) uint8 image to a value."""

OUTLINED = ("polygon", "rectangle", "rotation", "oriented_rectangle")
WITHOUT_AREA = ("line", "linestrip", "point", "points")


class NoArea(ValueError):
    """A shape that covers no pixel: it is left out, and the others of its picture are drawn."""


def paint_of(shape: dict[str, Any], size: tuple[int, int]) -> Paint:
    """How a shape of a labelme json is drawn.

    A polygon's corners are truncated to whole pixels and its outline is drawn one pixel wide, as ReasonSeg's benchmark
    does; a rectangle likewise. A circle has the pixels whose centre is at most its radius away. A mask is labelme's:
    two corners, both included, and a PNG in base64.

    Args:
        shape: With ``points``, and ``shape_type``, which is a polygon where it is missing.
        size: (height, width) of the picture.

    Raises:
        NoArea: The shape covers no pixel of the picture.
        KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError: The shape cannot be drawn.
    """
    kind = shape.get("shape_type") or "polygon"
    points = corners(shape["points"], size)
    if len(points) == 0:
        raise NoArea("it has no points")
    if kind in WITHOUT_AREA:
        raise NoArea(f"a {kind} has no area; outline the thing with a polygon")
    if kind in OUTLINED:
        paint = _outlined(points, kind)
    elif kind == "circle":
        paint = _circle(points)
    elif kind == "mask":
        paint = _bitmap(points, shape.get("mask"), size)
    else:
        raise ValueError(f"shape_type {kind!r} is not known; use polygon, rectangle, circle or mask")
    drawn = np.zeros(size, np.uint8)
    paint(drawn, 1)
    if not drawn.any():
        raise NoArea(f"it has no pixel in the picture of {size[1]} x {size[0]}")
    return paint


def overhang(points: Any, size: tuple[int, int]) -> float:
    """How far the corners reach outside the picture, as a share of its longer side."""
    x, y = corners(points, size).T
    outside = max(-x.min(), -y.min(), x.max() - size[1], y.max() - size[0], 0.0)
    return float(outside) / max(size)


def _outlined(points: NDArray[np.float64], kind: str) -> Paint:
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if len(points) < 3:
        raise NoArea(f"a {kind} of {len(points)} points has no area")
    pixels = points.astype(np.int32)

    def paint(image: NDArray[np.uint8], value: int) -> None:
        cv2.polylines(image, [pixels], True, value, 1)
        cv2.fillPoly(image, [pixels], value)

    return paint


def _circle(points: NDArray[np.float64]) -> Paint:
    if len(points) != 2:
        raise ValueError(f"a circle has {len(points)} points; it needs its centre and a point on its rim")
    (x, y), rim = points
    radius = float(np.hypot(*(rim - points[0])))

    def paint(image: NDArray[np.uint8], value: int) -> None:
        rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
        image[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = value

    return paint


def _bitmap(points: NDArray[np.float64], encoded: Any, size: tuple[int, int]) -> Paint:
    if len(points) != 2:
        raise ValueError(f"a mask has {len(points)} points; it needs its top left and its bottom right corner")
    if not isinstance(encoded, str):
        raise TypeError("a mask has no picture; 'mask' must be a PNG in base64")
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.floor(points.max(axis=0)).astype(int)
    expected = (right - left + 1, bottom - top + 1)
    height, width = size
    if expected[0] > width or expected[1] > height:
        raise ValueError(f"the mask has {expected[0]} x {expected[1]} pixels, the picture {width} x {height}")
    bitmap = _png(encoded, expected)
    rows = slice(max(top, 0), max(min(bottom + 1, height), 0))
    columns = slice(max(left, 0), max(min(right + 1, width), 0))
    inside = bitmap[max(-top, 0) :, max(-left, 0) :][: rows.stop - rows.start, : columns.stop - columns.start] != 0

    def paint(image: NDArray[np.uint8], value: int) -> None:
        image[rows, columns][inside] = value

    return paint


def _png(encoded: str, size: tuple[int, int]) -> NDArray[Any]:
    """(H, W) of a PNG in base64 that must be of ``size`` (width, height). Raises ValueError."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",))
        if picture.size != size:
            raise ValueError(f"{picture.size} pixels, its corners enclose {size}")
        bitmap = np.asarray(picture)
    except Exception as error:  # what Pillow raises for damaged files has no common type
        raise ValueError(f"'mask' is not the PNG of this shape in base64: {error}") from error
    if bitmap.ndim != 2:
        raise ValueError(f"the mask is a picture of mode {picture.mode}; it must have one channel")
    return bitmap
