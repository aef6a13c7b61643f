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
from lisa_ros.data.shapes import NoArea, Paint, overhang, paint_of
from lisa_ros.data.truth import IGNORED
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json

log = logging.getLogger(__name__)

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_ENCODINGS = ("utf-8-sig", "cp1252")  # some files of the benchmark are cp1252
_OVERHANG = 0.1  # of a side; an annotator's hand slips less
_UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, SyntaxError, cv2.error)
# What reading and drawing raise for a label that is none.


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
        remarks: What was left out of the label, each with its reason and the file's name.
    """

    file: Path
    rgb: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    texts: tuple[str, ...]
    is_sentence: bool
    kind: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The picture's name, without its ending."""
        return self.file.stem


def labelled_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder with a .json beside them, by name. What is without its other half is counted in the log.

    Raises:
        ConfigError: There is no such folder, or no such picture.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    files = sorted(folder.iterdir())
    pictures = [file for file in files if file.suffix.lower() in _PICTURES]
    labelled: dict[Path, Path] = {}
    shared = []
    for file in pictures:
        label = file.with_suffix(".json")
        if label in labelled:
            shared.append(file)
        elif label.is_file():
            labelled[label] = file
    if not labelled:
        raise ConfigError(f"{folder} has no picture with a .json beside it")
    of_both = set(labelled)
    _count_skipped(folder, "pictures without a .json", [f for f in pictures if f.with_suffix(".json") not in of_both])
    _count_skipped(folder, "pictures whose .json belongs to another one", shared)
    _count_skipped(folder, ".json files without a picture", [f for f in files if _is_label(f) and f not in of_both])
    return list(labelled.values())


def _is_label(file: Path) -> bool:
    return file.suffix == ".json" and file.is_file()


def _count_skipped(folder: Path, what: str, files: list[Path]) -> None:
    if files:
        log.warning("skipped: %d %s in %s; the first is %s", len(files), what, folder, files[0].name)


def read_example(picture: Path) -> ReasonSegExample:
    """Read one picture with its json.

    Raises:
        BadExample: One of the two cannot be used; the message names it.
    """
    rgb = read_picture(picture)
    file = picture.with_suffix(".json")
    label = read_json(file, BadExample, encodings=_ENCODINGS)
    try:
        _check_size(label, (rgb.shape[0], rgb.shape[1]))
        truth, remarks = read_truth(label, (rgb.shape[0], rgb.shape[1]))
        texts, without = _texts(label["text"])
        is_sentence = _is_sentence(label["is_sentence"])
        kind = label.get("kind") if isinstance(label.get("kind"), str) else None
    except KeyError as error:
        raise BadExample(f"{file} is not a ReasonSeg label: it has no {error}") from error
    except _UNUSABLE as error:
        raise BadExample(f"{file} is not a ReasonSeg label: {error}") from error
    if not texts:
        raise BadExample(f"{file} has no text")
    return ReasonSegExample(
        picture, rgb, truth, texts, is_sentence, kind, tuple(f"{file}: {remark}" for remark in (*remarks, *without))
    )


def read_folder(folder: Path) -> Iterator[ReasonSegExample]:
    """Every example of a folder, by name. One that cannot be used is named and left out.

    Raises:
        ConfigError: As :func:`labelled_pictures`.
    """
    for picture in labelled_pictures(folder):
        try:
            example = read_example(picture)
        except BadExample as error:
            log.warning("skipped: %s", error)
            continue
        for remark in example.remarks:
            log.warning("skipped: %s", remark)
        yield example


def read_truth(label: dict[str, Any], size: tuple[int, int]) -> tuple[NDArray[np.uint8], list[str]]:
    """Paint the shapes of a json, large to small, so that a small one lies on top.

    'flag' is not painted, labels with 'ignore' become IGNORED, all others 1. How each is drawn:
    :func:`lisa_ros.data.shapes.paint_of`.

    Args:
        label: The json's content.
        size: (height, width) of the picture.

    Returns:
        (H, W) uint8 of 0, 1 and IGNORED; and what was left out since it covers no pixel.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError: It is not such a json, a shape cannot
            be drawn, or shapes of targets are left out and none remains.
    """
    shapes: list[tuple[int, int, Paint]] = []
    remarks = []
    targets = 0
    for number, shape in enumerate(label["shapes"], 1):
        name = shape["label"].lower()
        if name == "flag":
            continue
        value = IGNORED if "ignore" in name else 1
        targets += value == 1
        try:
            paint = paint_of(shape, size)
        except NoArea as error:
            remarks.append(f"shape {number} ({shape['label']!r}) is left out: {error}")
            continue
        except _UNUSABLE as error:
            raise ValueError(f"shape {number} ({shape['label']!r}): {error}") from error
        if overhang(shape["points"], size) > _OVERHANG:
            remarks.append(
                f"shape {number} ({shape['label']!r}) reaches far outside the picture of {size[1]} x {size[0]}; only "
                "what lies inside counts: is the label another picture's?"
            )
        area = np.zeros(size, np.uint8)
        paint(area, 1)
        shapes.append((int(area.sum()), value, paint))
    if targets and not any(value == 1 for _, value, _ in shapes):
        raise ValueError("; ".join(remarks))
    truth = np.zeros(size, np.uint8)
    for i in np.argsort([area for area, _, _ in shapes])[::-1]:
        shapes[i][2](truth, shapes[i][1])
    return truth, remarks


def _check_size(label: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise ValueError where the json says that it is for a picture of another size; labelme writes the size."""
    for name, side in (("imageHeight", size[0]), ("imageWidth", size[1])):
        stated = label.get(name)
        if stated is not None and stated != side:
            raise ValueError(f"{name} is {stated!r:.40}, the picture has {size[1]} x {size[0]} pixels")


def _texts(value: Any) -> tuple[tuple[str, ...], list[str]]:
    """The texts, and what was left out. One text alone is a command, not a list of letters."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise TypeError(f"'text' is {value!r:.80}; it must be a text or a list of texts")
    usable = [isinstance(item, str) and bool(item.strip()) for item in items]
    texts = tuple(item for item, good in zip(items, usable, strict=True) if good)
    remarks = [
        f"text {number} is left out: {item!r:.80} says nothing"
        for number, (item, good) in enumerate(zip(items, usable, strict=True), 1)
        if not good
    ]
    return texts, remarks


def _is_sentence(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ValueError(f"'is_sentence' is {value!r:.40}; it must be true or false")
    return bool(value)
