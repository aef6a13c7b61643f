"""The regions of one answer on their way out of the worker: numbered, each sent once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lisa_ros.engine.api import MAX_LABELS, Region
from lisa_ros.engine.support import numbered


def unique(regions: Sequence[Region]) -> list[Region]:
    """The regions of an answer, each object once, as many as have labels."""
    return list({id(region): region for region in regions}.values())[:MAX_LABELS]


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
        each = unique(regions)
        before = len(self._sent)
        indexes = [self._index(region) for region in each]
        used = {self._sent[index][1].mask.label for index in indexes if index is not None}
        free = (label for label in itertools.count(1) if label not in used)
        for at, region in enumerate(each):
            if indexes[at] is None:
                indexes[at] = len(self._sent)
                self._number(region, next(free))
        return [sent for _, sent in self._sent[before:]], [index for index in indexes if index is not None]

    def _number(self, region: Region, label: int) -> Region:
        sent = numbered(region, label)
        self._sent.append((region, sent))
        return sent

    def _index(self, region: Region) -> int | None:
        """Of the same object, or else of the same mask: what is mentioned again is a new region with more spans."""
        for at, (theirs, _) in enumerate(self._sent):
            if theirs is region:
                return at
        same = (at for at, (theirs, _) in enumerate(self._sent) if _is_again(theirs, region))
        return next(same, None)


def _is_again(earlier: Region, region: Region) -> bool:
    """Whether ``region`` is ``earlier`` with further mentions."""
    return earlier.mask is region.mask and set(earlier.spans) < set(region.spans)
