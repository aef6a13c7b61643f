"""Centroids and boxes of rendered objects against the truth, 640x480; what it costs.

    python benchmarks/geometry.py [--views 4]

Every box-like object of the scenes' models stands alone on a table, seen from 0.5 to 1 m away and 25 to 60 degrees
above. Depth and mask are exact, or the depth is a camera's (noise of 1 mm at 1 m growing with the square, millimetres,
mixed edges, 5 % holes), or the mask bleeds 3 or 6 pixels onto the background. centroid: distance to the median of the
true mask's true points. within: share of the boxes all of whose sides are within 10 mm or 10 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import crop_mask
from lisa_ros.perception.geometry import Camera, back_project, locate

os.environ.setdefault("MUJOCO_GL", "egl")

BOX_LIKE = (
    "cardboard_box_a",
    "puzzle_cube_a",
    "milk_carton_a",
    "cutting_board_a",
    "book_a",
    "phone_a",
    "remote_control_a",
)
SIDE_M, SIDE_SHARE = 0.010, 0.10


@dataclass(frozen=True, eq=False)
class View:
    """One object alone. depth: (H, W) float32 m; mask: (H, W) bool; size: (3,) m, its true sides, longest first."""

    name: str
    camera: Camera
    depth: NDArray[np.float32]
    mask: NDArray[np.bool_]
    size: NDArray[np.float64]


def views(studio, models: tuple[str, ...], count: int, size: tuple[int, int] = (640, 480)) -> Iterator[View]:
    """``count`` views of each model; size: (width, height). The same numbers, the same views."""
    from lisa_small.scenes.assets import load_models
    from lisa_small.scenes.dataset import describe_camera
    from lisa_small.scenes.layout import Placement, rotate, sample_layout, turned
    from lisa_small.scenes.layout import View as Look

    known = {model.name: index for index, model in enumerate(load_models())}
    for name in models:
        model = load_models()[known[name]]
        for seed in range(count):
            rng = np.random.default_rng(seed)
            pose = turned(model.poses[0], rng.uniform(0, 2 * math.pi))
            lift = np.array([0, 0, -rotate(pose, model.hull)[:, 2].min()])
            distance, elevation, azimuth = (
                rng.uniform(0.5, 1.0),
                math.radians(rng.uniform(25, 60)),
                rng.uniform(0, 6.28),
            )
            arm = [
                math.cos(elevation) * math.cos(azimuth),
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
            ]
            target = np.array([0, 0, 0.05])
            look = Look(tuple(target + distance * np.array(arm)), tuple(target), 0.0, 48.0, *size)
            layout = replace(sample_layout(seed, "train", size), placements=(Placement(known[name], 0, lift, pose),))
            frame = studio.draw(replace(layout, view=look))
            sides = np.sort(np.ptp(model.hull, axis=0).astype(np.float64))[::-1]
            yield View(name, Camera(**describe_camera(look)), frame.depth, frame.ids == 1, sides)


def camera_like(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint16]:
    """What a depth camera makes of exact depth (H, W) m, in millimetres."""
    mixed = cv2.blur(depth + rng.normal(0, 0.001, depth.shape) * depth**2, (2, 2))
    millimetres = np.round(1000 * mixed).clip(0, 65535).astype(np.uint16)
    millimetres[rng.random(depth.shape) < 0.05] = 0
    return millimetres


def bled(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    if not pixels:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)) > 0


@dataclass(frozen=True)
class Error:
    """centroid_m; side_m: of the worst side; within: all sides are within 10 mm or 10 %; ms: CPU time."""

    centroid_m: float
    side_m: float
    within: bool
    ms: float


def measure(view: View, noisy: bool, bleeding_px: int) -> Error:
    depth = camera_like(view.depth, np.random.default_rng(0)) if noisy else view.depth
    crop = crop_mask(bled(view.mask, bleeding_px), 1, 1.0)
    begun = time.process_time()
    thing = locate(crop, depth, view.camera)
    ms = 1000 * (time.process_time() - begun)
    rows, columns = np.nonzero(view.mask)
    truth = np.median(back_project(columns, rows, view.depth[view.mask], view.camera), axis=0)
    if thing.box is None:
        return Error(math.inf, math.inf, False, ms)
    off = np.abs(thing.box.size - view.size)
    within = bool((off <= np.maximum(SIDE_M, SIDE_SHARE * view.size)).all())
    return Error(float(np.linalg.norm(thing.centroid - truth)), float(off.max()), within, ms)


def main() -> None:
    from sequences import open_studio

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=4, help="of each object (default %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    seen = list(views(open_studio(), BOX_LIKE, args.views))
    kinds = {
        "exact": (False, 0),
        "mask bleeds 3 px": (False, 3),
        "mask bleeds 6 px": (False, 6),
        "camera's depth": (True, 0),
        "both, 3 px": (True, 3),
    }
    print(f"{len(seen)} views of {len(BOX_LIKE)} objects")
    print(f"{'':20}{'centroid mm':>12}{'worst':>7}{'side mm':>9}{'worst':>7}{'within':>8}{'ms':>7}{'p95 ms':>8}")
    figures = {}
    for kind, (noisy, pixels) in kinds.items():
        errors = [measure(view, noisy, pixels) for view in seen]
        centroid, side = (1000 * np.array([[e.centroid_m, e.side_m] for e in errors])).T
        within, ms = float(np.mean([e.within for e in errors])), np.array([e.ms for e in errors])
        figures[kind] = {
            "centroid_mm": round(float(np.median(centroid)), 2),
            "centroid_worst_mm": round(float(centroid.max()), 2),
            "side_mm": round(float(np.median(side)), 2),
            "side_worst_mm": round(float(side.max()), 2),
            "within": round(within, 3),
            "ms": round(float(np.median(ms)), 1),
            "p95_ms": round(float(np.quantile(ms, 0.95)), 1),
        }
        numbers = list(figures[kind].values())
        print("{:20}{:12.2f}{:7.2f}{:9.2f}{:7.2f}{:8.2f}{:7.1f}{:8.1f}".format(kind, *numbers), flush=True)
    print(json.dumps({"benchmark": "geometry", "views": len(seen), **figures}))


if __name__ == "__main__":
    main()
