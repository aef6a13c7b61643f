"""Checkpoints as they come: formats, shards, dtypes, damage, other architectures; and what loading one costs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SamModel
from whole_answer import segment

from benchmarks.random_checkpoint import DTYPES, SIZES, Numbers, shapes_of, write_checkpoint
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.model.sam import infer_sam_config, new_sam
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.weights.inspect import inspect
from lisa_ros.lisa.weights.names import SAM_NAMES

TINY = SIZES["tiny"]
RGB = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
SHARD = 6_000_000


def load(folder: Path, **options: str) -> Segmenter:
    return Segmenter.from_checkpoint(folder, **({"device": "cpu", "precision": "fp32"} | options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint: one safetensors file, bf16."""
    write_checkpoint(tmp_path / "ckpt", TINY, dtype=torch.bfloat16)
    return tmp_path / "ckpt"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a single safetensors checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def to_bin(folder: Path, **options: object) -> Path:
    """The same tensors as pytorch_model.bin."""
    file = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), file, **options)
    (folder / "model.safetensors").unlink()
    return file


# --- formats ---


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("shard_bytes", [SHARD, 10**9], ids=["sharded", "single"])
@pytest.mark.parametrize("format", ["bin", "safetensors"])
def test_every_format_loads_with_its_own_numbers(tmp_path: Path, format: str, shard_bytes: int, dtype: str) -> None:
    write_checkpoint(tmp_path, TINY, format=format, dtype=DTYPES[dtype], shard_bytes=shard_bytes)
    assert bool(list(tmp_path.glob("*.index.json"))) == (shard_bytes == SHARD)
    segmenter = load(tmp_path)
    numbers = Numbers(TINY, DTYPES[dtype])
    tensors = dict(segmenter.lisa.named_parameters()) | dict(segmenter.lisa.named_buffers())
    for name, shape in shapes_of(segmenter.lisa).items():
        if name != "lm_head.weight":
            assert torch.equal(tensors[name], numbers.of(name, shape).float()), name
    result = segment(segmenter, segmenter.encode(RGB), "the thing to drink from")
    assert result.answer == "Sure, [SEG]."
    assert result.masks.shape == (1, 60, 90)


def test_a_file_from_before_the_zip_format_loads(folder: Path) -> None:
    to_bin(folder, _use_new_zipfile_serialization=False)
    assert load(folder).name == "ckpt"


def test_tensors_one_level_down_and_an_unmerged_trainers_prefix_are_understood(folder: Path) -> None:
    file = to_bin(folder)
    tensors = torch.load(file, weights_only=True)
    torch.save({"module": {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}}, file)
    load(folder)


def test_buffers_that_old_releases_saved_are_ignored(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(8, dtype=torch.bfloat16)}))
    assert load(folder).lisa.llama.rotary_emb.inv_freq[0] == 1
    assert load(folder).lisa.llama.rotary_emb.inv_freq[1] != 1


def test_progress_rises_to_one(folder: Path) -> None:
    seen: list[float] = []
    Segmenter.from_checkpoint(folder, device="cpu", precision="fp32", progress=seen.append)
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.5
    assert 0.95 < seen[-1] <= 1


# --- what does not fit is named ---


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.mm_projector.bias"))
    with pytest.raises(CheckpointError, match=r"1 missing: .*projector\.bias"):
        load(folder)


def test_an_unexpected_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.extra_head.weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*extra_head\.weight"):
        load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(CheckpointError, match=r"1 misshapen: .*norm\.weight \(7,\) instead of \(64,\)"):
        load(folder)


def test_a_checkpoint_without_sam_says_which_tensor_it_misses(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(n) for n in list(tensors) if ".visual_model." in n])
    with pytest.raises(CheckpointError, match=r"no SAM in this checkpoint: .*patch_embed"):
        load(folder)


