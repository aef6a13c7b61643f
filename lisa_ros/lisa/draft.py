"""Drafts of the answer for speculative decoding (Leviathan et al., arXiv:2211.17192).

LISA and its relatives answer most commands with one of a few sentences. A draft is appended to the prompt and adds a
few positions to its pass. Each token that the model confirms saves a pass. A wrong draft costs time, but never changes
the text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from lisa_ros.lisa.family import Family
from lisa_ros.lisa.prompt import Template
from lisa_ros.lisa.tokenizer import Tokenizer


class DraftBook:
    """Answers to propose: the sentences the model was trained on, and the last short answers of this model.

    Args:
        tokenizer: The model's.
        template: The model's conversation template.
        family: Its sentences.
        max_learned: Most answers of the model that are stored.
        max_length: Most tokens of a stored answer; longer ones rarely repeat.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, family: Family, max_learned: int = 32, max_length: int = 24
    ):
        self._tokenizer = tokenizer
        self._family = family
        self._end = template.answer_end
        self._mask_id, self._reject_id = tokenizer.id_of(family.mask_token), tokenizer.id_of(family.reject_token)
        known = [self._ids(answer) for answer in family.answers]
        self._answers: OrderedDict[tuple[int, ...], None] = OrderedDict.fromkeys(reversed(known))
        self._room = len(known) + max_learned
        self._max_length = max_length

    def about(self, targets: Sequence[str]) -> list[tuple[int, ...]]:
        """Answers that give a mask for each target, in the sentences of the family."""
        if not targets:
            return []
        return [self._ids(self._family.named_answer(form, targets)) for form in self._family.named_answers]

    def continuation(
        self, answer: Sequence[int], about: Sequence[tuple[int, ...]] = (), *, whole: bool = True
    ) -> list[int]:
        """Token ids that probably follow.

        Args:
            answer: Ids of the answer so far.
            about: Answers of this command to try first, see :meth:`about`. They fit a rejected target, too.
            whole: Propose all the rest of an answer of ``about``; False ends it behind its next mask token. After a
                draft that was wrong the rest may be wrong too, and each proposed token has its price.

        Returns:
            The rest of a known answer that begins with ``answer``, the most recent one first; empty if there is none.
        """
        begun = tuple(answer)
        with_masks = tuple(self._mask_id if token == self._reject_id else token for token in begun)
        for known in about:
            if len(known) > len(begun) and known[: len(begun)] == with_masks:
                rest = list(known[len(begun) :])
                end = rest.index(self._mask_id) + 1 if self._mask_id in rest and not whole else len(rest)
                return rest[:end]
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

    def _ids(self, answer: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(answer + self._end))
