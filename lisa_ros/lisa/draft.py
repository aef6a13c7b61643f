"""Guesses of the answer that the model verifies while it reads the prompt.

LISA answers most commands with one of a few sentences. A guess costs a few positions in a pass that is made anyway; a
right one saves a pass for every token. The model's own choices decide: a wrong guess costs time and never changes text
(speculative decoding with a fixed draft; Leviathan et al., arXiv:2211.17192).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lisa_ros.lisa.prompt import Template
from lisa_ros.lisa.tokenizer import Tokenizer

# The sentences LISA was trained to answer with, the most frequent first.
ANSWERS = ("Sure, [SEG].", "It is [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].")


class DraftBook:
    """Answers to propose: LISA's own sentences, and the last short ones this model really gave.

    max_learned: how many of those are remembered. max_length: tokens; a longer answer is unlikely to come again.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, max_learned: int = 32, max_length: int = 24):
        known = [tuple(tokenizer.encode(answer + template.answer_end)) for answer in ANSWERS]
        self._answers: OrderedDict[tuple[int, ...], None] = OrderedDict.fromkeys(reversed(known))
        self._room = len(known) + max_learned
        self._max_length = max_length

    def continuation(self, answer: Sequence[int]) -> list[int]:
        """What probably follows ``answer``: the rest of the latest known answer that begins so, or nothing."""
        begun = tuple(answer)
        for known in reversed(self._answers):
            if len(known) > len(begun) and known[: len(begun)] == begun:
                return list(known[len(begun) :])
        return []

    def learn(self, answer: Sequence[int]) -> None:
        """Remember a whole answer as the likeliest next one; the least recent is forgotten."""
        if len(answer) > self._max_length:
            return
        self._answers[tuple(answer)] = None
        self._answers.move_to_end(tuple(answer))
        if len(self._answers) > self._room:
            self._answers.popitem(last=False)
