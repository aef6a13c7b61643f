"""A locator that asks a vision-language model for boxes and points, in the dialect of its family."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, ShouldStop
from lisa_ros.errors import LisaError
from lisa_ros.grounded.answers import AnswerReader
from lisa_ros.grounded.dialects import Dialect, schema
from lisa_ros.grounded.finds import Find, Located, OnFind, OnWords, Size
from lisa_ros.grounded.locators.chat import Chat, Message, Piece

logger = logging.getLogger(__name__)

_SPECIAL = re.compile(r"<(\||/?(?:image|img|video|s|think|start_of_turn|end_of_turn)\b)", re.IGNORECASE)
OBJECT_TOKENS, THOUGHT_TOKENS = 48, 1024
"""Tokens for one object, and for the thoughts of a model that thinks: on top of a command's limit, which is for words
that a person reads."""

CHECK_SIDE = 448
"""Longest side of the crop for the yes/no question, pixels."""


@dataclass(frozen=True, eq=False)
class View:
    """A frame as a model sees it.

    Args:
        picture: What the chat made of it.
        sent: (height, width) of the picture as sent.
        size: (height, width) of the camera image.
    """

    picture: Any
    sent: Size
    size: Size


class MllmLocator:
    """Asks for boxes, reads them while they stream, and asks again whether a mask shows the object.

    Args:
        chat: The model.
        dialect: Of its family; a function is called with the first frame, for a server that starts later.
        max_side: Longest side of the picture as sent, pixels.
        max_objects: Most objects of one answer.
        structured: Constrain answers by a JSON schema, if the dialect has one.
        think: Ask for the reason before the objects instead of after them.
    """

    def __init__(
        self,
        chat: Chat,
        dialect: Dialect | Callable[[], Dialect],
        max_side: int = 1024,
        max_objects: int = 8,
        structured: bool = True,
        think: bool = False,
    ) -> None:
        self.chat = chat
        self._dialect = dialect
        self._max_side = max_side
        self._max_objects = max_objects
        self._structured = structured
        self._think = think
        self._schema = ""  # what became of the JSON schema: followed, ignored or refused
        self._logprobs = False
        self._dropped: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self.chat.name

    @property
    def dialect(self) -> Dialect:
        """The model's dialect. Raises NotReady and ConfigError where a server has to be asked."""
        if not isinstance(self._dialect, Dialect):
            self._dialect = self._dialect()
        return self._dialect

    @property
    def multimask(self) -> bool:
        return self.dialect.multimask

    def remarks(self) -> list[str]:
        """What is worth knowing of the answers so far."""
        remarks = [f"dialect {self.dialect.name}"]
        if self.dialect.schema and self._structured:
            remarks += {
                "refused": ["the server refuses JSON schemas: answers may break their form more often"],
                "ignored": ["the JSON schema was not followed: answers may break their form more often"],
            }.get(self._schema, [])
        if not self._logprobs:
            remarks.append("there are no log probabilities: scores tell less")
        if self._dropped:
            remarks.append(f"objects of answers that could not be used: {dict(self._dropped)}")
        return remarks

    def view(self, rgb: NDArray[np.uint8]) -> View:
        """See :meth:`Locator.view`."""
        size = rgb.shape[:2]
        sent = self.dialect.frame.sent_size(size, self._max_side)
        return View(self.chat.picture(rgb, sent), sent, size)

    def locate(self, view: View, ask: Ask, on_find: OnFind, on_words: OnWords, should_stop: ShouldStop) -> Located:
        """See :meth:`Locator.locate`."""
        reason = ask.explain or self._think
        question = plain(ask.text if ask.verbatim else self.dialect.question(ask.text, view.sent, reason))
        messages = [*_earlier(ask), Message("user", question, view.picture)]
        form = None
        if self.dialect.schema and self._structured:
            form = schema(self.dialect, view.sent, self._max_objects, reason, self._think)
        reader = self._read(view, messages, form, ask, (on_find, on_words, should_stop))
        if reader.loops and not reader.finds and form is not None:
            logger.warning(
                "%s writes blanks only under the JSON schema; asked again without it. Start vLLM with "
                "--structured-outputs-config '{\"disable_any_whitespace\": true}'",
                self.name,
            )
            reader = self._read(view, messages, None, ask, (on_find, on_words, should_stop))
        self._notice(reader, form is not None)
        return Located(reader.text, reader.words, question, reader.dropped.total())

    def _read(
        self,
        view: View,
        messages: list[Message],
        form: dict[str, Any] | None,
        ask: Ask,
        calls: tuple[OnFind, OnWords, ShouldStop],
    ) -> AnswerReader:
        on_find, on_words, should_stop = calls
        reader = AnswerReader(self.dialect, view.sent, view.size, min(self._max_objects, ask.mask_limit))
        tokens = ask.token_limit + OBJECT_TOKENS * reader.max_objects + THOUGHT_TOKENS * self.dialect.thinks
        longest = 4096 + 16 * tokens  # characters: a server may not heed max_tokens
        words: str | None = None

        def take(piece: Piece) -> bool:
            nonlocal words
            if words is None:
                words = ""
                on_words(words)
            new = reader.feed(piece.text, piece.logprob)
            if not reader.absent:
                for find in new:
                    on_find(find)
            if ask.explain and reader.reason != words:
                words = reader.reason
                on_words(words)
            enough = reader.complete and not ask.explain
            return enough or reader.loops or len(reader.text) > longest

        self.chat.stream(messages, form, tokens, take, should_stop)
        if not reader.absent:
            for find in reader.finish():
                on_find(find)
        return reader

    def _notice(self, reader: AnswerReader, with_schema: bool) -> None:
        """Keep what :meth:`remarks` tells."""
        self._dropped += reader.dropped
        self._logprobs = self._logprobs or reader.has_logprobs
        if with_schema and getattr(self.chat, "refuses_schema", False):
            self._schema = "refused"
        elif with_schema and reader.text:
            followed = reader.text.lstrip().startswith("{") and self._schema in ("", "followed")
            self._schema = "followed" if followed else "ignored"

    def confirm(
        self, rgb: NDArray[np.uint8], find: Find, ask: Ask, mask: NDArray[np.bool_], should_stop: ShouldStop
    ) -> float | None:
        """See :meth:`Locator.confirm`: the model is shown the outlined object and answers yes or no."""
        crop = outlined_crop(rgb, mask)
        frame = self.dialect.frame
        picture = self.chat.picture(crop, frame.sent_size(crop.shape[:2], max(frame.squash, CHECK_SIDE)))
        query = plain(" ".join(ask.text.split()))
        text = (
            f'Somebody asked for this: "{query}"\nIs the outlined object in the picture what they mean? Answer yes or '
            "no, one word."
        )
        return self.chat.yes_probability(Message("user", text, picture), should_stop)


