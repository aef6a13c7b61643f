"""What stands where weights should be is named as what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lisa_ros
from lisa_ros.cli import main
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


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.model", "added_tokens.json"],
)
def test_a_link_of_the_hub_cache_whose_file_is_gone_is_named(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "ckpt")
    shutil.copytree(GOLDEN.parent / "clip-tiny", tmp_path / "clip-tiny")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(CheckpointError, match=rf"{name} is a link to a file that is gone.*'lisa fetch'"):
        lisa_ros.load_engine(folder, "cpu")


def test_a_shard_whose_link_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    (tmp_path / "one.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"one\.safetensors is a link to a file that is gone"):
        find_files(tmp_path)


def test_a_config_that_is_a_web_page_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "ckpt")
    (folder / "config.json").write_text(PAGE)
    with pytest.raises(CheckpointError, match=r"config\.json is a web page"):
        lisa_ros.load_engine(folder, "cpu")


def test_a_name_of_the_hub_as_model_has_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = str(Path(__file__).parents[2] / "demo" / "scene.jpg")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for command in (["segment", scene, "the cup", "--model"], ["inspect"]):
        assert main([*command, "xinlai/LISA-7B-v1"]) == 1
        assert "get that model with 'lisa fetch xinlai/LISA-7B-v1', then name its folder, LISA-7B-v1" in (
            capsys.readouterr().err
        )
        assert main([*command, "gone"]) == 1
        assert "gone is a link to a folder that is gone" in capsys.readouterr().err


def test_a_model_whose_json_has_a_byte_order_mark_is_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "ckpt")
    shutil.copytree(GOLDEN.parent / "clip-tiny", tmp_path / "clip-tiny")
    for file in [*folder.glob("*.json"), *(tmp_path / "clip-tiny").glob("*.json")]:
        file.write_text(file.read_text("utf-8"), "utf-8-sig")
    assert lisa_ros.load_engine(folder, "cpu").info.name
