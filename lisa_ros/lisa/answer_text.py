"""Incremental decoding of an answer: the text of earlier tokens is not decoded again."""

from __future__ import annotations

from lisa_ros.lisa.tokenizer import Tokenizer, tidy

LONG_RUN = 24
"""Number of ids of ordinary text after which their text is final, from the next word on."""


class AnswerText:
    """The same text as :meth:`Tokenizer.answer_text` of all ids so far, at a bounded cost for each id."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._settled: list[str] = []
        self._run: list[int] = []

    def push(self, token: int) -> None:
        """Add the next token id."""
        tokenizer = self._tokenizer
        if token in (tokenizer.bos_id, tokenizer.eos_id):
            return
        if tokenizer.is_added(token):
            self._settle()
            self._settled.append(tokenizer.decode([token]))
            return
        # A run is cut where a word begins, so that the pieces join by a blank, as in the whole text.
        if len(self._run) >= LONG_RUN and tokenizer.begins_word(token) and tokenizer.unk_id not in self._run:
            self._settle()
        self._run.append(token)

    @property
    def text(self) -> str:
        """The answer so far."""
        run = [self._tokenizer.decode(self._run)] if self._run else []
        return tidy(" ".join([*self._settled, *run]))

    def _settle(self) -> None:
        if self._run:
            self._settled.append(self._tokenizer.decode(self._run))
            self._run = []
