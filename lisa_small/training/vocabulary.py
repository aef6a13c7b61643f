"""A tokenizer for the small model: sentencepiece with LLaMA's settings, trained on what it will hear and say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

ADDED = ("[SEG]", "<im_start>", "<im_end>")


def train_tokenizer(sentences: Iterable[str], size: int, folder: Path) -> None:
    """Write tokenizer.model (BPE, byte fallback, <unk> 0, <s> 1, </s> 2) and added_tokens.json into ``folder``."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    added = {text: pieces + number for number, text in enumerate(ADDED)}
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n", "utf-8")
