"""Things told apart in a map of classes: what hangs together is one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST = 3
"""Cells of the least thing: fewer are an error of the map."""

SPECK = 0.12
"""Share of the largest thing of its class below which a part is what an occluder cut off, or an error."""


@dataclass(frozen=True)
class Thing:
    """label: of the map. row, column: of its cell next to its middle."""

    label: int
    row: int
    column: int


def tell_apart(labels: NDArray[np.integer]) -> list[Thing]:
    """The things of a map (g, g) of labels, 0 for nothing. Two that are alike and touch are one."""
    found: list[Thing] = []
    for label in np.unique(labels[labels > 0]):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=8)
        areas = stats[:, cv2.CC_STAT_AREA]
        least = max(SMALLEST, SPECK * areas[1:].max())
        found += [Thing(int(label), *core(parts == part)) for part in range(1, count) if areas[part] >= least]
    return found


def core(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the covered pixel next to the mask's middle, which itself may be bare, as in a ring."""
    rows, columns = np.nonzero(mask)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return int(rows[nearest]), int(columns[nearest])
