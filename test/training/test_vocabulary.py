"""A checkpoint becomes one of another family: tokens are added, and nothing that it knows is lost."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from goldens import GOLDEN
from safetensors.torch import load_file
from training_data import write_scenes

from lisa_ros import load_engine
from lisa_ros.cli import main
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.family import FAMILIES
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.spec import read_clip, read_spec
from lisa_ros.training.vocabulary import adopt
from lisa_small import model_folder

CPU = torch.device("cpu")


def load(folder: Path) -> Lisa:
    return load_lisa(folder, read_clip(GOLDEN / "clip-tiny"), Precision.pick("fp32", CPU), CPU)[0]


def test_new_tokens_follow_the_old_ones_and_begin_as_mask_tokens(tmp_path: Path) -> None:
    adopt(GOLDEN / "ckpt", FAMILIES["gsva"], tmp_path / "gsva", seed=0)
    tokenizer, spec = Tokenizer.from_folder(tmp_path / "gsva"), read_spec(tmp_path / "gsva")
    ids = [tokenizer.id_of(token) for token in ("[SEG]", "<im_start>", "<im_end>", "[REJ]")]
    assert ids == [800, 801, 802, 803]
    assert spec.family.name == "gsva" and spec.conversation == "llava_v1"
    assert spec.strips_blanks  # as the start was trained
    before, after = (
        load_file(GOLDEN / "ckpt" / "model.safetensors"),
        load_file(tmp_path / "gsva/model-00001.safetensors"),
    )
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)] if tensor.ndim else after[name], tensor), name
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = after[name]
        assert len(rows) == 804
        assert torch.cosine_similarity(rows[803], rows[800], dim=0) > 0.9 and not torch.equal(rows[803], rows[800])


def test_a_fresh_coarse_prompt_changes_nothing_at_first(tmp_path: Path) -> None:
    adopt(GOLDEN / "ckpt", FAMILIES["cores"], tmp_path / "cores", seed=0, fresh_mask_embed=True)
    lisa = load(tmp_path / "cores")
    prompts, image = torch.randn(2, 64), torch.randn(1, 64, 64, 64)
    with torch.no_grad():
        plain = lisa.decode_masks(prompts, image)
        coarse = lisa.decode_masks(prompts, image, coarse=torch.randn(2, 1, 256, 256) * 10)
    torch.testing.assert_close(coarse, plain, rtol=0, atol=1e-4)


def test_the_demo_model_takes_the_tokens_of_a_family(tmp_path: Path) -> None:
    adopt(Path(model_folder()), FAMILIES["gsva"], tmp_path / "small", seed=0)
    engine = load_engine(tmp_path / "small", device="cpu", precision="fp32")
    assert engine.engine.family.name == "gsva"
    assert engine.engine.spec.conversation == "compact"
    presence = load_file(tmp_path / "small" / "model-00001.safetensors")["model.presence.tokens"]
    assert presence.shape == (1804,)


def test_a_start_without_its_mask_token_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "ckpt", tmp_path / "start")
    (tmp_path / "start" / "added_tokens.json").write_text(json.dumps({"<im_start>": 800, "<im_end>": 801}))
    with pytest.raises(CheckpointError, match=r"no token \[SEG\]"):
        adopt(tmp_path / "start", FAMILIES["gsva"], tmp_path / "gsva", seed=0)


@pytest.mark.skipif(find_spec("peft") is None, reason="needs what training needs: pip install 'lisa_ros[train]'")
@pytest.mark.parametrize("family", ["gsva", "cores"])
def test_a_run_of_another_family_ends_as_a_checkpoint_of_that_family(family: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 2)
    config = {
        "recipe": "lisa",
        "run": str(tmp_path / "run"),
        "start": str(GOLDEN / "ckpt"),
        "vision_tower": str(GOLDEN / "clip-tiny"),
        "family": family,
        "mask_embed": family == "cores",
        "data": [{"kind": "scenes", "path": str(tmp_path / "scenes"), "questions": 2}],
        "device": "cpu",
        "precision": "fp32",
        "lora": {"rank": 2},
        "loss": {"coarse": 0.5 if family == "cores" else 0.0},
        "steps": 2,
        "batch_size": 1,
        "accumulation": 1,
        "warmup": 0,
        "workers": 0,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(tmp_path / "config.yaml")]) == 0
    assert main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged")]) == 0
    spec = read_spec(tmp_path / "merged")
    assert spec.family.name == family and spec.conversation == "llava_v1"
    start = load_file(tmp_path / "run" / "start" / "model-00001.safetensors")
    merged = load_file(tmp_path / "merged" / "model-00001.safetensors")
    dense = "model.visual_model.prompt_encoder.mask_downscaling.6.weight"
    assert torch.equal(merged[dense], start[dense]) == (family != "cores")
    load(tmp_path / "merged")
