"""PACO-LVIS and Pascal-Part: objects and their parts, in COCO's json with categories such as ``mug:handle``."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from lisa_ros.data.coco import read_coco, union_of
from lisa_ros.data.picture import BadExample, SkipLog
from lisa_ros.data.refer import picture_of
from lisa_ros.errors import ConfigError
from lisa_ros.training.datasets.example import Example
from lisa_ros.training.phrasing import LISA, Phrasing, Target

Name = tuple[str, str | None]
"""An object, and a part of it or None."""


class Parts:
    """Objects and parts of a picture.

    All annotations of a category in a picture are one mask: 'the handle of the mug' does not say which mug's.

    Args:
        path: The json: paco_lvis_v1_train.json, or Pascal-Part's train.json.
        images: Where its file names begin.
        questions: Categories asked about in one step.
        phrasing: The model's questions and answers.

    Raises:
        ConfigError: The file is missing or broken, or has no annotated picture.
    """

    def __init__(self, path: Path, *, images: Path, questions: int = 3, phrasing: Phrasing = LISA) -> None:
        self._coco = read_coco(path)
        self._images = images
        self._questions, self._phrasing = questions, phrasing
        self._name_skipped = SkipLog()
        self._names = {number: _name(text) for number, text in self._coco.categories.items()}
        self._ids = sorted(image for image in self._coco.images if self._coco.of_image.get(image))
        if not self._ids:
            raise ConfigError(f"{path} has no annotated picture")

    def __len__(self) -> int:
        return len(self._ids)

    def draw(self, rng: random.Random) -> Example:
        image_id = rng.choice(self._ids)
        file, rgb = picture_of(self._coco, image_id, self._images)
        size = rgb.shape[:2]
        by_category = self._by_category(image_id, file)
        chosen = rng.sample(sorted(by_category), min(self._questions, len(by_category)))
        targets, reason = [], ""
        for category in chosen:
            name = _phrase(self._names[category], rng)
            try:
                mask = union_of(by_category[category], size)
            except BadExample as error:
                reason = f"{file}: {error}"
                if len(chosen) > 1:
                    self._name_skipped(reason)
                continue
            targets.append(Target(name, mask))
        if not targets:
            raise BadExample(reason)
        return Example(file, rgb, self._phrasing.dialogues(targets, (rgb.shape[0], rgb.shape[1]), rng, ","))

    def _by_category(self, image_id: int, file: str) -> dict[int, list[dict[str, Any]]]:
        by_category: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in self._coco.of_image[image_id]:
            number = annotation.get("category_id")
            if not isinstance(number, int):
                raise BadExample(f"{file}: annotation {annotation['id']} has the category {number!r}")
            by_category[number].append(annotation)
        if unknown := by_category.keys() - self._names.keys():
            raise BadExample(f"{file}: there is no category {min(unknown)}")
        return by_category


def _name(category: str) -> Name:
    """'trash_can:rim' -> ('trash can', 'rim'); a note in brackets, as in 'dog_(animal)', is left out."""
    parts = [part.split("_(")[0].replace("_", " ").strip() for part in category.strip().split(":")]
    return parts[0], parts[1] if len(parts) > 1 else None


def _phrase(name: Name, rng: random.Random) -> str:
    thing, part = name
    if part is None:
        return thing
    return f"{thing} {part}" if rng.random() < 0.5 else f"the {part} of the {thing}"
