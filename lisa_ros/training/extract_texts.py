"""What ELISA is asked and how it answers, in training: the reference's sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lisa_ros.extractive.words import mask_word

PHRASES = (
    "The segmentation mask for the object in the image is",
    "The requested object cab be found in",
    "You can find the segmentation mask for the object in the image at",
    "The object is located in",
    "The object is in",
    "You can find the object in",
    "Concering the object location, it is in",
    "The object is located at",
    "The object is at",
    "The object can be found in",
    "The object is in the image at",
)
"""Before the masks. The mistakes are the reference's: its models were trained with them."""

REQUESTS = tuple(
    f"{verb} the {what}{where}"
    for verb, places in (
        ("Output", (" for the object in the image", "")),
        ("Generate", (" for the object", "")),
        ("Provide", (" for the object", "")),
    )
    for where in places
    for what in ("segmentation mask", "mask")
)


@dataclass(frozen=True)
class Draws:
    """What is drawn for one sample.

    Args:
        masks_first: The masks come before the words of the answer.
        phrase: Index of the phrase; None: without one.
        request_first: The request comes before the question.
        request: Index of the request.
    """

    masks_first: bool
    phrase: int | None
    request_first: bool
    request: int


def draw(position: str, text: bool, generator: torch.Generator | None = None) -> Draws:
    """Draw in the reference's order.

    Args:
        position: ``before``, ``after`` or ``randomized``.
        text: Whether a phrase introduces the masks.
        generator: None: torch's own.
    """

    def before() -> bool:
        if position != "randomized":
            return position == "before"
        return float(torch.rand(1, generator=generator)) < 0.5

    masks_first = before()
    phrase = int(torch.randint(len(PHRASES), (1,), generator=generator)) if text else None
    request_first = before()
    return Draws(masks_first, phrase, request_first, int(torch.randint(len(REQUESTS), (1,), generator=generator)))


def question(query: str, draws: Draws) -> str:
    """What the model is asked."""
    request = REQUESTS[draws.request]
    return f"{request}. {query}" if draws.request_first else f"{query} {request}."


def answer(words: str, numbers: Sequence[int], draws: Draws) -> str:
    """What it answers.

    Args:
        words: The explanation.
        numbers: Of the masks, from 1, ascending.
        draws: As for the question.
    """
    masks = "".join(mask_word(number) for number in (reversed(numbers) if draws.masks_first else numbers))
    if draws.phrase is None:
        return f"{masks}{words}" if draws.masks_first else f"{words}{masks}"
    phrase = PHRASES[draws.phrase]
    return f"{phrase}{masks}. {words}" if draws.masks_first else f"{words} {phrase}{masks}."
