"""ELISA's folder to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lisa_ros.errors import CheckpointError
from lisa_ros.extractive.encoders import AlphaClipEncoder
from lisa_ros.extractive.extractor import Extractor
from lisa_ros.extractive.model.alpha_clip import load_alpha_clip
from lisa_ros.extractive.reader import LlavaReader
from lisa_ros.extractive.weights import load_elisa, read_spec
from lisa_ros.extractive.words import Words
from lisa_ros.lisa.model.quantize import Precision, pick_device
from lisa_ros.lisa.out_of_memory import out_of_memory
from lisa_ros.lisa.weights.spec import read_clip


def load_extractor(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    weights: str | None = None,
    alpha_clip: Path | None = None,
    parity: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Extractor:
    """Load ELISA. Never touches the network.

    Args:
        folder: With ``llava/`` and ``models/``.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        weights: Name of the ``.pth`` file; None if there is only one.
        alpha_clip: Folder of AlphaCLIP's visual tower; None: proposals without embeddings are described by the LLaVA's
            own vision tower.
        parity: As the reference.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        CheckpointError: A folder is missing or damaged.
        ConfigError: An unknown precision, or a name of weights that does not exist.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    on = pick_device(device)
    numbers = Precision.pick(precision, on)
    spec = read_spec(folder, weights)
    name = folder.resolve().name
    words = Words.from_folder(spec.base, spec.end, name, named_masks=parity)
    clip = read_clip(spec.base)
    with out_of_memory(f"loading {name} as {numbers.name} on {on}"), torch.inference_mode():
        model = load_elisa(spec, words.first, numbers, on, progress)
        if words.first > len(model.words):
            raise CheckpointError(
                f"{spec.base}: the tokenizer's <image> is {words.image_id}, the embedding has {len(model.words)} rows"
            )
        encoder = AlphaClipEncoder(load_alpha_clip(alpha_clip, on)) if alpha_clip is not None else None
        return Extractor(LlavaReader(model, words, clip, encoder, name), numbers.name, parity=parity)
