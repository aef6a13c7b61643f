"""Corners of outlines, checked before anything draws them.

Corners that are not finite or far away make drawing libraries crash or take all memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

REACH = 4
"""A corner may be as many picture sides away from the picture's top left corner."""
LONGEST = 200
"""An outline may be as many times as long as the picture's width and height together."""


def corners(points: Any, size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 2) x and y in pixels, N may be 0.

    Args:
        points: A list of [x, y], or a flat list x, y, x, y.
        size: (height, width) of the picture.

    Raises:
        ValueError, TypeError, OverflowError: They are no such corners, not finite, or far away.
    """
    if not isinstance(points, list | tuple):
        raise TypeError(f"the corners are {points!r:.80}; they must be a list")
    if any(isinstance(value, str) for point in points for value in (point if isinstance(point, list) else [point])):
        raise TypeError(f"the corners {points!r:.80} are text; they must be numbers")
    values = np.array(points, np.float64)
    if values.size == 0:
        return np.zeros((0, 2))
    if values.ndim == 1 and len(values) % 2 == 0:
        values = values.reshape(-1, 2)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"corners of the shape {values.shape}; each must be an x and a y")
    if not np.isfinite(values).all():
        raise ValueError(f"the corner {_first(values, ~np.isfinite(values))} is not finite")
    if (far := np.abs(values) > REACH * max(size)).any():
        raise ValueError(f"the corner {_first(values, far)} is far outside the picture of {size[1]} x {size[0]} pixels")
    length = np.abs(np.diff(values, axis=0, append=values[:1])).sum()
    if length > LONGEST * sum(size):
        raise ValueError(f"the outline is {length:.0f} pixels long, the picture has {size[1]} x {size[0]}")
    return values


def _first(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> str:
    x, y = values[wrong.any(axis=1)][0]
    return f"({x:g}, {y:g})"
