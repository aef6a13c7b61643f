"""Overlaps between masks, and removal of near copies. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mask_ious(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, ...) bool to the IoU of each pair, (N, N) float32; 0 where both are empty."""
    flat = masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32)
    inside = flat @ flat.T
    areas = np.diagonal(inside)
    return inside / np.maximum(areas[:, None] + areas[None] - inside, 1.0)


def box_ious(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, 4) left, top, right, bottom to the IoU of each pair, (N, N) float32."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    inside = np.prod(np.clip(sides, 0, None), axis=2)
    union = areas[:, None] + areas[None] - inside
    return (inside / np.maximum(union, 1e-9)).astype(np.float32)


def suppress(ious: NDArray[np.floating], order: Sequence[int], most: float) -> list[int]:
    """Non-maximum suppression.

    Args:
        ious: (N, N) of each pair.
        order: Indices, the best first.
        most: IoU with a better one up to which one stays, in [0, 1].

    Returns:
        The indices that stay, the best first.
    """
    chosen: list[int] = []
    for index in order:
        if not chosen or ious[index, chosen].max() <= most:
            chosen.append(int(index))
    return chosen
