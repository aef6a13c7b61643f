"""The best that a choice among proposals could reach: the set whose union has the highest IoU with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.truth import IGNORED
from lisa_ros.engine.api import MaskCrop
from lisa_ros.evaluation.metrics import Overlap

RIGHT = 0.02
"""IoU below that of the best set up to which a choice counts as right."""


@dataclass(frozen=True, eq=False)
class Step:
    """One choice of the best set.

    Args:
        index: The proposal.
        ious: (N,) float64, IoU with the truth when each proposal is added to those of the steps before.
    """

    index: int
    ious: NDArray[np.float64]


def best_steps(crops: Sequence[MaskCrop], truth: NDArray[np.uint8], gain: float = 0.0) -> tuple[list[Step], Overlap]:
    """Choose greedily: the best single proposal, then whichever raises the IoU most, until none does.

    Args:
        crops: N proposals.
        truth: (H, W) with 0, 1 and IGNORED.
        gain: IoU that a step must add; 0: anything.

    Returns:
        The steps, and the overlap of their union with the truth; without any, that of an empty mask.
    """
    counts = truth != IGNORED
    free, missed = counts & (truth != 1), counts & (truth == 1)  # pixels that no chosen proposal covers yet
    target = int(np.count_nonzero(missed))
    masks = [crop.pixels > 0 for crop in crops]
    steps: list[Step] = []
    inside, outside, best = 0, 0, 0.0
    while len(steps) < len(crops):
        hits, extras = (
            np.array([_covered(plane, crop, mask) for crop, mask in zip(crops, masks, strict=True)], np.int64)
            for plane in (missed, free)
        )
        ious = (inside + hits) / np.maximum(target + outside + extras, 1)
        at = int(ious.argmax())
        if ious[at] <= best or ious[at] < best + gain:
            break
        best, inside, outside = float(ious[at]), inside + int(hits[at]), outside + int(extras[at])
        for plane in (missed, free):
            _window(plane, crops[at])[masks[at]] = False
        steps.append(Step(at, ious))
    return steps, Overlap(inside, target + outside)


def best_set(crops: Sequence[MaskCrop], truth: NDArray[np.uint8]) -> tuple[list[int], Overlap]:
    """Indices of the best set of proposals, and the overlap of its union with ``truth`` (H, W): :func:`best_steps`."""
    crops = list(crops)  # packed ones are unpacked once
    steps, overlap = best_steps(crops, truth)
    return [step.index for step in steps], overlap


def _window(plane: NDArray[np.bool_], crop: MaskCrop) -> NDArray[np.bool_]:
    return plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]


def _covered(plane: NDArray[np.bool_], crop: MaskCrop, mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(_window(plane, crop) & mask))
