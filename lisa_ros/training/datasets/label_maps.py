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
from lisa_ros.training.phrasing import LISA, Phrasing, Target

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
        listed: Classes in one list, for a family that is asked for lists; the present ones first.
        phrasing: The model's questions and answers.

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
        listed: int = 80,
        phrasing: Phrasing = LISA,
    ) -> None:
        if not pairs:
            raise ConfigError("no picture has a label map of its name; are both folders in place?")
        self._pairs, self._names, self._number = list(pairs), list(names), number
        self._questions, self._several, self._absent = questions, several, absent
        self._listed, self._phrasing = listed, phrasing

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
        size = rgb.shape[0], rgb.shape[1]
        if self._phrasing.lists_classes:
            chosen = rng.sample(nameable, min(self._listed, len(nameable)))
            absent = self._absent_ones(present, self._listed - len(chosen), rng)
            targets = [*(self._target(c, numbers) for c in chosen), *absent]
            return Example(str(picture), rgb, (self._phrasing.classes(targets, size, rng),))
        chosen = rng.sample(nameable, min(self._questions, len(nameable)))
        targets = [self._target(c, numbers) for c in chosen]
        if self._phrasing.together:
            if rng.random() < self._absent:
                targets += self._absent_ones(present, 1, rng)
                rng.shuffle(targets)
            return Example(str(picture), rgb, self._phrasing.dialogues(targets, size, rng, ","))
        dialogues = self._dialogues(targets, size, rng)
        if rng.random() < self._absent:
            dialogues += [self._phrasing.single(one, size, rng) for one in self._absent_ones(present, 1, rng)]
        return Example(str(picture), rgb, tuple(dialogues))

    def _target(self, number: int, numbers: NDArray[np.int64]) -> Target:
        return Target(str(self._names[number]), (numbers == number).astype(np.uint8))

    def _absent_ones(self, present: list[int], count: int, rng: random.Random) -> list[Target]:
        """At most ``count`` classes that are not in the picture."""
        named_here = {self._names[c] for c in present}
        names = [name for name in self._names if name is not None and name not in named_here]
        return [Target(name, None) for name in rng.sample(names, min(count, len(names)))]

    def _dialogues(self, targets: list[Target], size: tuple[int, int], rng: random.Random) -> list[Dialogue]:
        one_mask_token = not self._phrasing.family.coarse_token
        if one_mask_token and len(targets) > 1 and rng.random() < self._several:
            question, answer = templates.ask_several([target.name for target in targets], rng)
            masks = [target.mask for target in targets if target.mask is not None]
            return [single(question, answer, masks, size, self._phrasing.family)]
        return list(self._phrasing.dialogues(targets, size, rng))


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
