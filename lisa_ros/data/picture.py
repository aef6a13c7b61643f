"""Pictures and maps of class numbers from disk, complete and of the size that their labels are for.

All readers of data sets, for training and for evaluation, follow one rule: an example is drawn right, or it is named
and left out. It never stops a run, and it never disappears silently.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.errors import ImageError, LisaError
from lisa_ros.perception.photo import read_picture_file

log = logging.getLogger(__name__)


class BadExample(LisaError):
    """A picture or label of a data set that cannot be used. It is named and left out; the rest goes on."""


class SkipLog:
    """Names what is left out, each reason once: an example may be drawn again and again."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def __call__(self, reason: str) -> None:
        if reason not in self._named:
            self._named.add(reason)
            log.warning("skipped: %s", reason)


def read_picture(file: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, the same pixels as `lisa segment` sees. Raises BadExample where it cannot be used."""
    try:
        return read_picture_file(file)
    except ImageError as error:
        raise BadExample(str(error)) from error


def read_label_map(file: Path) -> NDArray[np.int64]:
    """(H, W) class numbers of a PNG whose pixels are numbers or indices into a palette. Raises BadExample."""
    try:
        with Image.open(file) as image:
            image.load()
    except FileNotFoundError as error:
        raise BadExample(f"{file} is missing") from error
    except Exception as error:  # what Pillow raises for damaged files has no common type
        raise BadExample(f"{file} is not a whole picture: {error}") from error
    if image.mode not in ("L", "P", "I", "I;16"):
        raise BadExample(f"{file} is a picture of mode {image.mode}, not a map of class numbers")
    return np.asarray(image).astype(np.int64)


def check_picture(rgb: NDArray[np.uint8], size: tuple[int, int], name: str) -> None:
    """Raise BadExample unless the picture has the (height, width) that its label is for."""
    if rgb.shape[:2] != size:
        raise BadExample(f"{name} has {rgb.shape[0]} x {rgb.shape[1]} pixels, its label {size[0]} x {size[1]}")
