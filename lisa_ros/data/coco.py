"""COCO's json: pictures, annotations with polygons or run lengths, categories."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.entries import usable
from lisa_ros.data.picture import BadExample
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json

Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class CocoFile:
    """One annotation file.

    Args:
        images: Id -> entry, whose ``id`` is a number.
        annotations: Id -> entry, whose ``id`` and ``image_id`` are numbers.
        of_image: A picture's id -> its annotations.
        categories: Id -> name.
    """

    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]
    of_image: dict[int, list[dict[str, Any]]]
    categories: dict[int, str]


def read_coco(file: Path) -> CocoFile:
    """Read an annotation file. Entries that cannot be used are counted in the log and left out.

    Raises:
        ConfigError: The file is missing or not COCO's.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not in COCO's format: it is not a JSON object")
    images = dict(usable(content.get("images"), lambda one: (int(one["id"]), one), "images", file))
    annotations = usable(
        content.get("annotations"), lambda one: (int(one["id"]), int(one["image_id"]), one), "annotations", file
    )
    categories = usable(
        content.get("categories", []), lambda one: (int(one["id"]), str(one["name"])), "categories", file
    )
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _, image_id, one in annotations:
        of_image[image_id].append(one)
    return CocoFile(images, {number: one for number, _, one in annotations}, dict(of_image), dict(categories))


def mask_of(annotation: dict[str, Any], size: tuple[int, int]) -> Masks:
    """(H, W) uint8 of 0 and 1. Polygons, run lengths, or a list of run lengths (RefCLEF). Raises BadExample."""
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise ConfigError(
            "COCO's masks need pycocotools; install what training needs with \"pip install 'lisa_ros[train]'\""
        ) from error
    height, width = size
    parts = annotation.get("segmentation")
    try:
        if not parts:
            raise ValueError("no polygon and no run lengths")
        if isinstance(parts, dict):
            parts = [parts]
        if isinstance(parts[0], dict):
            runs = [_compressed(part, rle, size) for part in parts]
        else:
            runs = rle.frPyObjects([[float(v) for v in polygon] for polygon in parts], height, width)
        mask = rle.decode(runs)
    except Exception as error:  # pycocotools raises bare Exceptions
        raise BadExample(f"annotation {annotation.get('id')} has no usable segmentation: {error}") from error
    mask = mask.any(axis=2) if mask.ndim == 3 else mask
    if mask.shape != size:
        raise BadExample(f"annotation {annotation.get('id')} is for {mask.shape} pixels, the picture has {size}")
    return mask.astype(np.uint8)


def _compressed(part: dict[str, Any], rle: Any, size: tuple[int, int]) -> dict[str, Any]:
    if isinstance(part["counts"], list):
        return rle.frPyObjects(part, *size)
    counts = part["counts"]
    return {"size": part["size"], "counts": counts.encode() if isinstance(counts, str) else counts}


def union_of(annotations: list[dict[str, Any]], size: tuple[int, int]) -> Masks:
    """(H, W) uint8: the union of several annotations. Raises BadExample."""
    return np.maximum.reduce([mask_of(one, size) for one in annotations])


def size_of(image: dict[str, Any], name: str) -> tuple[int, int]:
    """(height, width) as the file says. Raises BadExample."""
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadExample(f"{name} has no height and width: {error!r}") from error
