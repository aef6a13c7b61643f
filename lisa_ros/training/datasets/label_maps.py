"""Pictures with a map of class numbers: what ADE20K and COCO-Stuff have in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.picture import BadExample, check_picture, read_label_map, read_picture
from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single

UNLABELLED = 255


class LabelMaps:
    """pairs: picture and label map. names: of the class numbers from 0; None: never asked about. number: from a map's
    pixels to class numbers, UNLABELLED elsewhere.

    questions: classes asked about in one step. several: share of pictures whose classes are asked for in one question,
    with one ``[SEG]`` each. absent: share of pictures that are also asked for a class which is not there.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        names: Sequence[str | None],
        number: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        *,
        questions: int = 3,
        several: float = 0.0,
        absent: float = 0.0,
    ) -> None:
        if not pairs:
            raise ConfigError("no picture has a label map of its name; are both folders in place?")
        self._pairs, self._names, self._number = list(pairs), list(names), number
        self._questions, self._several, self._absent = questions, several, absent

    def __len__(self) -> int:
        return len(self._pairs)

    def draw(self, rng: random.Random) -> Example:
        picture, label = self._pairs[rng.randrange(len(self._pairs))]
        rgb, numbers = read_picture(picture), self._number(read_label_map(label))
        check_picture(rgb, (numbers.shape[0], numbers.shape[1]), str(picture))
        there = [c for c in np.unique(numbers).tolist() if c != UNLABELLED]
        if wrong := [c for c in there if not 0 <= c < len(self._names)]:
            raise BadExample(f"{label} holds class {wrong[0]}; there are {len(self._names)}")
        nameable = [c for c in there if self._names[c] is not None]
        if not nameable:
            raise BadExample(f"{label} has no class to ask about")
        chosen = rng.sample(nameable, min(self._questions, len(nameable)))
        dialogues = self._dialogues(chosen, numbers, rng)
        if rng.random() < self._absent:
            dialogues.append(self._refusal(there, rgb.shape[:2], rng))
        return Example(str(picture), rgb, tuple(dialogues))

    def _dialogues(self, chosen: list[int], numbers: NDArray[np.int64], rng: random.Random) -> list[Dialogue]:
        size = numbers.shape[0], numbers.shape[1]
        names = [str(self._names[c]) for c in chosen]
        masks = [(numbers == c).astype(np.uint8) for c in chosen]
        if len(chosen) > 1 and rng.random() < self._several:
            return [single(*templates.ask_several(names, rng), masks, size)]
        return [
            single(templates.ask(name, False, rng), templates.answer(rng), [mask], size)
            for name, mask in zip(names, masks, strict=True)
        ]

    def _refusal(self, there: list[int], size: tuple[int, int], rng: random.Random) -> Dialogue:
        named_here = {self._names[c] for c in there}
        name = rng.choice([name for name in self._names if name is not None and name not in named_here])
        return single(templates.ask(name, False, rng), templates.refuse(name, False, rng), [], size)


def pairs_by_name(pictures: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Every label map with the picture of its name, in order. Raises ConfigError where a folder is missing."""
    for folder in (pictures, labels):
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
    found = {file.stem: file for file in pictures.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    return [(found[label.stem], label) for label in sorted(labels.glob("*.png")) if label.stem in found]
