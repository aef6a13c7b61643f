"""Load the models of transformers that an engine is made of, without the network and without pickles."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from lisa_ros.errors import CheckpointError, ConfigError, OutOfMemory
from lisa_ros.grounded.recipe import Part
from lisa_ros.lisa.model.quantize import Precision, pick_device
from lisa_ros.lisa.weights.tensors import find_files

_LOADING = threading.Lock()
"""transformers replaces a method of all its models while it loads one: two at once would leave tied weights unset."""


@dataclass(frozen=True)
class Place:
    """Where models go, and in which number format. precision: its name."""

    device: torch.device
    dtype: torch.dtype
    precision: str

    @classmethod
    def pick(cls, device: str, precision: str) -> Place:
        """The place of names. Raises DeviceError and ConfigError."""
        if precision in ("int8", "nf4"):
            raise ConfigError(
                f"precision '{precision}' is not supported by engine grounded; use auto, bf16, fp16 or fp32"
            )
        on = pick_device(device)
        numbers = Precision.pick(precision, on)
        return cls(on, numbers.dtype, numbers.name)


def load_model(kind: Any, part: Part, place: Place) -> Any:
    """A model of transformers with all of its weights.

    Args:
        kind: Its class.
        part: Folder and type.
        place: Where it goes.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights are of another size than config.json says.
        OutOfMemory: The device has too little memory.
    """
    folder = part.folder
    pickles = [file.name for file in find_files(folder) if file.suffix != ".safetensors"]
    if pickles:
        raise CheckpointError(f"{folder} holds pickles ({pickles[0]}); convert them with 'lisa fetch {folder}'")
    try:
        with _LOADING, _no_progress_bars():
            model, info = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=place.dtype, output_loading_info=True
            )
        model = model.to(place.device)
    except (torch.OutOfMemoryError, MemoryError, OutOfMemory):
        raise
    except Exception as error:  # what transformers raises for a damaged folder has no common type
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder} cannot be loaded as {kind.__name__}: {reason}; fetch it again, or correct its config.json"
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"{folder}: {len(lacking)} tensors of {kind.__name__} are missing or of another shape than its config.json "
            f"says, such as {', '.join(lacking[:4])}; fetch the model again"
        )
    return model.eval().requires_grad_(False)


def load_tokenizer(part: Part) -> Any:
    """The tokenizer of a part. Raises CheckpointError."""
    return _loaded(transformers.AutoTokenizer, part, "tokenizer")


def load_tokenizer_and_image_processor(part: Part) -> tuple[Any, Any]:
    """Tokenizer and image processor of a part; AutoProcessor needs torchvision for some. Raises CheckpointError."""
    return load_tokenizer(part), _loaded(transformers.AutoImageProcessor, part, "image processor")


def _loaded(kind: Any, part: Part, what: str) -> Any:
    try:
        return kind.from_pretrained(part.folder, local_files_only=True)
    except Exception as error:  # what transformers raises for a damaged folder has no common type
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{part.folder}: its {what} cannot be loaded: {reason}; fetch the model again") from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """The command line and the node show the progress themselves."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
