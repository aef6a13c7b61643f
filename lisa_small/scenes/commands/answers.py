"""The model's answers in words. ``[SEG]`` stands for the mask of everything that the answer names before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lisa_small.scenes.world import WORLD


def enumerate_words(words: Sequence[str]) -> str:
    """ "the a, the b and the c" """
    words = [f"the {word}" for word in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def answer_with(labels: Sequence[str], paint: str = "", because: str = "") -> str:
    """The answer to a command that has targets.

    Args:
        labels: The class of every target; a class of two targets is there twice.
        paint: The colour of all of them, or empty.
        because: A reason, or empty.

    Returns:
        "It is the hammer, [SEG]." or "They are the forks and the spoon, [SEG].", with the reason after it.
    """
    names = [WORLD.things[label].plural if count > 1 else label for label, count in sorted(Counter(labels).items())]
    if paint:
        names = [f"{paint} {name}" for name in names]
    many = len(labels) > 1 or WORLD.things[labels[0]].many
    start = "They are" if many else "It is"
    return f"{start} {enumerate_words(names)}, [SEG]." + (f" {because}" if because else "")


def answer_without(name: str, many: bool = False) -> str:
    """The answer where nothing fits: "There is no umbrella here."."""
    return f"There are no {name} here." if many else f"There is no {name} here."


def answer_denying(name: str, claim: str, many: bool = False) -> str:
    """The answer where the thing is there but the claim is false: "The cup is not left of the book."."""
    return f"The {name} {'are' if many else 'is'} not {claim}."
