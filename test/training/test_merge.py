"""`lisa merge`: what was trained ends up in a checkpoint that loads like any other and answers as it was trained to."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from whole_answer import segment

from lisa_ros.cli import merge as merge_cli
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.names import reference_name
from lisa_ros.lisa.weights.spec import read_clip, read_spec
from lisa_ros.training.lora import LoraOptions, prepare_training
from lisa_ros.training.snapshot import save_trained

pytestmark = pytest.mark.skipif(
    find_spec("peft") is None, reason="needs what training needs: pip install 'lisa_ros[train]'"
)

COMPACT = Path(__file__).parents[1] / "golden"
CPU = torch.device("cpu")
RGB = np.asarray(Image.open(COMPACT / "tall.png").convert("RGB"))
LORA = LoraOptions(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "o_proj"))


def load(folder: Path = COMPACT / "ckpt", precision: str = "fp32") -> Lisa:
    return load_lisa(folder, read_clip(COMPACT / "clip-tiny"), Precision.pick(precision, CPU), CPU)[0]


def disturbed(precision: str = "fp32") -> tuple[Lisa, dict[str, torch.nn.Parameter]]:
    """A model whose trained parts are not what they were; by their names in the reference."""
    lisa = load(precision=precision)
    trained = prepare_training(lisa, LORA, quantised=precision == "nf4", checkpointing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return lisa, {reference_name(lisa, name): parameter for name, parameter in trained.items()}


def hidden(lisa: Lisa) -> torch.Tensor:
    """What the language model and the head say to a short text, with no picture in it."""
    lisa.eval()
    with torch.inference_mode():
        return lisa.lm_head(lisa.read(lisa.llama.embed_tokens(torch.arange(3, 40)[None])))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run with one snapshot, and what its model says."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    lisa, trained = disturbed()
    metadata = {"start": str(COMPACT / "ckpt"), "scale": str(LORA.scale), "step": "5"}
    save_snapshot(folder, 5, trained, metadata)
    return folder, hidden(lisa)


def save_snapshot(run: Path, step: int, trained: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """What of a snapshot a merge reads."""
    folder = run / "state" / f"{step:07d}"
    folder.mkdir(parents=True)
    save_trained(folder / "trained.safetensors", trained, metadata)


def lisa_merge(*words: str | Path) -> int:
    parser = ArgumentParser()
    merge_cli.add_arguments(parser)
    return merge_cli.main(parser.parse_args([str(word) for word in words]))


def test_a_merged_run_says_what_the_run_said(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, said = run
    assert lisa_merge(folder, "--out", tmp_path / "merged") == 0
    torch.testing.assert_close(hidden(load(tmp_path / "merged")), said, rtol=0, atol=1e-4)


def test_a_merged_checkpoint_loads_like_any_other(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    """Its tower is found, its tensors have the reference's names, and the segmenter answers."""
    lisa_merge(run[0], "--out", tmp_path / "merged")
    segmenter = Segmenter.from_checkpoint(tmp_path / "merged", device="cpu", precision="fp32")
    assert segmenter.name == "merged"
    result = segment(segmenter, segmenter.encode(RGB), "the drink", max_new_tokens=3)
    assert len(result.answer_ids) <= 3
    shards = sorted((tmp_path / "merged").glob("*.safetensors"))
    names = {name for shard in shards for name in load_file(shard)}
    expected = set(load_file(COMPACT / "ckpt" / "model.safetensors"))
    assert names == {name for name in expected if not name.endswith("inv_freq")}  # a table that nobody reads


def test_the_best_weights_are_taken_where_there_are_some(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "best").mkdir(parents=True)
    (folder / "state").symlink_to(run[0] / "state")
    metadata = {"start": str(COMPACT / "ckpt"), "scale": "2.0", "step": "3"}
    save_trained(folder / "best" / "trained.safetensors", {"lm_head.weight": torch.zeros(803, 96)}, metadata)
    lisa_merge(folder, "--out", tmp_path / "best")
    assert load(tmp_path / "best").lm_head.weight.abs().max() == 0
    lisa_merge(folder, "--out", tmp_path / "last", "--weights", "last")
    torch.testing.assert_close(hidden(load(tmp_path / "last")), run[1], rtol=0, atol=1e-4)


