"""Write one labelled picture in ReasonSeg's format, which :mod:`lisa_ros.data.reasonseg` and the reference read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Corners = NDArray[np.int32]


def save_example(folder: Path, name: str, png: bytes, texts: Sequence[str], mask: NDArray[np.bool_]) -> Path:
    """Write NAME.png and NAME.json. The json comes last and at once: without it the picture is no example.

    Args:
        folder: Made where it is missing.
        name: File name without its ending; a file of this name is replaced.
        png: The picture, H x W.
        texts: What a person says to mean the mask; sentences, at least one.
        mask: (H, W) the pixels that are meant; all False: what the texts name is not in the picture.

    Returns:
        The picture's path.

    Raises:
        ValueError: The mask has another size than the picture, or there is no text.
        OSError: The folder cannot be written.
    """
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != mask.shape:
        shape = "no picture" if pixels is None else f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        raise ValueError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {shape}")
    if not any(text.strip() for text in texts):
        raise ValueError("there is no text that says what the mask is")
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{name}.png"
    shapes = [{"label": "target", "points": corners.tolist()} for corners in outlines(mask)]
    label = {"text": list(texts), "is_sentence": True, "shapes": shapes}
    for path, content in (
        (picture, png),
        (picture.with_suffix(".json"), json.dumps(label, ensure_ascii=False).encode()),
    ):
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        os.replace(part, path)
    return picture


def outlines(mask: NDArray[np.bool_]) -> list[Corners]:
    """Polygons (N, 2) of x, y that together cover a mask (H, W): one for each piece, holes cut out.

    A hole is joined to the outline of its piece by a line there and back, since the format knows one outline for a
    shape. Pieces of one or two pixels are left out, where there are larger ones.
    """
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons: dict[int, Corners] = {}
    for number, (_, _, _, parent) in enumerate(tree[0] if tree is not None else ()):
        corners = np.asarray(contours[number], np.int32).reshape(-1, 2)
        if parent < 0:
            polygons[number] = corners
        else:  # OpenCV lists a piece before its holes
            polygons[int(parent)] = with_hole(polygons[int(parent)], corners)
    large = [corners for corners in polygons.values() if len(corners) > 2]
    return large or [np.resize(corners, (3, 2)) for corners in polygons.values()]


def with_hole(outline: Corners, hole: Corners) -> Corners:
    """An outline (N, 2) joined to a hole's (M, 2) where they are nearest: (N + M + 2, 2)."""
    distances = ((outline[:, None] - hole[None]) ** 2).sum(-1)  # (N, M)
    at, beginning = np.unravel_index(int(np.argmin(distances)), distances.shape)
    ring = np.roll(hole, -int(beginning), axis=0)
    return np.concatenate([outline[: at + 1], ring, ring[:1], outline[at:]])
