"""An answer's text, built id by id."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisa_ros.lisa.answer_text import LONG_RUN, AnswerText
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_small import model_folder

TOKENIZERS = [
    Tokenizer.from_folder(folder) for folder in (model_folder(), Path(__file__).parents[1] / "golden" / "ckpt")
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["demo", "golden"])
@given(data=st.data())
def test_text_that_grows_equals_the_text_of_all_ids(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Any ids, added tokens, <unk> and bytes included, after every single one."""
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=90))
    growing = AnswerText(tokenizer)
    for count, token in enumerate(ids, 1):
        growing.push(token)
        assert growing.text == tokenizer.answer_text(ids[:count])


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["demo", "golden"])
def test_a_long_sentence_is_settled_piece_by_piece(tokenizer: Tokenizer) -> None:
    sentence = "It is the small red cup beside the plate on the table. " * 12
    ids = tokenizer.encode(sentence)
    growing = AnswerText(tokenizer)
    for count, token in enumerate(ids, 1):
        growing.push(token)
        assert growing.text == tokenizer.answer_text(ids[:count])
    assert len(growing._run) <= 2 * LONG_RUN
