"""Merge trained weights and LoRA into their model; the result is a checkpoint that loads like any other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.names import PEFT_PREFIX
from lisa_ros.lisa.weights.spec import Spec, read_spec, resolve_tower
from lisa_ros.lisa.weights.tensors import find_files, iterate_tensors, read_shapes
from lisa_ros.training.sharded import ShardWriter
from lisa_ros.training.snapshot import TRAINED, newest_snapshot, read_trained

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Number formats that a merged checkpoint can be stored in."""

LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
"""Name of a matrix of LoRA: the layer, and A or B."""


def merge_run(
    run: Path,
    out: Path,
    *,
    weights: str | None = None,
    start: Path | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a run's weights into the model it started from.

    The start is read from its own files, in full precision even if it was trained in four bits.

    Args:
        run: The run's folder.
        out: Folder to write.
        weights: ``best`` or ``last``; None: best if the run was validated, else last.
        start: The model that the run started from; None: where it was then.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: The run has saved nothing, or the start is missing or another model.
    """
    trained, metadata = read_trained(_weights_of(run, weights))
    base = start or Path(metadata.get("start", ""))
    if not (base / "config.json").is_file():
        raise CheckpointError(f"the model that {run} started from is not at {base}; say where with --start")
    tower = Path(metadata["tower"]) if metadata.get("tower") else None
    _fold(base, trained, float(metadata.get("scale", "0")), out, dtype, tower, metadata.get("conversation"))


def merge_checkpoint(source: Path, out: Path, *, alpha: float, dtype: torch.dtype | None = None) -> None:
    """Merge a checkpoint with LoRA beside the weights it belongs to, as zero_to_fp32 and peft leave it.

    Args:
        source: The checkpoint's folder.
        out: Folder to write.
        alpha: Of LoRA; the rank is read off the tensors.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: It has no LoRA, or several ranks, or is damaged.
    """
    files = find_files(source)
    if not any(LORA.fullmatch(name) for name in read_shapes(files)):
        raise CheckpointError(f"{source} has no LoRA weights; there is nothing to merge")
    lora = {
        name.removeprefix(PEFT_PREFIX): tensor.clone()
        for name, tensor in iterate_tensors(files)
        if LORA.fullmatch(name)
    }
    ranks = {tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise CheckpointError(f"{source} mixes LoRA ranks {sorted(ranks)}; the scale of each is not known")
    _fold(source, lora, alpha / ranks.pop(), out, dtype)


def fold(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale * B A, in float32: W (out, in), A ``down`` (rank, in), B ``up`` (out, rank)."""
    return weight.float() + scale * (up.float() @ down.float())


def _weights_of(run: Path, weights: str | None) -> Path:
    best = run / "best" / TRAINED
    if weights == "best" or (weights is None and best.is_file()):
        return best
    snapshot = newest_snapshot(run / "state")
    if snapshot is None:
        raise CheckpointError(f"{run} has saved nothing yet")
    return snapshot / TRAINED


def _fold(
    base: Path,
    trained: Mapping[str, Tensor],
    scale: float,
    out: Path,
    dtype: torch.dtype | None,
    tower: Path | None = None,
    conversation: str | None = None,
) -> None:
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        if match := LORA.fullmatch(name):
            pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
        else:
            whole[name] = tensor
    waiting = {*pairs, *whole}
    vocabulary = None
    writer = ShardWriter(out)
    for file in find_files(base):
        shard = {}
        for theirs, tensor in iterate_tensors([file]):
            name = theirs.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
            if LORA.fullmatch(name) or _is_clip(name) or name.endswith("rotary_emb.inv_freq"):
                continue
            result = tensor
            if name in pairs:
                result = fold(tensor, pairs[name]["A"], pairs[name]["B"], scale)
            elif name in whole:
                result = whole[name]
            waiting.discard(name)
            stored_as = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            shard[name] = result.to(stored_as, copy=True)
            if name == "model.embed_tokens.weight":
                vocabulary = len(result)
        writer.write(shard)
    if waiting:
        raise CheckpointError(f"{base} is not the model that was trained: it has no {min(waiting)}")
    _copy_words(base, out)
    writer.close(_config(base, out, vocabulary, tower, conversation))
    read_spec(out)


def _is_clip(name: str) -> bool:
    """A CLIP tower stays in its own folder, as in the released checkpoints; a tower that is shared is the model's."""
    return name.startswith("model.vision_tower.vision_tower.")


def _copy_words(base: Path, out: Path) -> None:
    for file in base.iterdir():
        is_words = "token" in file.name or file.name in ("generation_config.json", "README.md", "LICENSE")
        if file.is_file() and is_words and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)


def _config(
    base: Path, out: Path, vocabulary: int | None, tower: Path | None, conversation: str | None
) -> dict[str, Any]:
    """The base's config.json; where the CLIP tower would not be found from the new place, with the path to it.

    tower, conversation: what the run used; None: what the base's own configuration leads to.
    """
    config = read_json_object(base / "config.json", CheckpointError)
    if vocabulary is not None:
        config["vocab_size"] = vocabulary
    if "lisa" in config:
        config["lisa"].pop("name", None)  # the folder's name is its name
    spec = read_spec(base)
    if conversation and conversation != spec.conversation:
        config.setdefault("lisa", {})["conversation"] = conversation
    tower = tower or _tower(spec, base)
    if tower is not None and _tower(spec, out) is None:
        config["mm_vision_tower"] = str(tower.resolve())
    return config


def _tower(spec: Spec, folder: Path) -> Path | None:
    try:
        return resolve_tower(None, spec, folder)
    except CheckpointError:
        return None
