"""A stopped run on disk: the trained tensors, the optimizer, the step. Enough to go on as if it had never stopped.

What a step sees and drops follows from the seed and the step's number (:mod:`lisa_ros.training.finetune`), so the
number is the state of the sampler and of every random generator.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError

TRAINED = "trained.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_FACTS = "state.json"


@dataclass(frozen=True)
class Snapshot:
    """step: how many are done. facts: what else was saved with it."""

    folder: Path
    step: int
    facts: dict[str, Any]


def save_trained(file: Path, trained: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by their names in the reference, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    with replacing(file) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", **metadata})


def read_trained(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as reader:
            metadata = reader.metadata() or {}
        return load_file(file), metadata
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is missing or damaged: {error}") from error


def save_snapshot(
    run: Path,
    step: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    metadata: Mapping[str, str],
    facts: Mapping[str, Any],
) -> Path:
    """Write RUN/state/STEP and remove older ones. Stopped at any moment, the newest whole one stays."""
    folder = run / "state" / f"{step:07d}"
    unfinished = folder.with_name(f".unfinished-{folder.name}")
    for leftover in (unfinished, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_trained(unfinished / TRAINED, trained, metadata)
    with replacing(unfinished / _OPTIMIZER) as file:
        save_file(_moments(trained, optimizer), file)
    with replacing(unfinished / _FACTS) as file:
        file.write_text(json.dumps({"step": step, **facts}) + "\n", "utf-8")
    unfinished.replace(folder)
    for older in _folders(run)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return folder


def find_snapshot(run: Path) -> Snapshot | None:
    """The newest whole one. Raises CheckpointError where it cannot be read."""
    folders = _folders(run)
    if not folders:
        return None
    try:
        facts = json.loads((folders[-1] / _FACTS).read_text("utf-8"))
        return Snapshot(folders[-1], int(facts["step"]), facts)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folders[-1]} is damaged ({error}); remove it to begin from the one before") from error


def restore(snapshot: Snapshot, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Give parameters and optimizer what was saved. Raises CheckpointError where it is of another model."""
    saved, _ = read_trained(snapshot.folder / TRAINED)
    if differing := set(saved) ^ set(trained):
        raise CheckpointError(f"{snapshot.folder} is of another model: {min(differing)} is in only one of them")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
    try:
        moments = load_file(snapshot.folder / _OPTIMIZER)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{snapshot.folder / _OPTIMIZER} is missing or damaged: {error}") from error
    optimizer.state.clear()
    for key, tensor in moments.items():
        name, _, what = key.rpartition("/")
        parameter = trained[name]
        # AdamW counts steps on the CPU, whatever the device.
        value = tensor if what == "step" else tensor.to(parameter.device)
        optimizer.state[parameter][what] = value


def _moments(trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{what}": value.detach().cpu().contiguous()
        for name, parameter in trained.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def _folders(run: Path) -> list[Path]:
    return sorted(folder for folder in (run / "state").glob("*") if re.fullmatch(r"\d+", folder.name))
