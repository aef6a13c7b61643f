"""The packaged object models: meshes, textures and resting poses, read from ``assets/``."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parent / "assets"


class PoseEntry(TypedDict):
    """A rotation, (w, x, y, z), in which a model rests on a table. p: its probability; they need not add up to 1."""

    quat: list[float]
    p: float


# Not a class statement: one key is a keyword of Python.
ModelEntry = TypedDict(
    "ModelEntry",
    {
        "name": str,  # of the file NAME.npz
        "class": str,
        "held_out": bool,
        "size": list[float],  # x, y, z, metres
        "poses": list[PoseEntry],
        "source": str,
        "creator": str,
        "licence": str,
    },
)
"""An entry of ``models.json``."""


@dataclass(frozen=True, eq=False)
class Part:
    """Triangles of one material.

    vertices: (V, 3) float32, metres, object frame (z up, standing on z = 0, footprint centred).
    faces: (F, 3) int32. rgba: (4,) float32 in [0, 1].
    uv: (V, 2) float32 texture coordinates, v upwards; ``None`` with ``texture``, an RGB uint8 image (H, W, 3).
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    rgba: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    texture: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Model:
    """One object model. A class may have several; ``held_out`` ones appear in test scenes only.

    size: (3,) metres. hull: (N, 3) float32, corners of the convex hull, object frame, for collisions.
    poses: rotations (w, x, y, z) in which it rests on a table, with ``chances`` that add up to 1.
    """

    name: str
    label: str
    held_out: bool
    size: tuple[float, float, float]
    poses: NDArray[np.float64]
    chances: NDArray[np.float64]
    parts: tuple[Part, ...]
    hull: NDArray[np.float32]


def read_model(entry: ModelEntry, folder: Path) -> Model:
    """Reads the model of an entry from its file in ``folder``."""
    with np.load(folder / f"{entry['name']}.npz") as data:
        low, extent, colours = data["low"], data["extent"], data["rgba"]
        parts = []
        for number, rgba in enumerate(colours):
            vertices = low + data[f"vertices{number}"].astype(np.float32) / 65535 * extent
            texture = uv = None
            if f"texture{number}" in data:
                uv = data[f"uv{number}"].astype(np.float32)
                texture = np.asarray(Image.open(io.BytesIO(data[f"texture{number}"].tobytes())).convert("RGB"))
            parts.append(Part(vertices, data[f"faces{number}"].astype(np.int32), rgba, uv, texture))
        hull = data["hull"]
    chances = np.array([pose["p"] for pose in entry["poses"]])
    return Model(
        name=entry["name"],
        label=entry["class"],
        held_out=entry["held_out"],
        size=(entry["size"][0], entry["size"][1], entry["size"][2]),
        poses=np.array([pose["quat"] for pose in entry["poses"]]),
        chances=chances / chances.sum(),
        parts=tuple(parts),
        hull=hull,
    )


@functools.cache
def load_models(folder: Path = FOLDER) -> tuple[Model, ...]:
    """All packaged models, in the order of ``models.json``."""
    entries: list[ModelEntry] = json.loads((folder / "models.json").read_text())
    return tuple(read_model(entry, folder) for entry in entries)
