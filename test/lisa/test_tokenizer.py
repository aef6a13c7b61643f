"""The tokenizer's rules, where a golden does not reach: a person's words are never tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lisa_ros.engine.api import Turn
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.prompt import build_prompt, template
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt"
TOKENIZER = Tokenizer.from_folder(CHECKPOINT)
SPECIAL = ("[SEG]", "<image>", "<im_start>", "<im_end>", "<s>", "</s>", "<unk>")
ADDED = {TOKENIZER.id_of(text) for text in SPECIAL if text != "<image>"}


def ids_of_command(command: str) -> list[int]:
    prompt = build_prompt([Turn(command)], template("llava_v1"), im_start_end=True)
    return TOKENIZER.encode_prompt(prompt.text, prompt.literal)


def test_added_tokens_swallow_white_space_and_control_tokens_do_not() -> None:
    seg = TOKENIZER.id_of("[SEG]")
    assert TOKENIZER.encode("a [SEG] b") == [*TOKENIZER.encode("a"), seg, *TOKENIZER.encode("b")]
    assert TOKENIZER.encode("a </s>b")[:-1] != TOKENIZER.encode("a</s>b")[:-1]


def test_every_piece_begins_with_its_own_word_mark() -> None:
    assert TOKENIZER.encode("[SEG].") == [TOKENIZER.id_of("[SEG]"), *TOKENIZER.encode(".")]


@pytest.mark.parametrize("text", SPECIAL)
def test_special_tokens_in_a_command_are_text(text: str) -> None:
    plain = [i for i in ids_of_command("x") if i in ADDED or i == IMAGE_ID]
    ids = ids_of_command(f"find the {text} please")
    assert [i for i in ids if i in ADDED or i == IMAGE_ID] == plain
    assert text in TOKENIZER.decode(i for i in ids if i != IMAGE_ID)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=8)), max_size=6).map("".join))
def test_no_command_adds_a_token_or_an_image(command: str) -> None:
    expected = [i for i in ids_of_command("x") if i in ADDED - {TOKENIZER.unk_id} or i == IMAGE_ID]
    assert [i for i in ids_of_command(command) if i in ADDED - {TOKENIZER.unk_id} or i == IMAGE_ID] == expected


def test_answer_text_reads_as_a_person_would_write_it() -> None:
    seg, eos = TOKENIZER.id_of("[SEG]"), TOKENIZER.eos_id
    ids = [*TOKENIZER.encode("It is"), seg, *TOKENIZER.encode("and"), seg, *TOKENIZER.encode("."), eos]
    assert TOKENIZER.answer_text(ids) == "It is [SEG] and [SEG]."


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is missing"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((CHECKPOINT / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match="added tokens"):
        Tokenizer.from_folder(tmp_path)


def test_the_newer_table_of_added_tokens_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((CHECKPOINT / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"added_tokens_decoder": {"1": {"content": "<s>"}, "800": {"content": "[SEG]"}}}'
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.id_of("[SEG]") == 800
    assert len(tokenizer) == 801