def outlined_crop(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The part of a frame around a mask, twice as wide and high as its box, with the outline of the mask in red.

    Raises:
        LisaError: The mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise LisaError("the mask is empty; there is nothing to outline")
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    margin_y, margin_x = (bottom - top) // 2 + 8, (right - left) // 2 + 8
    window = (
        slice(max(top - margin_y, 0), bottom + margin_y),
        slice(max(left - margin_x, 0), right + margin_x),
    )
    crop = rgb[window].copy()
    outlines, _ = cv2.findContours(mask[window].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(crop, outlines, -1, (255, 0, 0), max(1, round(max(crop.shape[:2]) / 200)))
    return crop


def plain(text: str) -> str:
    """Text whose words never become special tokens of a chat template, such as ``<|im_end|>`` or ``<image>``.

    Characters that UTF-8 lacks, which an answer may hold as escapes, become question marks.
    """
    return _SPECIAL.sub(r"< \1", text).encode("utf-8", "replace").decode("utf-8")


def _earlier(ask: Ask) -> list[Message]:
    """Earlier turns, with the answers as the model wrote them, so that coordinates stay in its own frame."""
    messages = []
    for turn in ask.history.turns if ask.history is not None else ():
        messages += [Message("user", plain(turn.question)), Message("assistant", plain(turn.answer or ""))]
    return messages
