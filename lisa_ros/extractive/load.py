"""ELISA's folder to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lisa_ros.engine.api import Proposals
from lisa_ros.errors import CheckpointError
from lisa_ros.extractive.encoders import AlphaClipEncoder
from lisa_ros.extractive.extractor import Extractor, Propose
from lisa_ros.extractive.model.alpha_clip import load_alpha_clip
from lisa_ros.extractive.proposers.proposer import Arrangement
from lisa_ros.extractive.proposers.sam import Photo, SamEverything, SamOptions, read_sam
from lisa_ros.extractive.reader import LlavaReader, Seen
from lisa_ros.extractive.weights import load_elisa, read_spec
from lisa_ros.extractive.words import Words
from lisa_ros.lisa.model.quantize import Precision, pick_device
from lisa_ros.lisa.out_of_memory import out_of_memory
from lisa_ros.lisa.weights.spec import read_clip

SAM = "sam"
"""Folder of SAM in an ELISA's folder, where none is named."""


def load_extractor(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    weights: str | None = None,
    alpha_clip: Path | None = None,
    parity: bool = False,
    sam: tuple[SamOptions, Arrangement] | None = None,
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
        sam: Settings of the proposer, and what is kept of its proposals; None: commands bring their own.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        CheckpointError: A folder is missing or damaged; SAM's too, if it is needed.
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
        propose = None if sam is None else _sam_proposer(folder, *sam, on, model.dtype)
        return Extractor(LlavaReader(model, words, clip, encoder, name), numbers.name, propose, parity=parity)


def _sam_proposer(
    folder: Path, options: SamOptions, arrangement: Arrangement, device: torch.device, dtype: torch.dtype
) -> Propose:
    """SAM of the folder that the options name, or else of ``sam`` in the model's folder."""
    own = Path(options.model).expanduser() if options.model else folder / SAM
    if not (own / "config.json").is_file():
        raise CheckpointError(
            f"there is no SAM in {own}; get one with 'lisa fetch facebook/sam-vit-base' and name its folder by "
            f"proposer_options: {{model: FOLDER}}, or put it into {folder / SAM}"
        )
    proposer = SamEverything(read_sam(own, device, dtype), options)

    def propose(rgb: NDArray[np.uint8], seen: Seen) -> Proposals:
        del seen  # SAM looks at the frame itself
        return arrangement.of(proposer.propose(Photo(rgb)))

    return propose
