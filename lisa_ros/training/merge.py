"""``lisa merge``: trained weights and LoRA folded into their model, as a checkpoint that loads like any other."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.checkpoint import PEFT_PREFIX, Spec, read_spec, resolve_tower
from lisa_ros.lisa.weights.tensors import find_files, iterate_tensors, read_shapes
from lisa_ros.training.sharded import ShardWriter
from lisa_ros.training.snapshot import TRAINED, newest_snapshot, read_trained

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fold the LoRA weights of a run of `lisa train`, or of a checkpoint in which the reference or peft left them "
        "apart, into the model."
    )
    parser.add_argument("source", type=Path, help="folder of a run, or of a checkpoint with LoRA weights in it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--weights", choices=("best", "last"), default=None, help="of a run; best where it was validated, else last"
    )
    parser.add_argument("--start", type=Path, default=None, help="where the model is that the run started from")
    parser.add_argument(
        "--dtype", choices=tuple(_DTYPES), default=None, help="store all weights so; as they are if left out"
    )
    parser.add_argument("--lora-alpha", type=float, default=16.0, help="of a checkpoint, which does not say it")


def main(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ConfigError(f"{args.out} exists; choose another folder, or remove it")
    dtype = _DTYPES[args.dtype] if args.dtype else None
    if (args.source / "state").is_dir() or (args.source / "best").is_dir():
        merge_run(args.source, args.out, weights=args.weights, start=args.start, dtype=dtype)
    else:
        merge_checkpoint(args.source, args.out, alpha=args.lora_alpha, dtype=dtype)
    print(f"written: {args.out}")
    return 0


def merge_run(
    run: Path,
    out: Path,
    *,
    weights: str | None = None,
    start: Path | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """A run's weights in the model it started from. Raises CheckpointError.

    The start is read from its own files, in full precision also where it was trained in four bits.
    """
    trained, metadata = read_trained(_weights_of(run, weights))
    base = start or Path(metadata.get("start", ""))
    if not (base / "config.json").is_file():
        raise CheckpointError(f"the model that {run} started from is not at {base}; say where with --start")
    tower = Path(metadata["tower"]) if metadata.get("tower") else None
    _fold(base, trained, float(metadata.get("scale", "0")), out, dtype, tower, metadata.get("conversation"))


def merge_checkpoint(source: Path, out: Path, *, alpha: float, dtype: torch.dtype | None = None) -> None:
    """A checkpoint with LoRA beside the weights it belongs to, as zero_to_fp32 and peft leave it.

    alpha: of LoRA; the rank is read off the tensors. Raises CheckpointError.
    """
    files = find_files(source)
    if not any(_LORA.fullmatch(name) for name in read_shapes(files)):
        raise CheckpointError(f"{source} has no LoRA weights; there is nothing to merge")
    lora = {
        name.removeprefix(PEFT_PREFIX): tensor.clone()
        for name, tensor in iterate_tensors(files)
        if _LORA.fullmatch(name)
    }
    ranks = {tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise CheckpointError(f"{source} mixes LoRA ranks {sorted(ranks)}; the scale of each is not known")
    _fold(source, lora, alpha / ranks.pop(), out, dtype)


def fold(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale * B A, in float32. weight: (out, in). down: A (rank, in). up: B (out, rank)."""
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
        if match := _LORA.fullmatch(name):
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
            if _LORA.fullmatch(name) or _is_clip(name) or name.endswith("rotary_emb.inv_freq"):
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
