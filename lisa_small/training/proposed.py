"""Scenes with their proposals and image tokens, made once by the frozen encoder of a finished model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lisa_ros.data.picture import BadExample
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.extractive.proposers.drawn import Drawn
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.perception.packed_crops import packed
from lisa_ros.training.choices import SceneChoices
from lisa_small.network.proposals import places_of
from lisa_small.network.tower import tower_of
from lisa_small.training.scenes import Scene, read_scene

log = logging.getLogger(__name__)

COVERED = 0.1
"""Share of an image token from which it counts as covered by a thing."""


@dataclass(eq=False)
class Proposed:
    """A scene as the language model sees it.

    Args:
        scene: Without its picture.
        tokens: (K, H) image tokens, float16.
        covered: (n,) image tokens that show something.
        prompts: (N, C) of the proposals.
        places: (N, 6), see ``lisa_small.network.pointer.PLACE``.
        choices: Which proposals answer what.
    """

    scene: Scene
    tokens: Tensor
    covered: Tensor
    prompts: Tensor
    places: Tensor
    choices: SceneChoices


def propose(folder: Path, segmenter: Segmenter, drawn: Drawn, limit: int | None = None) -> list[Proposed]:
    """Encode the scenes of a folder and propose their masks. What cannot be read is named and left out.

    Args:
        folder: Of `lisa scenes`.
        segmenter: The finished model.
        drawn: Its proposer.
        limit: Only the first so many scenes; None: all.
    """
    found = []
    for record in tqdm(read_records(folder)[:limit], "proposing", unit="scene", disable=None):
        try:
            rgb, ids = read_pair(folder, record)
            scene = read_scene(folder, record, segmenter.lisa.input_size)
        except BadExample as error:
            log.warning("scene %s is skipped: %s", record["id"], error)
            continue
        scene.rgb = np.zeros((1, 1, 3), np.uint8)  # seen once, and large
        found.append(_proposed(segmenter, drawn, rgb, ids, scene))
    return found


def _proposed(
    segmenter: Segmenter, drawn: Drawn, rgb: NDArray[np.uint8], ids: NDArray[np.uint8], scene: Scene
) -> Proposed:
    image = segmenter.encode(rgb)
    proposals = drawn.propose(image)
    crops = list(proposals.crops)
    embedding = image.features.embedding
    assert embedding is not None
    assert proposals.embeddings is not None
    tower = tower_of(segmenter.lisa)
    with torch.inference_mode():
        shares = tower.shares(embedding)[0, :, : len(segmenter.spec.classes)]
    size = (rgb.shape[0], rgb.shape[1])
    return Proposed(
        scene,
        trainable(image.features.tokens[0].half()),
        trainable((shares.sum(1) > COVERED).nonzero()[:, 0]),
        torch.from_numpy(np.asarray(proposals.embeddings, np.float32)),
        torch.from_numpy(places_of(crops, size)),
        SceneChoices(packed(proposals), ids),
    )


def trainable(tensor: Tensor) -> Tensor:
    """A copy that gradients may be computed from: what inference mode made is not allowed there."""
    return torch.from_numpy(tensor.cpu().numpy().copy())
