"""The state of a run on disk: what is trained, the optimizer, the schedule and the step.

accelerate saves and loads the optimizer, the schedule, the gradient scaler and the random generators. The trained
tensors are saved here, without the frozen rest of the model, by names that ``lisa merge`` knows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRAINED = "trained.safetensors"
_FACTS = "state.json"


class Memory(Protocol):
    """What a recipe remembers from step to step, as JSON values."""

    def state(self) -> Any:
        """What a resumed run needs."""

    def resume(self, state: Any) -> None:
        """Restore what ``state`` returned; after JSON, tuples are lists."""


def save_trained(file: Path, trained: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by name; the file is complete or not there."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    with replacing(file) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", **metadata})


def read_trained(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as reader:
            metadata = reader.metadata() or {}
        return load_file(file), metadata
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is missing or damaged: {error}") from error


def newest_snapshot(folder: Path) -> Path | None:
    """The folder of the last complete snapshot in ``folder``, a run's ``state``."""
    return _snapshots(folder)[-1] if _snapshots(folder) else None


class Snapshots:
    """The snapshots of one training loop; only the newest is kept.

    Args:
        folder: Where they are, one folder a step.
        accelerator: accelerate's; it holds the prepared optimizer and schedule.
        trained: Name -> tensor of the model, as it is trained.
        metadata: For a step, what ``lisa merge`` must know beside the tensors.
        memory: What else the recipe remembers.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        trained: Mapping[str, Tensor],
        *,
        metadata: Callable[[int], Mapping[str, str]] = lambda step: {},
        memory: Memory | None = None,
    ) -> None:
        self._folder, self._accelerator, self._trained = folder, accelerator, trained
        self._metadata, self._memory = metadata, memory
        # accelerate would save the whole model, frozen weights included.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def save(self, step: int) -> None:
        """Write the snapshot after ``step`` steps and remove older ones. If it is interrupted, the older one stays."""
        target = self._folder / f"{step:07d}"
        unfinished = target.with_name(f".unfinished-{target.name}")
        main = self._accelerator.is_main_process
        if main:
            for leftover in (unfinished, target):
                shutil.rmtree(leftover, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(unfinished))  # every process writes its random generators
        self._accelerator.wait_for_everyone()
        if main:
            save_trained(unfinished / TRAINED, self._trained, self._metadata(step))
            facts = {"step": step, "processes": self._accelerator.num_processes}
            facts["memory"] = self._memory.state() if self._memory else None
            (unfinished / _FACTS).write_text(json.dumps(facts) + "\n", "utf-8")
            for file in unfinished.iterdir():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
            unfinished.replace(target)
            for older in _snapshots(self._folder)[:-1]:
                shutil.rmtree(older, ignore_errors=True)
        self._accelerator.wait_for_everyone()

    def resume(self) -> tuple[int, int]:
        """Load the newest snapshot.

        Returns:
            How many steps are done, and how many processes the run had; 0 and this run's if there is no snapshot.

        Raises:
            CheckpointError: It is damaged, of another model, or of an earlier release.
        """
        folder = newest_snapshot(self._folder)
        if folder is None:
            return 0, self._accelerator.num_processes
        try:
            facts = json.loads((folder / _FACTS).read_text("utf-8"))
            step, processes = int(facts["step"]), int(facts["processes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} is damaged ({error!r}); remove it to begin anew") from error
        saved, _ = read_trained(folder / TRAINED)
        if differing := saved.keys() ^ self._trained.keys():
            raise CheckpointError(f"{folder} is of another model: {min(differing)} is in only one of them")
        with torch.no_grad():
            for name, tensor in self._trained.items():
                tensor.copy_(saved[name])
        try:
            self._accelerator.load_state(str(folder))
        except Exception as error:  # torch.load and load_state_dict have no common type
            raise CheckpointError(
                f"{folder} is damaged, or an earlier release wrote it: {error}; remove it to begin anew"
            ) from error
        if self._memory:
            self._memory.resume(facts.get("memory") or [])
        return step, processes

    def clear(self) -> None:
        """Remove all snapshots, when what was trained is saved elsewhere."""
        if self._accelerator.is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)


def _snapshots(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("*") if re.fullmatch(r"\d+", one.name))
