"""Pictures with a map of class numbers: what ADE20K and COCO-Stuff have in common."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.picture import BadExample, check_picture, read_label_map, read_picture
from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single

log = logging.getLogger(__name__)

UNLABELLED = 255


class LabelMaps:
    """Questions for the classes of a picture.

    Args:
        pairs: Picture and label map.
        names: Of the class numbers from 0; None: never asked about.
        number: From a map's pixels to class numbers, UNLABELLED elsewhere.
        questions: Classes asked about in one step.
        several: Share of pictures whose classes are asked for in one question, with one ``[SEG]`` each.
        absent: Share of pictures that are also asked for a class which is not there.

    Raises:
        ConfigError: There is no pair.
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
        present = [c for c in np.unique(numbers).tolist() if c != UNLABELLED]
        if wrong := [c for c in present if not 0 <= c < len(self._names)]:
            raise BadExample(f"{label} holds class {wrong[0]}; there are {len(self._names)}")
        nameable = [c for c in present if self._names[c] is not None]
        if not nameable:
            raise BadExample(f"{label} has no class to ask about")
        chosen = rng.sample(nameable, min(self._questions, len(nameable)))
        dialogues = self._dialogues(chosen, numbers, rng)
        if rng.random() < self._absent:
            dialogues.append(self._refusal(present, rgb.shape[:2], rng))
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

    def _refusal(self, present: list[int], size: tuple[int, int], rng: random.Random) -> Dialogue:
        named_here = {self._names[c] for c in present}
        name = rng.choice([name for name in self._names if name is not None and name not in named_here])
        return single(templates.ask(name, False, rng), templates.refuse(name, False, rng), [], size)


def pairs_by_name(pictures: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Every label map with the picture of its name, in order. Maps without a picture are counted in the log.

    Raises:
        ConfigError: A folder is missing.
    """
    for folder in (pictures, labels):
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
    picture_of = {file.stem: file for file in pictures.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    maps = sorted(labels.glob("*.png"))
    if alone := [label for label in maps if label.stem not in picture_of]:
        log.warning("skipped: %d label maps without a picture in %s; the first is %s", len(alone), pictures, alone[0])
    return [(picture_of[label.stem], label) for label in maps if label.stem in picture_of]
