"""Scenes for a cell, and commands about them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.scene_records import SceneRecord
from lisa_sim.cell import ROBOT
from lisa_small.scenes.commands import conversations_for
from lisa_small.scenes.dataset import describe, photograph
from lisa_small.scenes.layout import Layout
from lisa_small.scenes.render import Frame, Studio

SIZE = (640, 480)
KINDS = ("name", "use", "need", "property", "place")


@dataclass(frozen=True, eq=False)
class Episode:
    """One command in one scene. targets: numbers of the objects that it means, from 0."""

    number: int
    kind: str
    command: str
    targets: tuple[int, ...]
    layout: Layout
    picture: NDArray[np.uint8]


def scene_of(studio: Studio, number: int, split: str = "test") -> tuple[Layout, Frame, SceneRecord]:
    """Scene ``number`` of a split, with its record."""
    layout, frame = photograph(studio, number, split, SIZE)
    return layout, frame, describe(layout, frame, f"{number:06d}", number, False)


def episodes(studio: Studio, seed: int, numbers: Sequence[int]) -> Iterator[Episode]:
    """Episodes of fresh scenes; kinds of command take turns. Scenes without a command of their kind are left out."""
    for number in numbers:
        layout, frame, scene = scene_of(studio, seed + number)
        kind = KINDS[number % len(KINDS)]
        rng = random.Random(f"pick {seed} {number}")
        conversation = next(iter(conversations_for(scene, rng, 1, "test", kinds={kind: 1.0})), None)
        if conversation is None:
            continue
        turn = conversation["turns"][0]
        targets = tuple(target - 1 for target in turn["targets"])
        yield Episode(number, kind, turn["command"], targets, layout, frame.rgb)


def depth_of(frame: Frame) -> NDArray[np.uint16]:
    """(H, W) millimetres, as a depth camera with a self filter has them: no values on the robot."""
    depth = np.clip(np.round(frame.depth * 1000), 0, 65535).astype(np.uint16)
    depth[frame.ids == ROBOT] = 0
    return depth
