"""Scenes on disk: images, ids, depth and ``scenes.jsonl``."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_small.scenes.assets import load_models
from lisa_small.scenes.commands import conversations_for
from lisa_small.scenes.layout import Layout, look, rotate, sample_layout
from lisa_small.scenes.render import Frame, Studio, camera_axes, focal_length

SIZES = ((640, 480), (640, 480), (640, 512), (512, 512), (640, 360), (640, 480), (480, 640))  # width, height
SMALLEST = 0.0012  # of the image: an object seen by fewer pixels is not part of a scene
INSIDE = 0.65  # share of an object's hull corners that lie in the picture
SCENES_A_SEED = 1_000_000  # scene i of `--seed S` has the number S * SCENES_A_SEED + i
RETRY = 500_000  # added to the number of a scene in which nothing can be seen
VIEWS = 5  # tries, before objects out of sight are taken off the table


def project(layout: Layout, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """World points (N, 3) to pixels (N, 2), x right, y down."""
    view = layout.view
    inside = (points - np.array(view.eye)) @ camera_axes(view)  # right, up, backward
    depth = np.maximum(-inside[:, 2], 1e-6)
    focal = focal_length(view)
    return np.stack(
        [view.width / 2 + focal * inside[:, 0] / depth, view.height / 2 - focal * inside[:, 1] / depth], axis=1
    )


def seen(layout: Layout, ids: NDArray[np.uint8]) -> list[bool]:
    """For every placement: is enough of it in the picture?"""
    models, view = load_models(), layout.view
    areas = np.bincount(ids.ravel(), minlength=len(layout.placements) + 1)[1:]
    result = []
    for placement, area in zip(layout.placements, areas, strict=True):
        hull = rotate(placement.quat, models[placement.model].hull) + placement.position
        pixels = project(layout, hull)
        inside = ((pixels >= 0) & (pixels < [view.width, view.height])).all(axis=1).mean()
        result.append(bool(area >= SMALLEST * ids.size and inside >= INSIDE))
    return result


def all_seen(layout: Layout, ids: NDArray[np.uint8]) -> bool:
    return all(seen(layout, ids))


def photograph(studio: Studio, seed: int, split: str, size: tuple[int, int] | None = None) -> tuple[Layout, Frame]:
    """Scene number ``seed``: a view that shows every object, after a few tries without those that stay hidden."""
    rng = np.random.default_rng([seed, 7])
    size = size or SIZES[rng.integers(len(SIZES))]
    layout = sample_layout(seed, split, size)
    for attempt in range(VIEWS):
        frame = studio.draw_if(layout, all_seen)
        if frame is not None:
            return layout, frame
        if attempt < VIEWS - 1:
            layout = replace(layout, view=look(rng, layout.placements, size))
    while True:
        frame = studio.draw(layout)
        visible = seen(layout, frame.ids)
        if all(visible):
            return layout, frame
        kept = tuple(placement for placement, yes in zip(layout.placements, visible, strict=True) if yes)
        if not kept:
            return photograph(studio, seed + RETRY, split, size)
        layout = replace(layout, placements=kept)


def describe(layout: Layout, frame: Frame, name: str, seed: int, with_depth: bool) -> dict:
    """The scene's line in ``scenes.jsonl``. position: metres, camera frame (x right, y down, z forward)."""
    view, models, axes = layout.view, load_models(), camera_axes(layout.view)
    height, width = frame.ids.shape
    focal = focal_length(view)
    objects = []
    for number, placement in enumerate(layout.placements, start=1):
        model = models[placement.model]
        mask = frame.ids == number
        ys, xs = np.nonzero(mask)
        hull = rotate(placement.quat, model.hull) + placement.position
        centre = ((hull.min(0) + hull.max(0)) / 2 - np.array(view.eye)) @ axes
        objects.append(
            {
                "id": number,
                "class": model.label,
                "model": model.name,
                "held_out": model.held_out,
                "color": placement.colour,
                "position": [round(float(v), 4) for v in centre * [1, -1, -1]],
                "size": [round(float(v), 4) for v in model.size],
                "area": int(mask.sum()),
                "box": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
                "centroid": [round(float(xs.mean()), 1), round(float(ys.mean()), 1)],
            }
        )
    return {
        "id": name,
        "seed": seed,
        "image": f"images/{name}.jpg",
        "ids": f"ids/{name}.png",
        "depth": f"depth/{name}.png" if with_depth else None,
        "camera": {"width": width, "height": height, "fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2},
        "objects": objects,
        "conversations": [],
    }


def save_images(out: Path, scene: dict, frame: Frame, quality: int = 88) -> None:
    Image.fromarray(frame.rgb).save(out / scene["image"], quality=quality)
    Image.fromarray(frame.ids).save(out / scene["ids"])
    if scene["depth"]:
        millimetres = np.clip(np.round(frame.depth * 1000), 0, 65535).astype(np.uint16)
        Image.fromarray(millimetres).save(out / scene["depth"])


def take_scenes(
    seed: int,
    numbers: Iterable[int],
    *,
    split: str,
    size: tuple[int, int] | None,
    depth: bool,
    conversations: int,
    smooth: bool = False,
) -> Iterator[tuple[dict, Frame]]:
    """Draw the scenes ``numbers`` of ``seed``, one after another, with ``conversations`` commands each."""
    with closing(Studio(smooth)) as studio:
        for number in numbers:
            layout, frame = photograph(studio, seed * SCENES_A_SEED + number, split, size)
            scene = describe(layout, frame, f"{number:06d}", seed, depth)
            rng = random.Random(f"{split} {seed} {number}")
            scene["conversations"] = conversations_for(scene, rng, conversations, split)
            yield scene, frame


def write_scenes(out: Path, scenes: Iterable[tuple[dict, Frame]]) -> Iterator[tuple[dict, Frame]]:
    """Save each scene as it comes, a whole line of ``scenes.jsonl`` at a time, and pass it on."""
    for folder in ("images", "ids", "depth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with open(out / "scenes.jsonl", "a", encoding="utf-8") as lines:
        for scene, frame in scenes:
            save_images(out, scene, frame)
            lines.write(json.dumps(scene) + "\n")
            lines.flush()
            yield scene, frame
