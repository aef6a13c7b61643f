"""The text of an answer, in which numbers stand for the masks that it mentions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lisa_ros.engine.api import Proposals, Span, Turn
from lisa_ros.extractive.words import MENTION, Message


@dataclass(frozen=True)
class MentionText:
    """An answer for people.

    Args:
        text: With ``[1]`` for the proposal that is mentioned first, ``[2]`` for the next other one.
        order: Indexes of the proposals, each once, in the order of their numbers.
        spans: Where each of them is mentioned, in the same order.
        mentions: Index of the proposal of each mention, in the order of the text.
        marked: ``text`` with MENTION in place of the numbers.
    """

    text: str
    order: tuple[int, ...]
    spans: tuple[tuple[Span, ...], ...]
    mentions: tuple[int, ...]
    marked: str


def mention_text(texts: Sequence[str], proposals: Sequence[int], most: int) -> MentionText:
    """Join an answer.

    A mask word brings its blank along; where it begins the answer, there is none.

    Args:
        texts: M + 1 texts between the mentions.
        proposals: Index of each of the M proposals that are mentioned.
        most: Number of proposals that are numbered; further ones are left out.
    """
    text, marked = texts[0].lstrip(), texts[0].lstrip()
    spans: dict[int, list[Span]] = {}
    mentions = []
    for index, behind in zip(proposals, texts[1:], strict=True):
        if index in spans or len(spans) < most:
            number = list(spans).index(index) + 1 if index in spans else len(spans) + 1
            text = f"{text} " if text and not text[-1].isspace() else text
            marked = f"{marked} " if marked and not marked[-1].isspace() else marked
            begin = len(text)
            text, marked = f"{text}[{number}]", f"{marked}{MENTION}"
            spans.setdefault(index, []).append((begin, len(text)))
            mentions.append(index)
        text, marked = text + behind, marked + behind
    return MentionText(text.rstrip(), tuple(spans), tuple(map(tuple, spans.values())), tuple(mentions), marked.rstrip())


@dataclass(frozen=True)
class ExtractedTurn(Turn):
    """A turn whose answer mentions proposals.

    Args:
        mentions: Index of the proposal of each mention.
        marked: The answer, MENTION in place of the numbers.
        source: The proposals, by identity: on another frame the same index means another mask.
    """

    mentions: tuple[int, ...] = ()
    marked: str = ""
    source: object = field(default=None, compare=False, repr=False)


def messages_of(turns: Sequence[Turn], question: str, source: Proposals | None, *, literal: bool) -> list[Message]:
    """The conversation for the model. Mentions of masks of another frame are plain numbers.

    Args:
        turns: Earlier ones.
        question: The new question.
        source: The proposals of this frame.
        literal: Whether the new question is a person's text; else it may hold mask words.
    """
    messages = []
    for turn in turns:
        known = isinstance(turn, ExtractedTurn) and turn.source is source
        answer = Message(turn.marked, turn.mentions) if known else Message(turn.answer or "")  # type: ignore[attr-defined]
        messages += [Message(turn.question), answer]
    return [*messages, with_mask_words(question, turns, source) if literal else Message(question, literal=False)]


_REFERENCE = re.compile(r"\[(\d{1,3})\]|\bnumber (\d{1,3})\b", re.IGNORECASE)


def with_mask_words(question: str, turns: Sequence[Turn], source: Proposals | None) -> Message:
    """``question`` with the mask word behind "number 2" and "[2]", where the last answer with masks has that number."""
    named: list[int] = []

    def marked(words: str, index: int) -> str:
        named.append(index)
        return f"{words} {MENTION}"

    text = _replaced(question.replace(MENTION, ""), turns, source, marked)
    return Message(text, tuple(named))


def with_names(question: str, turns: Sequence[Turn], source: Proposals | None) -> str:
    """The same with the names of things, for a model that reads no mask words in questions."""

    def named(words: str, index: int) -> str:
        phrases = source.phrases if source is not None else ()
        return f"{words} (the {phrases[index]})" if phrases else words

    return _replaced(question, turns, source, named)


def _replaced(question: str, turns: Sequence[Turn], source: Proposals | None, by: Callable[[str, int], str]) -> str:
    last = next((turn for turn in reversed(turns) if isinstance(turn, ExtractedTurn) and turn.mentions), None)
    if last is None or last.source is not source:
        return question
    order = list(dict.fromkeys(last.mentions))

    def replacement(match: re.Match[str]) -> str:
        number = int(match[1] or match[2])
        return by(match[0], order[number - 1]) if 1 <= number <= len(order) else match[0]

    return _REFERENCE.sub(replacement, question)
