"""What the locators of noun phrases share: a phrase out of a command, and boxes that are told once."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, ShouldStop
from lisa_ros.errors import Cancelled, CommandError
from lisa_ros.grounded.finds import Find

DUPLICATE_IOU = 0.8
"""Boxes that overlap as much are one object; the better score is kept."""


class PhraseLocator:
    """Base of the locators that know noun phrases only: they neither explain nor confirm."""

    multimask = False

    def confirm(
        self, rgb: NDArray[np.uint8], find: Find, ask: Ask, mask: NDArray[np.bool_], should_stop: ShouldStop
    ) -> float | None:
        """See :meth:`Locator.confirm`: None, they cannot say."""
        del rgb, find, ask, mask, should_stop
        return None


def phrase_of(ask: Ask) -> str:
    """The command as a noun phrase: lower case, without the dots that separate phrases.

    Raises:
        CommandError: Nothing is left.
    """
    phrase = " ".join(re.sub(r"[.\s]+", " ", ask.text.lower()).split()).rstrip("?! ")
    if not phrase:
        raise CommandError(f"the command '{ask.text}' holds no noun; name an object, for example 'red cup'")
    return phrase


def check_length(phrase: str, tokens: int, most: int) -> None:
    """Raise CommandError for a phrase of more tokens than the model reads."""
    if tokens > most:
        raise CommandError(f"'{phrase[:40]}...' has {tokens} tokens; the model reads {most}: name the object alone")


def check_stop(should_stop: ShouldStop) -> None:
    """Raise Cancelled if the caller asked to stop."""
    if should_stop():
        raise Cancelled("canceled before the model looked at the image")


def told_once(boxes: NDArray[np.float64], scores: Sequence[float], most: int) -> list[int]:
    """Indexes of the boxes that are no duplicates of a better one, best first.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: N.
        most: Most indexes.
    """
    kept: list[int] = []
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    for index in sorted(range(len(scores)), key=lambda one: -scores[one]):
        if len(kept) == most:
            break
        others = boxes[kept]
        sides = np.minimum(boxes[index, 2:], others[:, 2:]) - np.maximum(boxes[index, :2], others[:, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        if not np.any(shared > DUPLICATE_IOU * (areas[index] + areas[kept] - shared)):
            kept.append(index)
    return kept