def test_qlora_is_folded_into_the_whole_weights(tmp_path: Path) -> None:
    """The four bits were for training; the checkpoint is as exact as the one it started from."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'lisa_ros[quant]'")
    _, trained = disturbed("nf4")
    _, same = disturbed()
    assert trained.keys() == same.keys()
    metadata = {"start": str(COMPACT / "ckpt"), "scale": str(LORA.scale), "step": "1"}
    save_snapshot(tmp_path / "run", 1, trained, metadata)
    lisa_merge(tmp_path / "run", "--out", tmp_path / "merged")
    name = "model.layers.1.self_attn.q_proj.weight"
    base = load_file(COMPACT / "ckpt" / "model.safetensors")[name]
    down, up = (trained[name.replace("weight", f"lora_{side}.default.weight")] for side in "AB")
    expected = base + LORA.scale * up.detach() @ down.detach()
    torch.testing.assert_close(load_file(tmp_path / "merged" / "model-00001.safetensors")[name], expected)


def test_a_tower_that_the_configuration_named_is_found_again(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for file in (COMPACT / "ckpt").iterdir():
        (start / file.name).write_bytes(file.read_bytes())
    metadata = {"start": str(start), "tower": str(COMPACT / "clip-tiny"), "scale": "1.0"}
    (tmp_path / "run" / "best").mkdir(parents=True)
    save_trained(tmp_path / "run" / "best" / "trained.safetensors", {"lm_head.weight": torch.zeros(803, 96)}, metadata)
    lisa_merge(tmp_path / "run", "--out", tmp_path / "merged")
    Segmenter.from_checkpoint(tmp_path / "merged", device="cpu", precision="fp32")


def test_the_merged_model_talks_as_the_run_did(tmp_path: Path) -> None:
    metadata = {"start": str(COMPACT / "ckpt"), "scale": "1.0", "conversation": "llava_llama_2"}
    (tmp_path / "run" / "best").mkdir(parents=True)
    save_trained(tmp_path / "run" / "best" / "trained.safetensors", {"lm_head.weight": torch.zeros(803, 96)}, metadata)
    lisa_merge(tmp_path / "run", "--out", tmp_path / "merged")
    assert read_spec(tmp_path / "merged").conversation == "llava_llama_2"
    assert read_spec(COMPACT / "ckpt").conversation != "llava_llama_2"


@pytest.mark.parametrize("style", ["reference", "peft"])
def test_a_checkpoint_of_the_reference_with_lora_apart_is_merged(tmp_path: Path, style: str) -> None:
    """What zero_to_fp32 leaves (pytorch_model.bin, long names, CLIP inside), and the newer names of peft."""
    lisa, trained = disturbed()
    tensors = load_file(COMPACT / "ckpt" / "model.safetensors") | {k: v.detach() for k, v in trained.items()}
    lora_layers = {name.partition(".lora_")[0] for name in trained if ".lora_" in name}
    if style == "peft":
        for layer in lora_layers:
            tensors[f"{layer}.base_layer.weight"] = tensors.pop(f"{layer}.weight")
    tensors["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"] = torch.zeros(64)
    source = tmp_path / "apart"
    source.mkdir()
    torch.save({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, source / "pytorch_model.bin")
    for file in (COMPACT / "ckpt").iterdir():
        if file.suffix != ".safetensors":
            (source / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="lisa merge"):
        load(source)
    lisa_merge(source, "--out", tmp_path / "merged", "--lora-alpha", "8")
    torch.testing.assert_close(hidden(load(tmp_path / "merged")), hidden(lisa), rtol=0, atol=1e-4)


def test_weights_are_stored_as_asked(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    lisa_merge(run[0], "--out", tmp_path / "merged", "--dtype", "bf16")
    stored = {t.dtype for shard in (tmp_path / "merged").glob("*.safetensors") for t in load_file(shard).values()}
    assert stored == {torch.bfloat16}


def test_what_cannot_be_merged_is_named(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; choose another folder"):
        lisa_merge(run[0], "--out", tmp_path)
    with pytest.raises(CheckpointError, match="has no LoRA weights"):
        lisa_merge(COMPACT / "ckpt", "--out", tmp_path / "a")
    (tmp_path / "empty" / "state").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has saved nothing yet"):
        lisa_merge(tmp_path / "empty", "--out", tmp_path / "a")
    with pytest.raises(CheckpointError, match="say where with --start"):
        lisa_merge(run[0], "--out", tmp_path / "a", "--start", tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text((COMPACT / "ckpt" / "config.json").read_text())
    save_file({"lm_head.weight": torch.zeros(803, 96)}, other / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not the model that was trained: it has no model"):
        lisa_merge(run[0], "--out", tmp_path / "b", "--start", other)
    assert not (tmp_path / "b" / "config.json").exists()


def test_the_merged_folder_knows_its_words(run: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    lisa_merge(run[0], "--out", tmp_path / "merged")
    for name in ("tokenizer.model", "added_tokens.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (COMPACT / "ckpt" / name).read_bytes()
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 803
