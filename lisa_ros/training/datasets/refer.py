"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: sentences that refer to one object of a picture.

FOLDER/refcoco/refs(unc).p and instances.json; the pictures in FOLDER/images/mscoco/images/train2014, those of RefCLEF
in FOLDER/images/saiapr_tc-12.
"""

from __future__ import annotations

import random
from pathlib import Path

from lisa_ros.data.coco import mask_of, read_coco
from lisa_ros.data.picture import BadExample
from lisa_ros.data.refer_files import image_folder, picture_of, read_sentences
from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single

NAMES = ("refcoco", "refcoco+", "refcocog", "refclef")


class Refer:
    """name: which of them. split_by: whose split, in the file's name; ``umd`` for RefCOCOg, else ``unc``.

    questions: how many sentences about a picture are asked in one step. images: where the pictures are.
    """

    names: tuple[str, ...] = NAMES

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
        if name not in self.names:
            raise ConfigError(f"'{name}' is not one of {', '.join(self.names)}")
        self._coco = read_coco(path / name / "instances.json")
        self._images = images or image_folder(path, name)
        self._questions = questions
        self._said = read_sentences(path / name, split, split_by)
        self._ids = sorted(self._said)

    def __len__(self) -> int:
        return len(self._ids)

    def draw(self, rng: random.Random) -> Example:
        image_id = rng.choice(self._ids)
        said = self._said[image_id]
        chosen = rng.sample(said, min(self._questions, len(said)))
        name, rgb = picture_of(self._coco, image_id, self._images)
        return Example(name, rgb, tuple(self._dialogue(text, ids, rgb.shape[:2], name, rng) for text, ids in chosen))

    def _dialogue(self, text: str, ids: list[int], size: tuple[int, int], name: str, rng: random.Random) -> Dialogue:
        if len(ids) != 1 or ids[0] not in self._coco.annotations:
            raise BadExample(f"{name}: there is no annotation {', '.join(map(str, ids))}")
        mask = mask_of(self._coco.annotations[ids[0]], size)
        return single(templates.ask(text, False, rng), templates.answer(rng), [mask], size)
