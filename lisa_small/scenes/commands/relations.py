"""Where objects are relative to each other, as the camera sees them. What is not clear is never used in a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from lisa_ros.data.scene_records import CameraRecord, ObjectRecord
from lisa_small.scenes.phrasings import Direction


def offset(a: ObjectRecord, b: ObjectRecord, camera: CameraRecord) -> tuple[float, float]:
    """From b to a in the picture, in image widths and heights: x right, y down."""
    dx = (a["centroid"][0] - b["centroid"][0]) / camera["width"]
    dy = (a["centroid"][1] - b["centroid"][1]) / camera["height"]
    return dx, dy


def is_towards(
    a: ObjectRecord, b: ObjectRecord, camera: CameraRecord, direction: Direction
) -> Literal["yes", "no", "unclear"]:
    """Whether a is LEFT (RIGHT, FRONT, BEHIND) of b."""
    dx, dy = offset(a, b, camera)
    along, across = {"LEFT": (-dx, dy), "RIGHT": (dx, dy), "FRONT": (dy, dx), "BEHIND": (-dy, dx)}[direction]
    if along > 0.12 and along > 1.2 * abs(across):
        return "yes"
    return "no" if along < 0.03 else "unclear"


def only_one_towards(
    objects: Sequence[ObjectRecord], anchor: ObjectRecord, camera: CameraRecord, direction: Direction
) -> ObjectRecord | None:
    """The one of ``objects`` that is in this direction from ``anchor``; None where there are others or doubts."""
    verdicts = [(is_towards(thing, anchor, camera, direction), thing) for thing in objects]
    clear = [thing for verdict, thing in verdicts if verdict == "yes"]
    # A thing diagonally away is neither: count it as doubt only where it is clearly on that side.
    doubtful = [thing for verdict, thing in verdicts if verdict == "unclear"]
    return clear[0] if len(clear) == 1 and not doubtful else None


def extreme(
    objects: Sequence[ObjectRecord], key: Callable[[ObjectRecord], float], margin: float
) -> ObjectRecord | None:
    """The object with the largest key, if it exceeds the next by ``margin``; None for fewer than two objects."""
    ordered = sorted(objects, key=key, reverse=True)
    if len(ordered) < 2 or key(ordered[0]) - key(ordered[1]) < margin:
        return None
    return ordered[0]
