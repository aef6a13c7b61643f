"""Ids and labels of whole conversations against the reference's."""

import json
from pathlib import Path

import numpy as np
import pytest

from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.training.collate import collate, cuts_token

GOLDENS = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", ["short", "long"])
def test_ids_labels_and_padding_are_the_references(case):
    told = json.loads((GOLDENS / "misc" / f"collate_A_{case}.json").read_text())
    expected = np.load(GOLDENS / "misc" / f"collate_A_{case}.npz")
    tokenizer = Tokenizer.from_folder(GOLDENS / told["tokenizer"])
    batch = collate(told["conversation_list"], tokenizer, template(told["conv_type"]), 512 - 255)
    assert np.array_equal(batch.ids, expected["input_ids"])
    assert np.array_equal(batch.labels, expected["labels"])
    assert np.array_equal(batch.ids != tokenizer.unk_id, expected["attention_masks"])


def test_a_conversation_that_would_lose_its_seg_is_noticed():
    told = json.loads((GOLDENS / "misc" / "collate_A_long.json").read_text())
    tokenizer = Tokenizer.from_folder(GOLDENS / told["tokenizer"])
    first, *_, longest = told["conversation_list"]
    assert cuts_token(longest, tokenizer, 257) and not cuts_token(first, tokenizer, 257)
