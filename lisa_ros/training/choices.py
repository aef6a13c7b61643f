"""Which proposals answer a question: the true objects of a picture, covered as well as proposals can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.evaluation.bound import best_steps

LEAST = 0.5
"""IoU of the best set of proposals below which a question has no answer."""
GAIN = 0.02
"""IoU that one more proposal must add."""
WIDTH = 0.05
"""Of a soft target: a proposal whose IoU is less by this has e times less of it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The proposals that are named one after the other for one set of objects.

    Args:
        sequence: Their indices; empty where no set is good enough.
        soft: (M, N) target of each mention.
        iou: Of the set.
    """

    sequence: tuple[int, ...]
    soft: NDArray[np.float32]
    iou: float


@dataclass(eq=False)
class SceneChoices:
    """The proposals of a scene and its objects. Plans are made once.

    Args:
        crops: N proposals, of the size of ``ids``.
        ids: (H, W) uint8, the object of each pixel.
    """

    crops: Sequence[MaskCrop]
    ids: NDArray[np.uint8]
    _plans: dict[tuple[int, ...], Plan] = field(default_factory=dict, repr=False)

    def plan(self, objects: Sequence[int]) -> Plan:
        """The best proposals for a set of objects."""
        key = tuple(sorted(set(objects)))
        if key not in self._plans:
            self._plans[key] = best_plan(self.crops, np.isin(self.ids, key))
        return self._plans[key]


def best_plan(crops: Sequence[MaskCrop], truth: NDArray[np.bool_]) -> Plan:
    """The best proposals for one true mask, chosen one by one: each time the one that raises the IoU most.

    Args:
        crops: N proposals.
        truth: (H, W).
    """
    steps, _ = best_steps(list(crops), truth.astype(np.uint8), GAIN)
    soft, best = [], 0.0
    for step in steps:
        weights = np.exp((step.ious - step.ious[step.index]) / WIDTH)
        # What adds nothing is no good continuation, however near its IoU is.
        weights[step.ious < best + GAIN] = 0.0
        soft.append((weights / weights.sum()).astype(np.float32))
        best = float(step.ious[step.index])
    if best < LEAST:
        return Plan((), np.zeros((0, len(crops)), np.float32), best)
    return Plan(tuple(step.index for step in steps), np.stack(soft), best)