def test_unmerged_lora_weights_are_recognised(folder: Path) -> None:
    tensors = {f"base_model.model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.ones(8, 64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="LoRA weights are not merged"):
        load(folder)


@pytest.mark.parametrize("format", ["bin", "safetensors"])
def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path, format: str) -> None:
    write_checkpoint(tmp_path, TINY, format=format, dtype=torch.bfloat16, shard_bytes=SHARD)
    file = sorted(tmp_path.glob(f"*.{format}"))[1]
    os.truncate(file, file.stat().st_size * 2 // 3)
    with pytest.raises(CheckpointError, match=rf"{file.name} is damaged or truncated"):
        load(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY, format="bin", dtype=torch.bfloat16, shard_bytes=SHARD)
    file = sorted(tmp_path.glob("*.bin"))[1]
    file.unlink()
    with pytest.raises(CheckpointError, match=file.name):
        load(tmp_path)


def test_another_architecture_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["train_mask_decoder"]
    config["architectures"] = ["LlavaLlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match="is LlavaLlamaForCausalLM, not a LISA checkpoint"):
        load(folder)


def test_sizes_that_do_not_go_together_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["num_attention_heads"] = 7
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json in .* heads \(7\)"):
        load(folder)


def test_an_error_says_what_a_folder_without_a_checkpoint_lacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a folder"):
        load(folder / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(folder)


def test_a_missing_tower_says_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="CLIP tower 'somewhere/clip-nowhere' is not on this machine; looked in"):
        load(folder, vision_tower="somewhere/clip-nowhere")


def test_a_tower_of_another_size_is_a_misfit_and_not_a_crash(folder: Path) -> None:
    file = folder / "clip-random" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"num_hidden_layers": 6}), "utf-8")
    with pytest.raises(CheckpointError, match=r"missing: model\.vision_tower"):
        load(folder)


# --- a pickle is data ---


class Attack:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_a_pickle_is_not_executed(folder: Path, tmp_path: Path, zip_format: bool) -> None:
    file = to_bin(folder)
    tensors = torch.load(file, weights_only=True)
    trace = tmp_path / "executed"
    torch.save(tensors | {"x": Attack(trace)}, file, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r"holds more than tensors and was not opened: .*mkdir"):
        load(folder)
    assert not trace.exists()


