"""The regions of one answer on their way out of the worker: numbered, each sent once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lisa_ros.engine.api import MAX_LABELS, Region
from lisa_ros.engine.support import numbered


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
        unique = list({id(region): region for region in regions}.values())[:MAX_LABELS]
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
        sent = numbered(region, label)
        self._sent.append((region, sent))
        return sent

    def _index(self, region: Region) -> int | None:
        return next((at for at, (theirs, _) in enumerate(self._sent) if theirs is region), None)
