"""ReasonSeg's format: a picture, and a labelme-like json of the same name with polygons and a sentence or phrase."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.data.truth import IGNORED
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json

log = logging.getLogger(__name__)

_PICTURES = (".jpg", ".jpeg", ".png")
_ENCODINGS = ("utf-8-sig", "cp1252")  # some files of the benchmark are cp1252


@dataclass(frozen=True, eq=False)
class ReasonSegExample:
    """A labelled picture.

    Args:
        file: The picture's.
        rgb: (H, W, 3) uint8.
        truth: (H, W) uint8: 0, 1 or IGNORED; without a 1, the target is absent.
        texts: Paraphrases, at least one.
        is_sentence: Whether they are sentences; else they are noun phrases.
        kind: Of command, as `lisa scenes --format reasonseg` writes it; the benchmark's own files have none.
    """

    file: Path
    rgb: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    texts: tuple[str, ...]
    is_sentence: bool
    kind: str | None = None

    @property
    def name(self) -> str:
        """The picture's name, without its ending."""
        return self.file.stem


def labelled_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder with a .json beside them, by name. Pictures without one are counted in the log.

    Raises:
        ConfigError: There is no such folder, or no such picture.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
    labelled = [file for file in pictures if file.with_suffix(".json").is_file()]
    if not labelled:
        raise ConfigError(f"{folder} has no picture with a .json beside it")
    if len(labelled) < len(pictures):
        first = next(file for file in pictures if not file.with_suffix(".json").is_file())
        log.warning(
            "skipped: %d pictures of %s without a .json; the first is %s",
            *(len(pictures) - len(labelled), folder, first.name),
        )
    return labelled


def read_example(picture: Path) -> ReasonSegExample:
    """Read one picture with its json.

    Raises:
        BadExample: One of the two cannot be used; the message names it.
    """
    rgb = read_picture(picture)
    file = picture.with_suffix(".json")
    label = read_json(file, BadExample, encodings=_ENCODINGS)
    try:
        truth = read_truth(label, (rgb.shape[0], rgb.shape[1]))
        texts = tuple(str(text) for text in label["text"] if str(text).strip())
        is_sentence = bool(label["is_sentence"])
        kind = label.get("kind") if isinstance(label.get("kind"), str) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, cv2.error) as error:
        raise BadExample(f"{file} is not a ReasonSeg label: {error!r}") from error
    if not texts:
        raise BadExample(f"{file} has no text")
    return ReasonSegExample(picture, rgb, truth, texts, is_sentence, kind)


def read_folder(folder: Path) -> Iterator[ReasonSegExample]:
    """Every example of a folder, by name. One that cannot be used is named and left out.

    Raises:
        ConfigError: As :func:`labelled_pictures`.
    """
    for picture in labelled_pictures(folder):
        try:
            yield read_example(picture)
        except BadExample as error:
            log.warning("skipped: %s", error)


def read_truth(label: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint the polygons of a json, large to small, so that a small one lies on top.

    'flag' is not painted, labels with 'ignore' become IGNORED, all others 1. Corners are truncated to whole pixels and
    the outline is drawn one pixel wide, as the benchmark does.

    Args:
        label: The json's content.
        size: (height, width) of the picture.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, cv2.error: It is not such a json.
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
