"""What LISA is asked and how it answers, in training: the reference's sentences, refusals, and several ``[SEG]``."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lisa_ros.lisa.family import FAMILIES

SEG = "[SEG]"

ANSWERS = FAMILIES["lisa"].answers
"""With a mask."""

SHORT_QUESTIONS = (
    "Can you segment the {} in this image?",
    "Please segment the {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
)
"""For a noun phrase."""

LONG_QUESTIONS = (
    "{} Please respond with segmentation mask.",
    "{} Please output segmentation mask.",
)
"""For a sentence."""

EXPLAIN_QUESTIONS = (
    "{} Please output segmentation mask and explain why.",
    "{} Please output segmentation mask and explain the reason.",
    "{} Please output segmentation mask and give some explanation.",
)

REFUSALS = (
    "There is no {} in this image.",
    "I see no {} here.",
    "No, there is no {} in this image.",
)
"""For a noun phrase that names nothing in the picture."""

REFUSALS_OF_A_SENTENCE = (
    "There is nothing like that in this image.",
    "Nothing in this image fits that.",
    "I see nothing like that here.",
)

CORRECTIONS = (
    "There is no {} in this image, but there is {}.",
    "I see no {} here. What I see is {}.",
    "No {} is in this image; perhaps you mean {}.",
)
"""For a noun phrase that names nothing in the picture, and one that does."""

_ARTICLES = ("the ", "a ", "an ", "any ", "some ")


def ask(text: str, is_sentence: bool, rng: random.Random) -> str:
    """A question for a mask about ``text``, as the reference asks it: a phrase loses its capitals.

    Where the question brings its own 'the', the phrase's article goes too (the reference asks for 'the the red cup').
    """
    if is_sentence:
        return rng.choice(LONG_QUESTIONS).format(text.strip())
    question, phrase = rng.choice(SHORT_QUESTIONS), text.strip().lower()
    return question.format(_without_article(phrase) if "the {}" in question else phrase)


def answer(rng: random.Random) -> str:
    """An answer with one ``[SEG]``."""
    return rng.choice(ANSWERS)


def refuse(text: str, is_sentence: bool, rng: random.Random) -> str:
    """An answer without ``[SEG]``: what was asked for is not there."""
    if is_sentence:
        return rng.choice(REFUSALS_OF_A_SENTENCE)
    return rng.choice(REFUSALS).format(_without_article(text.strip().lower().rstrip(".?!")))


def deny(text: str, instead: str, rng: random.Random) -> str:
    """An answer to a referring expression that means nothing; ``instead``: what is there in its place, or empty."""
    if not instead:
        return refuse(text, True, rng)
    phrase, other = _without_article(text.strip().lower().rstrip(".?!")), instead.strip().lower().rstrip(".?!")
    return rng.choice(CORRECTIONS).format(phrase, other)


def ask_several(names: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """A question for several things at once, and its answer with one ``[SEG]`` for each, in the same order."""
    things = _listed([f"the {_without_article(name.strip().lower())}" for name in names])
    question = rng.choice(("Can you segment {} in this image?", "Please segment {} in this image.")).format(things)
    return question, answer(rng).replace(SEG, _listed([SEG] * len(names)))


def ask_why(text: str, rng: random.Random) -> str:
    """A question for a mask and the reason."""
    return rng.choice(EXPLAIN_QUESTIONS).format(text.strip())


def _without_article(phrase: str) -> str:
    for article in _ARTICLES:
        if phrase.startswith(article):
            return phrase[len(article) :]
    return phrase


def _listed(things: list[str]) -> str:
    """a / a and b / a, b and c."""
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
