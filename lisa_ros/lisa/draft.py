"""Drafts of the answer for speculative decoding (Leviathan et al., arXiv:2211.17192).

LISA answers most commands with one of a few sentences. A draft is appended to the prompt and adds a few positions to
its pass. Each token that the model confirms saves a pass. A wrong draft costs time, but never changes the text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lisa_ros.lisa.prompt import Template
from lisa_ros.lisa.tokenizer import Tokenizer

# The sentences LISA was trained to answer with, the most frequent first.
ANSWERS = ("Sure, [SEG].", "It is [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].")


class DraftBook:
    """Answers to propose: LISA's training sentences, and the last short answers of this model.

    Args:
        tokenizer: The model's.
        template: The model's conversation template.
        max_learned: Most answers of the model that are stored.
        max_length: Most tokens of a stored answer; longer ones rarely repeat.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, max_learned: int = 32, max_length: int = 24):
        known = [tuple(tokenizer.encode(answer + template.answer_end)) for answer in ANSWERS]
        self._answers: OrderedDict[tuple[int, ...], None] = OrderedDict.fromkeys(reversed(known))
        self._room = len(known) + max_learned
        self._max_length = max_length

    def continuation(self, answer: Sequence[int]) -> list[int]:
        """Token ids that probably follow.

        Args:
            answer: Ids of the answer so far.

        Returns:
            The rest of the most recent known answer that begins with ``answer``; empty if there is none.
        """
        begun = tuple(answer)
        for known in reversed(self._answers):
            if len(known) > len(begun) and known[: len(begun)] == begun:
                return list(known[len(begun) :])
        return []

    def learn(self, answer: Sequence[int]) -> None:
        """Store the ids of a whole answer, which becomes the first to be proposed. The least recent one is dropped."""
        if len(answer) > self._max_length:
            return
        self._answers[tuple(answer)] = None
        self._answers.move_to_end(tuple(answer))
        if len(self._answers) > self._room:
            self._answers.popitem(last=False)
