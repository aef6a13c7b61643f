"""What a vision-language model is to a locator: turns of a chat in, pieces of text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import ShouldStop


@dataclass(frozen=True)
class Message:
    """One turn of a chat. picture: what :meth:`Chat.picture` made; it stands before the text."""

    role: Literal["user", "assistant"]
    text: str
    picture: Any = None


@dataclass(frozen=True)
class Piece:
    """A piece of the answer. logprob: natural logarithm of its probability, if it is one token and the model says."""

    text: str
    logprob: float | None = None


OnPiece = Callable[[Piece], bool]
"""Takes a piece; returns True if no more are wanted."""


class Chat(Protocol):
    """A vision-language model, in this process or behind a URL. Calls are made one at a time."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def picture(self, rgb: NDArray[np.uint8]) -> Any:
        """Process a picture once, for any number of chats. rgb: uint8 (h, w, 3), of the size that the model sees."""

    def stream(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        max_tokens: int,
        on_piece: OnPiece,
        should_stop: ShouldStop,
    ) -> None:
        """Answer by greedy decoding.

        Args:
            messages: The last one is the user's.
            schema: JSON schema that the answer should follow; a model may ignore it.
            max_tokens: Most tokens of the answer.
            on_piece: Called with each piece as it comes; if it returns True, the model stops.
            should_stop: If it returns True, the model stops and ``Cancelled`` is raised.

        Raises:
            Cancelled: ``should_stop`` returned True.
            CommandError: The prompt is too long for the model.
            ImageError: The model cannot use the picture.
            NotReady: The model cannot be had now.
            Busy: The model has too much to do.
            TimedOut: The answer took too long.
        """

    def yes_probability(self, message: Message, should_stop: ShouldStop) -> float | None:
        """Probability that the answer to a question begins with yes, of yes and no; None if the model says neither.

        Raises:
            LisaError: As :meth:`stream`.
        """


def probability_of_yes(first_tokens: dict[str, float]) -> float | None:
    """P(yes) / (P(yes) + P(no)).

    Args:
        first_tokens: Probability of each token that the answer may begin with.
    """
    sums = {"yes": 0.0, "no": 0.0}
    for token, probability in first_tokens.items():
        word = token.strip().strip(".,!\"'").lower()
        if word in sums:
            sums[word] += probability
    total = sums["yes"] + sums["no"]
    return sums["yes"] / total if total > 0 else None
