"""The regions of one answer on their way out of the worker: numbered, each sent once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from lisa_ros.engine.api import MAX_TARGETS, MaskCrop, Region

logger = logging.getLogger(__name__)

MAX_LABELS = MAX_TARGETS
"""Regions of one answer: ~/labels is mono8 and 0 is background."""
LAST_CHARACTER = 2**32 - 1


class AnswerRegions:
    """What was sent of one answer. The engine's complete answer decides; what it announced before is not sent again."""

    def __init__(self) -> None:
        self._sent: list[tuple[Region, Region]] = []  # (as the engine has it, as it was sent)

    def announce(self, regions: Sequence[Region]) -> list[Region]:
        """Regions of an event that were not sent before, numbered in the order that they come."""
        new = []
        for region in regions:
            if self._index(region) is None and len(self._sent) < MAX_LABELS:
                new.append(self._number(region, len(self._sent) + 1))
        return new

    def complete(self, regions: Sequence[Region]) -> tuple[list[Region], list[int]]:
        """Regions of the answer that were not sent before, and all of them as indexes into everything sent."""
        regions = list(regions)
        if len(regions) > MAX_LABELS:
            logger.warning("the answer has %d regions; the first %d are used", len(regions), MAX_LABELS)
        unique = list({id(region): region for region in regions[:MAX_LABELS]}.values())
        before = len(self._sent)
        indexes = [self._index(region) for region in unique]
        used = {self._sent[index][1].mask.label for index in indexes if index is not None}
        free = (label for label in itertools.count(1) if label not in used)
        for at, region in enumerate(unique):
            if indexes[at] is None:
                indexes[at] = len(self._sent)
                self._number(region, next(free))
        return [sent for _, sent in self._sent[before:]], [index for index in indexes if index is not None]

    def _number(self, region: Region, label: int) -> Region:
        sent = plain_region(region, label)
        self._sent.append((region, sent))
        return sent

    def _index(self, region: Region) -> int | None:
        return next((at for at, (theirs, _) in enumerate(self._sent) if theirs is region), None)


def plain_region(region: Region, label: int) -> Region:
    """``region`` with ``label``, in types that the node's process knows, whatever the engine made it of.

    Raises TypeError or ValueError where a message cannot carry it; the rest was checked by the engine's support.
    """
    crop = region.mask
    if not all(0 <= begin <= end <= LAST_CHARACTER for begin, end in region.spans):
        raise ValueError(f"a region has the spans {region.spans}; they must be (begin, end) of the answer's text")
    score = float(region.score)
    mask = MaskCrop(
        label,
        int(crop.x),
        int(crop.y),
        int(crop.width),
        int(crop.height),
        np.ascontiguousarray(crop.pixels),
        score,
        int(crop.area),
        (float(crop.centroid[0]), float(crop.centroid[1])),
    )
    return Region(mask, score, plain_text(region.phrase), region.spans)


def plain_text(text: Any) -> str:
    """``text`` in characters that a message can carry; as many as before. Raises TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError(f"the engine gave {text!r} where text belongs")
    return str(text).encode("utf-8", "replace").decode("utf-8")
