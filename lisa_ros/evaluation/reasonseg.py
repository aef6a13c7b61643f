"""ReasonSeg's format: a picture and a labelme-like json of the same name, polygons and a sentence or phrase in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ConfigError, ImageError
from lisa_ros.evaluation.metrics import IGNORED

log = logging.getLogger(__name__)
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class ReasonSegExample:
    """rgb: (H, W, 3) uint8. truth: (H, W) uint8: 0, 1, or IGNORED. texts: paraphrases; is_sentence or a noun phrase.

    kind: of command, as `lisa scenes --format reasonseg` writes it; the benchmark's own files have none.
    """

    name: str
    rgb: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    texts: list[str]
    is_sentence: bool
    kind: str | None = None


def read_truth(label: dict, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint the polygons of a json, large to small, so that a small one is seen on top. size: (height, width).

    'flag' is not painted, labels with 'ignore' become IGNORED, all others 1. Corners are truncated to whole pixels and
    the outline is drawn one pixel wide, as the benchmark does.
    """
    shapes = []
    for shape in label["shapes"]:
        name = shape["label"].lower()
        if name == "flag":
            continue
        points = np.array(shape["points"], np.float64).astype(np.int32)
        area = np.zeros(size, np.uint8)
        _paint(area, points, 1)
        shapes.append((int(area.sum()), IGNORED if "ignore" in name else 1, points))
    truth = np.zeros(size, np.uint8)
    for i in np.argsort([area for area, _, _ in shapes])[::-1]:
        _paint(truth, shapes[i][2], shapes[i][1])
    return truth


def _paint(image: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> None:
    cv2.polylines(image, [points], True, value, 1)
    cv2.fillPoly(image, [points], value)


def read_json(path: Path) -> dict:
    """utf-8, or cp1252 as some files of the benchmark are."""
    try:
        return json.loads(path.read_text("utf-8"))
    except UnicodeDecodeError:
        return json.loads(path.read_text("cp1252"))


def read_example(picture: Path) -> ReasonSegExample:
    """One picture with its json. Raises ImageError or ConfigError naming the file."""
    bgr = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ImageError(f"{picture} is not a picture")
    try:
        label = read_json(picture.with_suffix(".json"))
        truth = read_truth(label, bgr.shape[:2])
        texts, is_sentence = list(label["text"]), bool(label["is_sentence"])
        kind = label.get("kind") if isinstance(label.get("kind"), str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cv2.error) as error:
        raise ConfigError(f"{picture.with_suffix('.json')} is not a ReasonSeg label: {error}") from error
    if not texts:
        raise ConfigError(f"{picture.with_suffix('.json')} has no text")
    rgb: NDArray[np.uint8] = np.ascontiguousarray(bgr[..., ::-1])
    return ReasonSegExample(picture.stem, rgb, truth, texts, is_sentence, kind)


def read_folder(folder: Path) -> Iterator[ReasonSegExample]:
    """Every example of a folder, by name. A broken one is named and skipped."""
    for picture in sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES):
        if not picture.with_suffix(".json").is_file():
            continue
        try:
            yield read_example(picture)
        except (ImageError, ConfigError) as error:
            log.warning("skipped: %s", error)
