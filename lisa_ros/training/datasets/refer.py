"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: sentences that refer to one object of a picture.

FOLDER/refcoco/refs(unc).p and instances.json; the pictures in FOLDER/images/mscoco/images/train2014, those of RefCLEF
in FOLDER/images/saiapr_tc-12.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.coco import CocoFile, mask_of, read_coco, size_of
from lisa_ros.training.datasets.example import BadExample, Dialogue, Example, check_picture, read_picture, single
from lisa_ros.training.datasets.plain_pickle import load_plain

NAMES = ("refcoco", "refcoco+", "refcocog", "refclef")


class Refer:
    """name: which of them. split_by: whose split, in the file's name; ``umd`` for RefCOCOg, else ``unc``.

    questions: how many sentences about a picture are asked in one step. images: where the pictures are.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "refcoco",
        split_by: str | None = None,
        split: str = "train",
        images: Path | None = None,
        questions: int = 3,
    ) -> None:
        if name not in NAMES:
            raise ConfigError(f"'{name}' is not one of {', '.join(NAMES)}")
        self._coco = read_coco(path / name / "instances.json")
        self._images = images or image_folder(path, name)
        self._questions = questions
        refs = load_plain(path / name / f"refs({split_by or ('umd' if name == 'refcocog' else 'unc')}).p")
        self._said = _sentences(refs, split, path / name)
        self._ids = sorted(self._said)

    def __len__(self) -> int:
        return len(self._ids)

    def draw(self, rng: random.Random) -> Example:
        image_id = rng.choice(self._ids)
        said = self._said[image_id]
        chosen = rng.sample(said, min(self._questions, len(said)))
        name, rgb = picture_of(self._coco, image_id, self._images)
        return Example(name, rgb, tuple(self._dialogue(text, told, rgb.shape[:2], name, rng) for text, told in chosen))

    def _dialogue(self, text: str, annotation: int, size: tuple[int, int], name: str, rng: random.Random) -> Dialogue:
        if annotation not in self._coco.annotations:
            raise BadExample(f"{name}: there is no annotation {annotation}")
        mask = mask_of(self._coco.annotations[annotation], size)
        return single(templates.ask(text, False, rng), templates.answer(rng), [mask], size)


def image_folder(path: Path, name: str) -> Path:
    """Where the pictures of a data set lie in the reference's layout."""
    return path / "images" / ("saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014")


def picture_of(coco: CocoFile, image_id: int, folder: Path) -> tuple[str, NDArray[np.uint8]]:
    """Name and (H, W, 3) pixels of a picture. Raises BadExample."""
    if image_id not in coco.images:
        raise BadExample(f"there is no picture {image_id} in instances.json")
    image = coco.images[image_id]
    file = folder / str(image.get("file_name", ""))
    rgb = read_picture(file)
    check_picture(rgb, size_of(image, str(file)), str(file))
    return str(file), rgb


def _sentences(refs: Any, split: str, where: Path) -> dict[int, list[tuple[str, int]]]:
    """Picture -> its sentences, each with the annotation it means."""
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    try:
        for ref in refs:
            if ref["split"] == split:
                texts = [str(told["sent"]) for told in ref["sentences"] if str(told["sent"]).strip()]
                found[int(ref["image_id"])] += [(text, int(ref["ann_id"])) for text in texts]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the references in {where} are not in REFER's format: {error!r}") from error
    if not any(found.values()):
        raise ConfigError(f"the references in {where} have no split '{split}'")
    return {image: said for image, said in found.items() if said}
