"""Merge LoRA weights in peft's format into their model, once: W + alpha / r * B A for every adapted matrix."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.tensors import find_files

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


def merge_adapter(model: Path, adapter: Path, out: Path) -> None:
    """Write ``model`` with the LoRA weights of ``adapter`` merged into it, shard by shard.

    Args:
        model: Folder of the model, safetensors.
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        out: Folder to write; it appears only when it is complete.

    Raises:
        CheckpointError: A key of the adapter fits no matrix of the model, is incomplete or has another shape, or the
            adapter is of a kind that a merge of this form would not reproduce.
    """
    pairs, scale = _read(adapter)
    files = find_files(model)
    places = {key: file for file in files for key in _keys(file)}
    targets = {name: _target(name, places) for name in pairs}
    unmatched = sorted(name for name, target in targets.items() if target is None)
    if unmatched:
        raise CheckpointError(
            f"{adapter}: {len(unmatched)} of {len(pairs)} LoRA matrices fit nothing in {model}, such as "
            f"{unmatched[0]}; is it an adapter of this model?"
        )
    staging = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(model, staging, ignore=shutil.ignore_patterns("*.safetensors", "fetch.json", ".fetch"))
    by_target = {target: pairs[name] for name, target in targets.items()}
    for file in files:
        tensors = load_file(file)
        for key in tensors.keys() & by_target.keys():
            tensors[key] = _merged(key, tensors[key], *by_target[key], scale)
        save_file(tensors, staging / file.name, {"format": "pt"})
    staging.replace(out)


def _read(adapter: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Matrices A and B by the name of the module, and the scale."""
    config = read_json_object(adapter / CONFIG, CheckpointError)
    _refuse_other_kinds(adapter, config)
    try:
        tensors = load_file(adapter / WEIGHTS)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except Exception as error:  # a file that is missing or damaged, or a config without rank
        raise CheckpointError(f"{adapter} cannot be read: {error}; fetch it again") from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(f"{adapter} holds '{key}', which is no LoRA matrix; it cannot be merged")
        found.setdefault(match[1], {})[match[2]] = tensor
    halves = sorted(name for name, pair in found.items() if len(pair) != 2)
    if halves or not found:
        raise CheckpointError(f"{adapter} lacks one of two matrices of {halves[0] if halves else 'every module'}")
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}, scale


def _refuse_other_kinds(adapter: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"{adapter} is of type {config['peft_type']}; only LoRA can be merged")
    for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if config.get(name):
            raise CheckpointError(f"{adapter} uses {name}, which is not supported; merge it with peft")


def _keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def _target(name: str, places: dict[str, Path]) -> str | None:
    """The model's key for a module of the adapter: as it is, or with the names of an older transformers."""
    renamed = (
        name,
        re.sub(r"^model\.language_model\.model\.", "model.language_model.", name),
        re.sub(r"^model\.(?=layers\.)", "model.language_model.", name),
        re.sub(r"^visual\.", "model.visual.", name),
        re.sub(r"^model\.language_model\.(?=layers\.)", "model.", name),
    )
    return next((f"{one}.weight" for one in renamed if f"{one}.weight" in places), None)


def _merged(key: str, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != tuple(weight.shape):
        raise CheckpointError(
            f"{key} is {tuple(weight.shape)}, its LoRA matrices are {tuple(b.shape)} and {tuple(a.shape)}; is it an "
            "adapter of this model?"
        )
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
