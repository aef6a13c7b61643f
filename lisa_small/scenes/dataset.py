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

from lisa_ros.data.scene_records import CameraRecord, ObjectRecord, SceneRecord
from lisa_small.scenes.assets import Model, load_models
from lisa_small.scenes.commands import conversations_for
from lisa_small.scenes.layout import Layout, Placement, View, look, rotate, sample_layout
from lisa_small.scenes.render import Frame, Studio, camera_axes, focal_length, optical_centre

SIZES = ((640, 480), (640, 480), (640, 512), (512, 512), (640, 360), (640, 480), (480, 640))  # width, height
SMALLEST = 0.0012  # of the image: an object seen by fewer pixels is not part of a scene
INSIDE = 0.65  # share of an object's hull corners that lie in the picture
SCENES_A_SEED = 1_000_000  # scene i of `--seed S` has the number S * SCENES_A_SEED + i
RETRY = 500_000  # added to the number of a scene in which nothing can be seen
VIEWS = 5  # tries, before objects out of sight are taken off the table


def project(view: View, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """World points (N, 3) to pixels (N, 2), x right, y down; the centre of the top left pixel is (0, 0)."""
    inside = (points - np.array(view.eye)) @ camera_axes(view)  # right, up, backward
    depth = np.maximum(-inside[:, 2], 1e-6)
    focal, (cx, cy) = focal_length(view), optical_centre(view)
    return np.stack([cx + focal * inside[:, 0] / depth, cy - focal * inside[:, 1] / depth], axis=1)


def visible(layout: Layout, ids: NDArray[np.uint8]) -> list[bool]:
    """For every placement, whether enough of it is in the picture. ids: (H, W) uint8, as a Frame has them."""
    models, view = load_models(), layout.view
    areas = np.bincount(ids.ravel(), minlength=len(layout.placements) + 1)[1:]
    result = []
    for placement, area in zip(layout.placements, areas, strict=True):
        hull = rotate(placement.quat, models[placement.model].hull) + placement.position
        pixels = project(view, hull) + 0.5  # from the outer corner of the top left pixel
        inside = ((pixels >= 0) & (pixels < [view.width, view.height])).all(axis=1).mean()
        result.append(bool(area >= SMALLEST * ids.size and inside >= INSIDE))
    return result


def all_visible(layout: Layout, ids: NDArray[np.uint8]) -> bool:
    """Whether enough of every placement is in the picture."""
    return all(visible(layout, ids))


def photograph(studio: Studio, seed: int, split: str, size: tuple[int, int] | None = None) -> tuple[Layout, Frame]:
    """Renders scene number ``seed``.

    A view that does not show every object is replaced, a few times; then the hidden objects are taken away.
    """
    rng = np.random.default_rng([seed, 7])
    size = size or SIZES[rng.integers(len(SIZES))]
    layout = sample_layout(seed, split, size)
    for attempt in range(VIEWS):
        frame = studio.draw_if(layout, all_visible)
        if frame is not None:
            return layout, frame
        if attempt < VIEWS - 1:
            layout = replace(layout, view=look(rng, layout.placements, size))
    while True:
        frame = studio.draw(layout)
        shown = visible(layout, frame.ids)
        if all(shown):
            return layout, frame
        remaining = tuple(placement for placement, yes in zip(layout.placements, shown, strict=True) if yes)
        if not remaining:
            return photograph(studio, seed + RETRY, split, size)
        layout = replace(layout, placements=remaining)


def describe(layout: Layout, frame: Frame, name: str, seed: int, with_depth: bool) -> SceneRecord:
    """The scene's line in ``scenes.jsonl``, without conversations. name: of its files."""
    models = load_models()
    objects = [
        _describe_object(number, placement, models[placement.model], layout.view, frame.ids)
        for number, placement in enumerate(layout.placements, start=1)
    ]
    return {
        "id": name,
        "seed": seed,
        "image": f"images/{name}.jpg",
        "ids": f"ids/{name}.png",
        "depth": f"depth/{name}.png" if with_depth else None,
        "camera": describe_camera(layout.view),
        "objects": objects,
        "conversations": [],
    }


def describe_camera(view: View) -> CameraRecord:
    """The pinhole camera of a view."""
    focal, (cx, cy) = focal_length(view), optical_centre(view)
    return {"width": view.width, "height": view.height, "fx": focal, "fy": focal, "cx": cx, "cy": cy}


def _describe_object(
    number: int, placement: Placement, model: Model, view: View, ids: NDArray[np.uint8]
) -> ObjectRecord:
    """The record of the object that has the id ``number`` in ``ids`` (H, W)."""
    ys, xs = np.nonzero(ids == number)
    hull = rotate(placement.quat, model.hull) + placement.position
    centre = ((hull.min(0) + hull.max(0)) / 2 - np.array(view.eye)) @ camera_axes(view)
    return {
        "id": number,
        "class": model.label,
        "model": model.name,
        "held_out": model.held_out,
        "color": placement.colour,
        "position": [round(float(v), 4) for v in centre * [1, -1, -1]],  # OpenGL's camera looks along -z, y is up
        "size": [round(float(v), 4) for v in model.size],
        "area": len(xs),
        "box": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
        "centroid": [round(float(xs.mean()), 1), round(float(ys.mean()), 1)],
    }


def save_images(out: Path, scene: SceneRecord, frame: Frame, quality: int = 88) -> None:
    """Writes picture, ids and, where the record names it, depth into the folder ``out``."""
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
) -> Iterator[tuple[SceneRecord, Frame]]:
    """Renders scenes, one after another.

    Args:
        seed: With a number it gives one scene, always the same.
        numbers: Of the scenes.
        split: One of SPLITS.
        size: Width and height in pixels of all pictures; None mixes those of SIZES.
        depth: Whether the records name a depth image.
        conversations: The number of conversations about each scene.
        smooth: Whether edges are smoothed; this is three times as slow.
    """
    with closing(Studio(smooth)) as studio:
        for number in numbers:
            layout, frame = photograph(studio, seed * SCENES_A_SEED + number, split, size)
            scene = describe(layout, frame, f"{number:06d}", seed, depth)
            rng = random.Random(f"{split} {seed} {number}")
            scene["conversations"] = conversations_for(scene, rng, conversations, split)
            yield scene, frame


def write_scenes(out: Path, scenes: Iterable[tuple[SceneRecord, Frame]]) -> Iterator[tuple[SceneRecord, Frame]]:
    """Saves each scene when it is taken and yields it. ``scenes.jsonl`` grows by a whole line at a time."""
    for folder in ("images", "ids", "depth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with open(out / "scenes.jsonl", "a", encoding="utf-8") as lines:
        for scene, frame in scenes:
            save_images(out, scene, frame)
            lines.write(json.dumps(scene) + "\n")
            lines.flush()
            yield scene, frame
