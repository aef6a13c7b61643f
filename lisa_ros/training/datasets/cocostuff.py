"""COCO-Stuff: COCO's pictures, the ``stuffthingmaps`` PNGs and the project's labels.txt."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ConfigError
from lisa_ros.training.datasets.label_maps import LabelMaps, pairs_by_name
from lisa_ros.training.phrasing import LISA, Phrasing


def cocostuff(
    path: Path,
    *,
    images: Path,
    split: str = "train2017",
    questions: int = 3,
    several: float = 0.0,
    absent: float = 0.0,
    listed: int = 80,
    phrasing: Phrasing = LISA,
) -> LabelMaps:
    """Open COCO-Stuff. Classes with a hyphen ('wall-brick', 'food-other') are never asked about, as in the reference.

    Args:
        path: Folder with labels.txt and the maps in ``split``.
        images: COCO's folder of that split.
        split: Name of the folder of maps.
        questions: As of :class:`LabelMaps`, like the others.

    Raises:
        ConfigError: A folder or file is missing, or labels.txt does not name the classes.
    """
    pairs = pairs_by_name(images, path / split)
    names = [None if "-" in name else name for name in _class_names(path / "labels.txt")]
    return LabelMaps(
        pairs, names, _number, questions=questions, several=several, absent=absent, listed=listed, phrasing=phrasing
    )


def _number(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The maps number classes from 0 and keep 255 for what is unlabelled."""
    return label


def _class_names(file: Path) -> list[str]:
    """labels.txt counts from 0: unlabeled; the maps leave that one out."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{file} is missing; it comes with COCO-Stuff and names the classes") from error
    names = [match[1].strip() for line in lines if (match := re.match(r"\s*\d+:\s*(.+)", line))]
    if not names or names[0] != "unlabeled":
        raise ConfigError(f"{file} does not begin with '0: unlabeled'")
    return names[1:]
