"""gIoU and cIoU exactly as LISA computes them. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.truth import IGNORED


@dataclass(frozen=True)
class Overlap:
    """Pixels of one mask against its truth."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """In [0, 1]; an empty mask for an empty truth is 1, any mask for an empty truth is 0."""
        return self.intersection / (self.union + 1e-5) if self.union else 1.0


def overlap(mask: NDArray, truth: NDArray) -> Overlap:
    """mask: (H, W) bool or 0/1. truth: (H, W) with 0, 1 and IGNORED, or bool."""
    counts = truth != IGNORED
    predicted, true = (mask > 0) & counts, (truth == 1) & counts
    return Overlap(int(np.count_nonzero(predicted & true)), int(np.count_nonzero(predicted | true)))


def giou(overlaps: list[Overlap]) -> float:
    """Mean of the masks' IoU. 0 without a mask."""
    return sum(o.iou for o in overlaps) / (len(overlaps) + 1e-5)


def ciou(overlaps: list[Overlap]) -> float:
    """Sum of intersections over sum of unions: large objects count more. 0 without a pixel."""
    return sum(o.intersection for o in overlaps) / (sum(o.union for o in overlaps) + 1e-10)
