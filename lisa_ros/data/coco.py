"""COCO's json: pictures, annotations with polygons or run lengths, categories."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.entries import text_of, usable
from lisa_ros.data.outline import corners
from lisa_ros.data.picture import BadExample
from lisa_ros.data.run_lengths import decode_runs
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json

log = logging.getLogger(__name__)

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
        content.get("categories", []), lambda one: (int(one["id"]), text_of(one["name"])), "categories", file
    )
    _count_slivers([one for _, _, one in annotations], file)
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _, image_id, one in annotations:
        of_image[image_id].append(one)
    return CocoFile(images, {number: one for number, _, one in annotations}, dict(of_image), dict(categories))


def _count_slivers(annotations: list[dict[str, Any]], file: Path) -> None:
    """Name polygons that are left out though the annotation is used."""
    with_slivers = [one for one in annotations if _has_sliver(one.get("segmentation"))]
    if with_slivers:
        log.warning(
            "skipped: polygons of fewer than three corners in %d annotations of %s; the first is annotation %r",
            *(len(with_slivers), file, with_slivers[0]["id"]),
        )


def _has_sliver(segmentation: Any) -> bool:
    if not isinstance(segmentation, list):
        return False
    return any(isinstance(polygon, list) and len(polygon) < 6 for polygon in segmentation)


def mask_of(annotation: dict[str, Any], size: tuple[int, int]) -> Masks:
    """(H, W) uint8 of 0 and 1. Polygons, run lengths, or a list of run lengths (RefCLEF).

    Polygons of fewer than three corners have no area and are left out (:func:`read_coco` counts them). All zeros where
    the outline is smaller than a pixel, or outside the picture.

    Raises:
        BadExample: The annotation cannot be drawn.
    """
    parts = annotation.get("segmentation")
    try:
        if not parts:
            raise ValueError("no polygon and no run lengths")
        if isinstance(parts, dict):
            return decode_runs(parts, size)
        if not isinstance(parts, list):
            raise TypeError(f"it is {parts!r:.80}")
        if isinstance(parts[0], dict):
            return np.maximum.reduce([decode_runs(part, size) for part in parts])
        return _fill([corners(polygon, size) for polygon in parts], size)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadExample(f"annotation {annotation.get('id')!r:.40} has no usable segmentation: {error}") from error


def _fill(polygons: list[NDArray[np.float64]], size: tuple[int, int]) -> Masks:
    with_area = [polygon.ravel().tolist() for polygon in polygons if len(polygon) >= 3]
    if not with_area:
        raise ValueError("no polygon has three corners")
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise ConfigError(
            "COCO's masks need pycocotools; install what training needs with \"pip install 'lisa_ros[train]'\""
        ) from error
    mask = np.zeros(size, np.uint8)
    for polygon in with_area:  # one by one: a picture can have thousands, and each would be a whole mask
        mask |= rle.decode(rle.frPyObjects([polygon], *size))[:, :, 0]
    return mask


def union_of(annotations: list[dict[str, Any]], size: tuple[int, int]) -> Masks:
    """(H, W) uint8: the union of several annotations. Raises BadExample, also where it has no pixel."""
    return with_pixels(np.maximum.reduce([mask_of(one, size) for one in annotations]), annotations)


def with_pixels(mask: Masks, annotations: list[dict[str, Any]]) -> Masks:
    """``mask``, which is what ``annotations`` mean. Raises BadExample where it has no pixel: nothing would be shown."""
    if not mask.any():
        numbers = ", ".join(f"{one.get('id')!r:.40}" for one in annotations)
        height, width = mask.shape
        raise BadExample(f"annotation {numbers} has no pixel in the picture of {width} x {height}")
    return mask


def size_of(image: dict[str, Any], name: str) -> tuple[int, int]:
    """(height, width) as the file says. Raises BadExample."""
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadExample(f"{name} has no height and width: {error!r}") from error
