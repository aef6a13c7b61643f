"""`lisa merge FILE.bin --base LLAVA`: GSVA's released file becomes a folder like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from goldens import ALL_FULL, GOLDEN
from safetensors.torch import load_file

from lisa_ros.cli import main
from lisa_ros.engine.registry import load_engine
from lisa_ros.lisa.tokenizer import Tokenizer

A = ALL_FULL / "GSVA-A"
LLAVA = {"<im_patch>": 800, "<im_start>": 801, "<im_end>": 802}
LAYER = "model.layers.1.self_attn"
Tensors = dict[str, torch.Tensor]


def merge(*words: object) -> int:
    return main(["merge", *map(str, words)])


@pytest.mark.skipif(not A.is_dir(), reason="needs the full goldens beside the checkout")
def test_the_released_file_becomes_what_the_reference_merges(tmp_path: Path) -> None:
    assert merge(A / "released/gsva.bin", "--base", A / "released/llava-base", "--out", tmp_path / "gsva") == 0
    ours, theirs = load_file(tmp_path / "gsva/model-00001.safetensors"), load_file(A / "merged/model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")) and "model.layers" in name:
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
        else:
            assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    tokens = json.loads((A / "merged/added_tokens.json").read_text())
    assert json.loads((tmp_path / "gsva/added_tokens.json").read_text()) == tokens
    engine = load_engine(
        str(tmp_path / "gsva"), device="cpu", precision="fp32", options={"vision_tower": str(A / "clip-tiny")}
    )
    assert engine.info.name == "gsva"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A LLaVA that has three tokens of its own, as LLaVA-Lightning."""
    folder = tmp_path / "llava"
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(GOLDEN / "ckpt" / name, folder / name)
    config = json.loads((GOLDEN / "ckpt" / "config.json").read_text())
    del config["train_mask_decoder"], config["out_dim"]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlavaLlamaForCausalLM"]}))
    (folder / "added_tokens.json").write_text(json.dumps(LLAVA))
    shutil.copytree(GOLDEN / "clip-tiny", tmp_path / "clip-tiny")
    return folder


