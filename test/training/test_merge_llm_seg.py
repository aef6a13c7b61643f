"""LLM-Seg's DeepSpeed file becomes a folder that the engine ``llm-seg`` serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from lisa_ros import cli, load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.engine.registry import engine_name
from lisa_ros.extractive.selector import Selector

GOLDEN = Path(__file__).parents[1] / "golden"
LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """What is left of a LLaVA: configuration and tokenizer, which do not know [SEG]."""
    folder = tmp_path_factory.mktemp("llava") / "llava"
    folder.mkdir()
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "ckpt" / name, folder / name)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("train_mask_decoder", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "ckpt" / "model.safetensors")


@pytest.fixture(scope="module")
def selector(tensors) -> Selector:
    torch.manual_seed(0)
    width = len(tensors["model.text_hidden_fcs.0.2.weight"])
    return Selector(width, inner=32, iou_inner=8, embedding_inner=32, features=24).eval()


@pytest.fixture(scope="module")
def deepspeed(tmp_path_factory, tensors, selector) -> Path:
    """As DeepSpeed saves a model in PEFT's wrapper, with DINOv2 inside."""
    module = {f"base_model.model.{name}": tensor.float() for name, tensor in tensors.items()}
    weight = module.pop(f"base_model.model.{LAYER}.weight")
    module[f"base_model.model.{LAYER}.base_layer.weight"] = weight
    torch.manual_seed(1)
    module[f"base_model.model.{LAYER}.lora_A.default.weight"] = torch.randn(8, weight.shape[1]) * 0.01
    module[f"base_model.model.{LAYER}.lora_B.default.weight"] = torch.randn(weight.shape[0], 8) * 0.01
    module |= {f"base_model.model.model.{name}": tensor for name, tensor in selector.state_dict().items()}
    module["base_model.model.model.visual_model_dinov2.cls_token"] = torch.zeros(1, 1, 24)
    file = tmp_path_factory.mktemp("deepspeed") / "mp_rank_00_model_states.pt"
    torch.save({"module": module, "global_steps": 5}, file)
    return file


def test_the_merged_folder_answers(deepspeed, start, tensors, selector, tmp_path) -> None:
    out = tmp_path / "llm-seg"
    assert cli.main(["merge", str(deepspeed), "--base", str(start), "--out", str(out)]) == 0
    assert engine_name(out) == "llm-seg"
    merged = {name: t for file in out.glob("model*.safetensors") for name, t in load_file(file).items()}
    module = torch.load(deepspeed, weights_only=True)["module"]
    pair = [module[f"base_model.model.{LAYER}.lora_{part}.default.weight"] for part in "BA"]
    torch.testing.assert_close(merged[f"{LAYER}.weight"], tensors[f"{LAYER}.weight"].float() + 2 * pair[0] @ pair[1])
    assert not any("lora" in name or "lisa_" in name or "dino" in name for name in merged)
    stored = load_file(out / "selector.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in selector.state_dict().items())

    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(out / "dinov2-large")
    limits = {"points": 3, "iou": 0.0, "stability": 0.0}
    options = {"vision_tower": str(GOLDEN / "clip-tiny"), "proposer_options": limits, "choice": "similarity"}
    engine = load_engine(out, device="cpu", precision="fp32", options=options)
    rgb = np.asarray(Image.open(GOLDEN / "wide.png").convert("RGB"))
    encoded = engine.encode(rgb)
    answer = engine.ask(encoded, Ask("the orange part"), details=True)
    assert "[SEG]" in answer.text
    (ids,) = answer.details["proposal_ids"]
    assert answer.regions[0].mask.area == engine.proposals(encoded).crops[ids[0]].area


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda file: file.write_bytes(b"no file of torch"), ["--base", "START"], "cannot be read"),
        (
            lambda file: torch.save({"module": {"a": torch.zeros(1)}}, file),
            ["--base", "START"],
            "no selector of LLM-Seg",
        ),
        (lambda file: torch.save({"module": {"a": 3}}, file), ["--base", "START"], "is not a DeepSpeed file"),
        (lambda file: torch.save({}, file), [], "with --base"),
    ],
)
def test_what_is_not_llm_segs(start, tmp_path, capsys, make, options, message) -> None:
    file = tmp_path / "mp_rank_00_model_states.pt"
    make(file)
    given = [str(start) if option == "START" else option for option in options]
    assert cli.main(["merge", str(file), "--out", str(tmp_path / "out"), *given]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()