def test_a_bare_pickle_is_not_executed(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    to_bin(folder).write_bytes(pickle.dumps(Attack(trace)))
    with pytest.raises(CheckpointError):
        load(folder)
    assert not trace.exists()


# --- SAM's own files ---


def official_sam(hidden: int, depth: int, heads: int, grid: int, window: int, channels: int) -> dict[str, Tensor]:
    """Random tensors with the names of segment-anything's ``.pth`` files; global attention in the last block."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_encoder.pos_embed": (1, grid, grid, hidden),
        "image_encoder.neck.0.weight": (channels, hidden, 1, 1),
        "image_encoder.neck.2.weight": (channels, channels, 3, 3),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, channels // 2),
        "prompt_encoder.not_a_point_embed.weight": (1, channels),
        "prompt_encoder.no_mask_embed.weight": (1, channels),
        "mask_decoder.iou_token.weight": (1, channels),
        "mask_decoder.mask_tokens.weight": (4, channels),
    }
    shapes |= {f"prompt_encoder.point_embeddings.{i}.weight": (1, channels) for i in range(4)}
    biased = {
        "image_encoder.patch_embed.proj": (hidden, 3, 16, 16),
        "prompt_encoder.mask_downscaling.0": (4, 1, 2, 2),
        "prompt_encoder.mask_downscaling.3": (16, 4, 2, 2),
        "prompt_encoder.mask_downscaling.6": (channels, 16, 1, 1),
        "mask_decoder.iou_prediction_head.layers.0": (256, channels),
        "mask_decoder.iou_prediction_head.layers.1": (256, 256),
        "mask_decoder.iou_prediction_head.layers.2": (4, 256),
    }
    norms = {"image_encoder.neck.1": channels, "image_encoder.neck.3": channels}
    norms |= {"prompt_encoder.mask_downscaling.1": 4, "prompt_encoder.mask_downscaling.4": 16}
    norms |= {"mask_decoder.transformer.norm_final_attn": channels, "mask_decoder.output_upscaling.1": channels // 4}
    for i in range(depth):
        block = f"image_encoder.blocks.{i}"
        length = 2 * (grid if i == depth - 1 else window) - 1
        shapes |= {f"{block}.attn.rel_pos_{axis}": (length, hidden // heads) for axis in "hw"}
        biased |= {f"{block}.attn.qkv": (3 * hidden, hidden), f"{block}.attn.proj": (hidden, hidden)}
        biased |= {f"{block}.mlp.lin1": (4 * hidden, hidden), f"{block}.mlp.lin2": (hidden, 4 * hidden)}
        norms |= {f"{block}.norm1": hidden, f"{block}.norm2": hidden}
    transformer = "mask_decoder.transformer"
    inner = {f"{transformer}.final_attn_token_to_image": channels // 2}
    for i in range(2):
        layer = f"{transformer}.layers.{i}"
        inner |= {f"{layer}.self_attn": channels, f"{layer}.cross_attn_token_to_image": channels // 2}
        inner |= {f"{layer}.cross_attn_image_to_token": channels // 2}
        biased |= {f"{layer}.mlp.lin1": (2048, channels), f"{layer}.mlp.lin2": (channels, 2048)}
        norms |= {f"{layer}.norm{n}": channels for n in (1, 2, 3, 4)}
    for attention, width in inner.items():
        biased |= {f"{attention}.{which}_proj": (width, channels) for which in "qkv"}
        biased[f"{attention}.out_proj"] = (channels, width)
    for i in range(4):
        head = f"mask_decoder.output_hypernetworks_mlps.{i}.layers"
        biased |= {f"{head}.0": (channels, channels), f"{head}.1": (channels, channels)}
        biased[f"{head}.2"] = (channels // 8, channels)
    for name, shape in biased.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    # A transposed convolution keeps its weight as (in, out, row, column).
    for i, (wide, narrow) in {0: (channels, channels // 4), 3: (channels // 4, channels // 8)}.items():
        name = f"mask_decoder.output_upscaling.{i}"
        shapes |= {f"{name}.weight": (wide, narrow, 2, 2), f"{name}.bias": (narrow,)}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def load_sam(tensors: dict[str, torch.Tensor]) -> SamModel:
    """SAM filled from tensors with the official names, through the tables that load LISA."""
    sam = new_sam(infer_sam_config({name: tuple(tensor.shape) for name, tensor in tensors.items()}))
    sam.prompt_encoder.shared_embedding = sam.shared_image_embedding
    sam.load_state_dict({SAM_NAMES.ours(name): tensor for name, tensor in tensors.items()}, strict=False)
    return sam.eval()


def test_sams_own_file_loads_by_its_names() -> None:
    tensors = official_sam(hidden=48, depth=3, heads=4, grid=16, window=14, channels=64)
    sam = load_sam(tensors)
    vision = sam.config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (48, 3, 4)
    assert (vision.image_size, vision.window_size, vision.global_attn_indexes) == (256, 14, [2])
    ours = sam.state_dict()
    for theirs, name in {
        "image_encoder.blocks.2.attn.rel_pos_w": "vision_encoder.layers.2.attn.rel_pos_w",
        "image_encoder.neck.2.weight": "vision_encoder.neck.conv2.weight",
        "mask_decoder.transformer.layers.1.norm4.bias": "mask_decoder.transformer.layers.1.layer_norm4.bias",
        "mask_decoder.iou_prediction_head.layers.2.bias": "mask_decoder.iou_prediction_head.proj_out.bias",
        "mask_decoder.output_upscaling.3.weight": "mask_decoder.upscale_conv2.weight",
    }.items():
        assert torch.equal(ours[name], tensors[theirs])
    with torch.inference_mode():
        out = sam(torch.zeros(1, 3, 256, 256), input_points=torch.zeros(1, 1, 1, 2), multimask_output=False)
    assert out.pred_masks.shape == (1, 1, 1, 64, 64)
    assert out.pred_masks.isfinite().all()


def test_a_sam_file_that_lacks_a_tensor_says_which(tmp_path: Path) -> None:
    tensors = official_sam(hidden=32, depth=1, heads=2, grid=8, window=7, channels=64)
    del tensors["mask_decoder.transformer.norm_final_attn.bias"]
    torch.save(tensors, tmp_path / "sam.pth")
    assert inspect(tmp_path / "sam.pth").missing == ["mask_decoder.transformer.norm_final_attn.bias"]


# --- what loading costs ---


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_memory_of_loading_is_little_more_than_the_model(tmp_path: Path, repository: Path) -> None:
    """100 MB in bf16, in shards; the 7B's figures are in docs/benchmarks.md.

    The tiny model first, so that libraries are loaded and only tensors count.
    """
    write_checkpoint(tmp_path / "tiny", TINY, dtype=torch.bfloat16)
    for format in ("bin", "safetensors"):
        folder = tmp_path / format
        write_checkpoint(folder, SIZES["small"], format=format, dtype=torch.bfloat16, shard_bytes=50_000_000)
    program = (
        "import json, sys; from loading_memory import load; load(sys.argv[1], 'bf16')\n"
        "for folder in sys.argv[2:]: print(json.dumps(load(folder, 'bf16')))"
    )
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in ("tiny", "bin", "safetensors"))]
    paths = os.pathsep.join([str(repository), str(repository / "benchmarks")])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, check=True, text=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["loaded"] > 80e6
        assert row["peak"] - row["before"] <= 1.15 * row["loaded"]
        assert row["peak_anonymous"] - row["before_anonymous"] <= 1.15 * row["loaded"]
