"""Conversations to padded ids and labels, token for token as LISA was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lisa_ros.lisa.prompt import Template
from lisa_ros.lisa.tokenizer import IMAGE, Tokenizer
from lisa_ros.training.losses import IGNORE


@dataclass(frozen=True)
class TokenBatch:
    """N conversations of T ids. ids: (N, T) padded with ``<unk>`` (0). labels: (N, T), IGNORE outside answers."""

    ids: Tensor
    labels: Tensor


def collate(conversations: Sequence[str], tokenizer: Tokenizer, template: Template, max_tokens: int) -> TokenBatch:
    """Tokenise whole conversations (``<image>`` in each stands for the image) and mask all but the answers.

    An answer and its ``</s>`` are trained. What is longer than ``max_tokens`` (before the image is expanded) is cut, as
    in the reference; ask :func:`cuts_token` first where no mask token may be lost.
    """
    rows = [tokenizer.encode_prompt(text) for text in conversations]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.unk_id)
    labels = torch.full_like(ids, IGNORE)
    for number, (text, row) in enumerate(zip(conversations, rows, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        for begin, end in answer_spans(text, tokenizer, template):
            labels[number, begin:end] = ids[number, begin:end]
    return TokenBatch(ids[:, :max_tokens], labels[:, :max_tokens])


def answer_spans(text: str, tokenizer: Tokenizer, template: Template) -> list[tuple[int, int]]:
    """[begin, end) of each answer with its ``</s>`` among the ids of ``text``.

    The text before the first question may hold an example with an answer (CoReS), which is not trained.

    Counted as the reference counts: a round on its own has a ``<s>`` more and an ``</s>`` less than in the whole text.
    Raises ValueError for a round without an answer.
    """
    end_of_answer, begin_of_answer = template.answer_end.strip(), template.question_end + " "
    spans: list[tuple[int, int]] = []
    at = 1
    for turn in text.split(end_of_answer):
        if not turn.strip():
            break
        question, separator, _ = turn.rpartition(begin_of_answer)
        examples = template.open.count(begin_of_answer) if not spans else 0
        if not separator or question.count(begin_of_answer) != examples:
            raise ValueError(f"a turn needs one '{begin_of_answer}': {turn[-80:]!r}")
        length = len(tokenizer.encode_prompt(turn))
        # The prefix ends in a lone word-begin mark that the whole text does not have, and begins with <s>.
        prefix = len(tokenizer.encode_prompt(question + separator)) - 2
        spans.append((at + prefix, at + length))
        at += length
    return spans


def cuts_token(text: str, tokenizer: Tokenizer, max_tokens: int, tokens: Sequence[str] = ("[SEG]",)) -> bool:
    """Whether cutting ``text`` to ``max_tokens`` would lose one of ``tokens`` and with it the match to the masks."""
    lost = tokenizer.encode_prompt(text)[max_tokens:]
    return any(tokenizer.id_of(token) in lost for token in tokens) or IMAGE not in text
