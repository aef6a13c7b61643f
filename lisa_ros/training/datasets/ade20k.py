"""ADE20K as published for scene parsing (ADEChallengeData2016): images/, annotations/, objectInfo150.txt."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ConfigError
from lisa_ros.training.datasets.label_maps import UNLABELLED, LabelMaps, pairs_by_name
from lisa_ros.training.phrasing import LISA, Phrasing


def ade20k(
    path: Path,
    *,
    split: str = "training",
    questions: int = 3,
    several: float = 0.0,
    absent: float = 0.0,
    listed: int = 80,
    phrasing: Phrasing = LISA,
) -> LabelMaps:
    """Open ADE20K.

    Args:
        path: ADEChallengeData2016.
        split: ``training`` or ``validation``.
        questions: As of :class:`LabelMaps`, like the others.

    Raises:
        ConfigError: A folder or file is missing, or objectInfo150.txt does not name the classes.
    """
    pairs = pairs_by_name(path / "images" / split, path / "annotations" / split)
    names = _class_names(path / "objectInfo150.txt")
    return LabelMaps(
        pairs, names, _number, questions=questions, several=several, absent=absent, listed=listed, phrasing=phrasing
    )


def _number(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 is unlabelled, class n is n + 1."""
    return np.where(label == 0, UNLABELLED, label - 1)


def _class_names(file: Path) -> list[str]:
    """The last column, its first synonym; a line a class, after a heading."""
    try:
        lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{file} is missing; it comes with ADEChallengeData2016 and names the classes") from error
    names = {}
    for line in lines:
        if match := re.match(r"\s*(\d+)\s.*?([^\d\s.][^\t]*)$", line):
            names[int(match[1])] = re.split(r"[,;]", match[2])[0].strip()
    if sorted(names) != list(range(1, len(names) + 1)):
        raise ConfigError(f"{file} does not name the classes 1 to {len(names)}, one a line")
    return [names[i] for i in sorted(names)]
