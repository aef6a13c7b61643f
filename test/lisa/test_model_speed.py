"""The benchmark against the reference's way notices a wrong answer; the reference can read its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from benchmarks.random_checkpoint import SIZES, write_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_checkpoint(folder, SIZES["tiny"])
    return folder


@pytest.fixture
def ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import model_speed

    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return model_speed.Ways(folder, rgb)


def test_both_ways_agree_and_another_command_would_be_noticed(ways) -> None:
    figures = ways.measure("check")
    assert figures["apart"] <= 1e-4
    assert figures["wrong_command"] > 1e-3


def test_a_way_that_answers_another_command_is_caught(ways, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ways.reference.answer
    monkeypatch.setattr(ways.reference, "answer", lambda command: answer("the red cup"))
    with pytest.raises(SystemExit, match="the two ways differ"):
        ways.measure("check")


def test_the_added_tokens_follow_the_last_piece(folder: Path) -> None:
    """Else the slow tokenizer of the reference's transformers stops: non-consecutive added token."""
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    added = json.loads((folder / "added_tokens.json").read_text())
    assert sorted(added.values()) == list(range(pieces, SIZES["tiny"].vocabulary))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    golden = json.loads((REPOSITORY / "test/golden/ckpt/tokenizer_config.json").read_text())
    for name in ("tokenizer_class", "add_bos_token", "add_eos_token", "legacy", "padding_side"):
        assert config[name] == golden[name]