def released(file: Path, change: Callable[[Tensors], object] = lambda tensors: None) -> tuple[Path, Tensors]:
    """A file of newer peft: rank 4, all float32, five tokens more than pieces. Returns what it was made of, too."""
    generator = torch.Generator().manual_seed(0)
    whole = load_file(GOLDEN / "ckpt" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = whole[name][:800]
        whole[name] = torch.cat([rows, torch.randn(5, rows.shape[1], generator=generator)])
    tensors = dict(whole)
    for part in ("q_proj", "v_proj"):
        weight = tensors.pop(f"{LAYER}.{part}.weight")
        tensors[f"{LAYER}.{part}.base_layer.weight"] = weight
        tensors[f"{LAYER}.{part}.lora_A.default.weight"] = torch.randn(4, weight.shape[1], generator=generator)
        tensors[f"{LAYER}.{part}.lora_B.default.weight"] = torch.randn(weight.shape[0], 4, generator=generator)
    tensors["model.vision_tower.vision_tower.vision_model.post_layernorm.bias"] = torch.zeros(64)
    change(tensors)
    torch.save({f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file, whole | tensors


def test_newer_names_of_peft_and_a_base_with_tokens_of_its_own(tmp_path: Path, base: Path) -> None:
    file, tensors = released(tmp_path / "gsva.bin")
    assert merge(file, "--base", base, "--out", tmp_path / "gsva") == 0
    merged = load_file(tmp_path / "gsva" / "model-00001.safetensors")
    for part in ("q_proj", "v_proj"):
        name = f"{LAYER}.{part}"
        down, up = tensors[f"{name}.lora_A.default.weight"], tensors[f"{name}.lora_B.default.weight"]
        expected = tensors[f"{name}.base_layer.weight"] + 4.0 * up @ down  # alpha 16, rank 4
        torch.testing.assert_close(merged[f"{name}.weight"], expected, rtol=0, atol=1e-6)
    for name, tensor in merged.items():
        if name not in (f"{LAYER}.q_proj.weight", f"{LAYER}.v_proj.weight"):
            assert torch.equal(tensor, tensors[name])
    assert not any("vision_tower" in name or "lora" in name for name in merged)
    tokenizer = Tokenizer.from_folder(tmp_path / "gsva")
    assert [tokenizer.id_of(token) for token in (*LLAVA, "[SEG]", "[REJ]")] == [800, 801, 802, 803, 804]
    config = json.loads((tmp_path / "gsva" / "config.json").read_text())
    assert config["vocab_size"] == 805 and config["out_dim"] == 64 and config["train_mask_decoder"]
    assert config["architectures"] == ["LisaGSVAForCausalLM"]
    assert config["lisa"] == {"family": "gsva", "added_tokens": "keep"}
    engine = load_engine(str(tmp_path / "gsva"), device="cpu", precision="fp32")
    assert engine.info.name == "gsva"


def test_the_number_of_rows_says_which_tokens_a_base_has_that_lists_none(tmp_path: Path, base: Path) -> None:
    (base / "added_tokens.json").unlink()
    file, _ = released(tmp_path / "gsva.bin")
    assert merge(file, "--base", base, "--out", tmp_path / "gsva") == 0
    assert json.loads((tmp_path / "gsva" / "added_tokens.json").read_text()) == LLAVA | {"[SEG]": 803, "[REJ]": 804}


@pytest.mark.parametrize("alpha", ["nan", "-3", "inf"])
def test_an_alpha_that_cannot_be_used_is_named(tmp_path: Path, alpha: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gsva.bin").write_bytes(b"x")
    assert merge(tmp_path / "gsva.bin", "--out", tmp_path / "out", "--lora-alpha", alpha) == 1
    assert f"lora-alpha is {alpha};" in capsys.readouterr().err


def test_a_file_or_a_base_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", tmp_path / "out", "--base", tmp_path / "nope"]
    assert merge(tmp_path / "none.bin", *out) == 1
    assert "none.bin does not exist" in capsys.readouterr().err
    (tmp_path / "gsva.bin").write_bytes(b"x")
    assert merge(tmp_path / "gsva.bin", *out) == 1
    assert "nope is no folder" in capsys.readouterr().err


def test_another_alpha(tmp_path: Path, base: Path) -> None:
    file, tensors = released(tmp_path / "gsva.bin")
    assert merge(file, "--base", base, "--out", tmp_path / "gsva", "--lora-alpha", "0") == 0
    merged = load_file(tmp_path / "gsva" / "model-00001.safetensors")
    assert torch.equal(merged[f"{LAYER}.q_proj.weight"], tensors[f"{LAYER}.q_proj.base_layer.weight"])


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("model.norm.weight"), "1 missing: model.norm.weight"),
        (put("model.stranger.weight", torch.zeros(2)), "1 unexpected: model.stranger.weight"),
        (put("model.norm.weight", torch.zeros(5)), "1 misshapen: model.norm.weight"),
        (drop(f"{LAYER}.q_proj.lora_B.default.weight"), f"{LAYER}.q_proj has lora_A without the other"),
        (drop(f"{LAYER}.v_proj.base_layer.weight"), f"{LAYER}.v_proj.weight is missing"),
        (put(f"{LAYER}.q_proj.lora_A.default.weight", torch.zeros(3, 96)), f"{LAYER}.q_proj has the shape"),
        (put("model.embed_tokens.weight", torch.zeros(804, 96)), "not the base of this file"),
        (drop("model.embed_tokens.weight"), "is not a whole model"),
    ],
)
def test_what_is_missing_or_does_not_belong_is_named(
    change: Callable[[Tensors], object], words: str, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = released(tmp_path / "gsva.bin", change)
    assert merge(file, "--base", base, "--out", tmp_path / "gsva") == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "gsva").exists()


def test_a_file_without_lora_or_without_its_base_is_an_error(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = released(tmp_path / "gsva.bin")
    assert merge(file, "--out", tmp_path / "gsva") == 1
    assert "--base" in capsys.readouterr().err
    assert merge(base, "--base", base, "--out", tmp_path / "gsva") == 1
    assert "--base is for a .bin" in capsys.readouterr().err
    torch.save({"model.embed_tokens.weight": torch.zeros(805, 96)}, tmp_path / "plain.bin")
    assert merge(tmp_path / "plain.bin", "--base", base, "--out", tmp_path / "gsva") == 1
    assert "no LoRA" in capsys.readouterr().err
