"""LLM-Seg's own checkpoint, one file of DeepSpeed, as a folder for the engine ``llm-seg``."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.extractive.choosing_engine import SELECTOR
from lisa_ros.extractive.selector import Selector, selector_tensors
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.lora import LORA, fold
from lisa_ros.lisa.weights.names import PEFT_PREFIX
from lisa_ros.lisa.weights.spec import read_spec
from lisa_ros.training.sharded import ShardWriter

WORDS = ("[SEG]", "<im_start>", "<im_end>")
"""Tokens behind the base's, in the order in which LISA and LLM-Seg add them."""

SHARD_BYTES = 4_000_000_000

LEFT_OUT = ("model.lisa_", "model.visual_model_dinov2.", "model.vision_tower.vision_tower.")
"""The selector has a file of its own; DINOv2 and CLIP have folders of their own."""


def merge_llm_seg(file: Path, start: Path, out: Path, *, alpha: float, dtype: torch.dtype | None = None) -> None:
    """Write LISA's tensors, LoRA merged, and beside them the selector.

    Args:
        file: ``mp_rank_00_model_states.pt``. A pickle is never executed.
        start: The LLaVA that it was trained from: configuration and tokenizer.
        out: Folder to write.
        alpha: Of LoRA; the rank is read off the tensors.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: The file is damaged or has no selector, or the start does not fit.
    """
    tensors = _read(file)
    Selector.from_tensors(tensors)  # a file of something else fails before anything is written
    lora = {name: tensor for name, tensor in tensors.items() if LORA.fullmatch(name)}
    waiting = set(lora)
    writer = ShardWriter(out)
    rows, shard = 0, dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name in lora or name.startswith(LEFT_OUT) or name.endswith("rotary_emb.inv_freq"):
            continue
        layer = name.removesuffix(".weight").removesuffix(".base_layer")
        result = tensor
        pair = [next((full for full in lora if full.startswith(f"{layer}.lora_{part}.")), None) for part in "AB"]
        if name.endswith(".weight") and pair[0] is not None and pair[1] is not None:
            down, up = lora[pair[0]], lora[pair[1]]
            result = fold(tensor, down, up, alpha / down.shape[0])
            waiting -= {pair[0], pair[1]}
        ours = name.replace(".base_layer.", ".")
        if ours == "model.embed_tokens.weight":
            rows = len(result)
        stored_as = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        shard[ours] = result.to(stored_as, copy=True)
        if sum(held.nbytes for held in shard.values()) > SHARD_BYTES:
            writer.write(shard)
            shard = {}
    writer.write(shard)
    if waiting or not rows:
        raise CheckpointError(
            f"{file} is no LLM-Seg: {min(waiting, default='model.embed_tokens.weight')} has no weight"
        )
    _copy_words(start, out, rows)
    own = {name: tensor.contiguous().clone() for name, tensor in selector_tensors(tensors).items()}
    with replacing(out / SELECTOR) as unfinished:
        save_file(own, unfinished)
    projector = tensors["model.text_hidden_fcs.0.2.weight"]
    writer.close(_config(start, rows, len(projector)))
    read_spec(out)


def _read(file: Path) -> dict[str, Tensor]:
    """The module's tensors without PEFT's prefix."""
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from error
    module = content.get("module", content) if isinstance(content, Mapping) else None
    if not isinstance(module, Mapping) or not all(isinstance(value, Tensor) for value in module.values()):
        raise CheckpointError(f"{file} is not a DeepSpeed file: it has no tensors under 'module'")
    return {str(name).removeprefix(PEFT_PREFIX): tensor for name, tensor in module.items()}


def _copy_words(start: Path, out: Path, rows: int) -> None:
    """The tokenizer, with the tokens that LLM-Seg has added."""
    for file in start.iterdir():
        if file.is_file() and "token" in file.name and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    file = out / "added_tokens.json"
    added = read_json_object(file, CheckpointError) if file.is_file() else {}
    if WORDS[0] not in added:
        added = {name: rows - len(WORDS) + index for index, name in enumerate(WORDS)}
        file.write_text(json.dumps(added, indent=2) + "\n", "utf-8")


def _config(start: Path, rows: int, out_dim: int) -> dict[str, Any]:
    config = read_json_object(start / "config.json", CheckpointError)
    config.pop("lisa", None)
    return config | {"vocab_size": rows, "train_mask_decoder": True, "out_dim": out_dim, "engine": "llm-seg"}
