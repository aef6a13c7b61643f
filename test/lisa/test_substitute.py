"""What stands where weights should be is named as what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.tensors import find_files, read_shapes

GOLDEN = Path(__file__).parents[1] / "golden" / "ckpt"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 15000000000\n"
PAGE = "<!DOCTYPE html>\n<html><body>404</body></html>\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "words"), [(POINTER, "Git LFS pointer"), (PAGE, "a web page")])
def test_weights_that_are_something_else_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        read_shapes(find_files(tmp_path))


@pytest.mark.parametrize(("content", "words"), [(POINTER, "Git LFS pointer"), (PAGE, "a web page")])
def test_a_tokenizer_that_is_something_else_is_named(tmp_path: Path, content: str, words: str) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "ckpt")
    (folder / "tokenizer.model").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[1, 2]", "not an index of shards"),
        ('{"weight_map": {"a": "shards/one.safetensors"}}', "without a folder"),
        ('{"weight_map": {"a": "one.safetensors"}}', r"not in .*one\.safetensors"),
        (POINTER, "Git LFS pointer"),
    ],
)
def test_an_index_that_cannot_be_used_says_why(tmp_path: Path, index: str, words: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=words):
        find_files(tmp_path)
