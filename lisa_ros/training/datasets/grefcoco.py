"""gRefCOCO: sentences that refer to one object, to several, or to none.

FOLDER/grefcoco/grefs(unc).json and instances.json; pictures as for RefCOCO. A sentence about nothing is answered with a
refusal and no ``[SEG]``.
"""

from __future__ import annotations

import random
from pathlib import Path

from lisa_ros.annotations.coco import read_coco, union_of
from lisa_ros.annotations.picture import BadExample
from lisa_ros.annotations.refer import image_folder, picture_of, read_sentences
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single


class GRefCoco:
    """questions: how many sentences about a picture are asked in one step. images: where the pictures are."""

    def __init__(
        self,
        path: Path,
        *,
        split_by: str = "unc",
        split: str = "train",
        images: Path | None = None,
        questions: int = 3,
    ) -> None:
        folder = path / "grefcoco"
        self._coco = read_coco(folder / "instances.json")
        self._images = images or image_folder(path, "grefcoco")
        self._questions = questions
        self._said = read_sentences(folder, split, split_by)
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
        question = templates.ask(text, False, rng)
        if not ids:
            return single(question, templates.refuse(text, True, rng), [], size)
        if unknown := [one for one in ids if one not in self._coco.annotations]:
            raise BadExample(f"{name}: there is no annotation {unknown[0]}")
        mask = union_of([self._coco.annotations[one] for one in ids], size)
        return single(question, templates.answer(rng), [mask], size)
