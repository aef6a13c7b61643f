"""Rendered sequences with true masks: a moving camera, a moving object, a passing occluder, an object that leaves.

Every sequence is a table scene of ``lisa_small.scenes`` with one target, at 30 Hz. Needs MuJoCo and OpenGL without a
screen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("MUJOCO_GL", "egl")

if TYPE_CHECKING:
    from lisa_small.scenes.layout import Layout
    from lisa_small.scenes.render import Studio

RATE_HZ = 30.0


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame. rgb (H, W, 3) uint8; mask (H, W) bool, the target's visible pixels; depth (H, W) float32 m."""

    time_s: float
    rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    depth: NDArray[np.float32]


def open_studio() -> Studio:
    """The renderer. Raises ImportError or RuntimeError where it cannot draw."""
    try:
        from lisa_small.scenes.render import Studio

        return Studio()
    except ImportError:
        raise
    except Exception as error:
        raise RuntimeError(f"cannot draw without a screen ({error}); install EGL or set MUJOCO_GL=osmesa") from error


def scene(studio: Studio, seed: int, size: tuple[int, int]) -> tuple[Layout, int]:
    """A layout and the number of its target: the largest thing that lies clear of the image's border."""
    from lisa_small.scenes.layout import sample_layout

    while True:
        layout = sample_layout(seed, "test", size)
        ids = studio.draw(layout).ids
        areas = np.bincount(ids.ravel(), minlength=len(layout.placements) + 1)[1:]
        margin = size[0] // 10
        border = ids.copy()
        border[margin:-margin, margin:-margin] = 0
        for target in np.argsort(-areas):
            if 0.01 < areas[target] / ids.size < 0.12 and not (border == target + 1).any():
                return layout, int(target)
        seed += 1000


def moved(layout: Layout, target: int, shift: NDArray, yaw: float) -> Layout:
    """The target shifted by ``shift`` (3,) m and turned by yaw radians."""
    from lisa_small.scenes.layout import turned

    placement = layout.placements[target]
    there = replace(placement, position=placement.position + shift, quat=turned(placement.quat, yaw))
    return replace(layout, placements=(*layout.placements[:target], there, *layout.placements[target + 1 :]))


def orbited(layout: Layout, angle: float, nearer: float) -> Layout:
    """The camera turned about the vertical through what it looks at, and ``nearer`` (share of the distance)."""
    eye, target = np.array(layout.view.eye), np.array(layout.view.target)
    arm, (c, s) = eye - target, (math.cos(angle), math.sin(angle))
    arm = np.array([c * arm[0] - s * arm[1], s * arm[0] + c * arm[1], arm[2]]) * (1 - nearer)
    return replace(layout, view=replace(layout.view, eye=tuple(target + arm)))


def across(layout: Layout) -> NDArray[np.float64]:
    """The camera's right, (3,) in the world."""
    from lisa_small.scenes.render import camera_axes

    return camera_axes(layout.view)[:, 0]


def with_occluder(layout: Layout, target: int, place: float) -> Layout:
    """A cardboard box half way between camera and target, ``place`` of its widths to the right; at 0 it covers."""
    from lisa_small.scenes.assets import load_models
    from lisa_small.scenes.layout import COPIES, Placement, turned

    model = [model.name for model in load_models()].index("cardboard_box_a")
    eye, there = np.array(layout.view.eye), layout.placements[target].position
    yaw = math.atan2(*(there - eye)[1::-1]) + math.pi / 2
    position = eye + 0.5 * (there - eye) + across(layout) * 0.24 * place - [0, 0, 0.04]
    upright = turned(np.array([1.0, 0, 0, 0]), yaw)
    return replace(layout, placements=(*layout.placements, Placement(model, COPIES - 1, position, upright, None)))


def moving_camera(layout: Layout, target: int, t: float) -> Layout:
    """5 degrees a second around the table, swaying, and a little nearer."""
    return orbited(layout, math.radians(5) * t + math.radians(1.5) * math.sin(2 * t), 0.03 * t)


def moving_object(layout: Layout, target: int, t: float) -> Layout:
    """It is pushed to and fro, 6 cm to either side, and turned by 8 degrees a second."""
    shift = across(layout) * 0.06 * math.sin(0.8 * t)
    return moved(layout, target, shift, math.radians(8) * t)


def passing_occluder(layout: Layout, target: int, t: float) -> Layout:
    """A box passes between camera and object in two seconds; all of it is hidden for a moment."""
    return with_occluder(layout, target, 2.5 * (t - 2.5))


def leaving_object(layout: Layout, target: int, t: float) -> Layout:
    """After half a second it is lifted and taken away to the right, faster and faster."""
    lifted = np.array([0, 0, 0.12]) * min(max(t - 0.5, 0), 1)
    return moved(layout, target, lifted + across(layout) * 0.35 * max(t - 0.5, 0) ** 2, 0.0)


def covered_for_good(layout: Layout, target: int, t: float) -> Layout:
    """After a second a box comes and stays before it."""
    return with_occluder(layout, target, max(2.0 - 2.5 * max(t - 0.2, 0), 0))


def taken_away(layout: Layout, target: int, t: float) -> Layout:
    """After a second it is gone, between two frames; the camera sways."""
    layout = orbited(layout, math.radians(2) * math.sin(2 * t), 0)
    return moved(layout, target, np.array([0, 0, -50.0 * (t > 1)]), 0.0)


FOLLOWED: dict[str, Callable] = {
    "moving camera": moving_camera,
    "moving object": moving_object,
    "passing occluder": passing_occluder,
}
ENDING: dict[str, Callable] = {
    "object leaves": leaving_object,
    "covered for good": covered_for_good,
    "taken away": taken_away,
}


def shots(
    studio: Studio, motion: Callable, seed: int, seconds: float, size: tuple[int, int] = (640, 480)
) -> Iterator[Shot]:
    """A sequence of ``motion`` at 30 Hz, size (width, height): the same numbers, the same sequence."""
    layout, target = scene(studio, seed, size)
    for number in range(round(seconds * RATE_HZ)):
        time_s = number / RATE_HZ
        frame = studio.draw(motion(layout, target, time_s))
        yield Shot(time_s, frame.rgb, frame.ids == target + 1, frame.depth)
