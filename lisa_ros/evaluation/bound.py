"""The best that a choice among proposals could reach: the set whose union has the highest IoU with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.truth import IGNORED
from lisa_ros.engine.api import MaskCrop
from lisa_ros.evaluation.metrics import Overlap

RIGHT = 0.02
"""IoU below that of the best set up to which a choice counts as right."""


def best_set(crops: Sequence[MaskCrop], truth: NDArray[np.uint8]) -> tuple[list[int], Overlap]:
    """Choose greedily: the best single proposal, then whichever raises the IoU most, until none does.

    Args:
        crops: Proposals.
        truth: (H, W) with 0, 1 and IGNORED.

    Returns:
        Indices, and the overlap of their union with the truth; without any, that of an empty mask.
    """
    counts = truth != IGNORED
    free, missed = counts & (truth != 1), counts & (truth == 1)  # pixels that no chosen proposal covers yet
    target = int(np.count_nonzero(missed))
    chosen: list[int] = []
    inside, outside, best = 0, 0, 0.0
    waiting = [(index, crop, crop.pixels > 0) for index, crop in enumerate(crops) if crop.area]
    while True:
        gains = [(_covered(missed, crop, mask), _covered(free, crop, mask)) for _, crop, mask in waiting]
        ious = [(inside + hit) / max(target + outside + extra, 1) for hit, extra in gains]
        if not ious or max(ious) <= best:
            return chosen, Overlap(inside, target + outside)
        at = int(np.argmax(ious))
        best, (hit, extra) = ious[at], gains[at]
        inside, outside = inside + hit, outside + extra
        index, crop, mask = waiting.pop(at)
        for plane in (missed, free):
            _window(plane, crop)[mask] = False
        chosen.append(index)


def _window(plane: NDArray[np.bool_], crop: MaskCrop) -> NDArray[np.bool_]:
    return plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]


def _covered(plane: NDArray[np.bool_], crop: MaskCrop, mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(_window(plane, crop) & mask))
