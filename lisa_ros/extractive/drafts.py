"""Drafts for speculative decoding (Leviathan et al., arXiv:2211.17192): how earlier answers went on.

Only words are drafted: which proposal is mentioned is different for each picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile

MOST, LENGTH = 32, 24
"""Answers that are remembered, and ids of each."""


class Drafts:
    """The words with which earlier answers began."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], None] = OrderedDict()

    def continuation(self, answer: Sequence[int]) -> list[int]:
        """Ids that probably follow: the rest of the last known answer that begins with ``answer``; else none."""
        begun = tuple(answer)
        for known in reversed(self._known):
            if len(known) > len(begun) and known[: len(begun)] == begun:
                return list(known[len(begun) :])
        return []

    def learn(self, answer: Sequence[int], first: int) -> None:
        """Remember an answer up to its first mention.

        Args:
            answer: Its ids.
            first: Id of the first proposal.
        """
        words = tuple(takewhile(lambda i: i < first, answer))[:LENGTH]
        self._known[words] = None
        self._known.move_to_end(words)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
