"""gRefCOCO: sentences that refer to one object, to several, or to none.

FOLDER/grefcoco/grefs(unc).json and instances.json; pictures as for RefCOCO. A sentence about nothing is answered with a
refusal and no ``[SEG]``.
"""

from __future__ import annotations

import random
from pathlib import Path

from lisa_ros.data.coco import union_of
from lisa_ros.data.picture import BadExample
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, single
from lisa_ros.training.datasets.refer import Refer


class GRefCoco(Refer):
    """questions: how many sentences about a picture are asked in one step. images: where the pictures are."""

    names = ("grefcoco",)

    def __init__(
        self,
        path: Path,
        *,
        split_by: str = "unc",
        split: str = "train",
        images: Path | None = None,
        questions: int = 3,
    ) -> None:
        super().__init__(path, name="grefcoco", split_by=split_by, split=split, images=images, questions=questions)

    def _dialogue(self, text: str, ids: list[int], size: tuple[int, int], name: str, rng: random.Random) -> Dialogue:
        question = templates.ask(text, False, rng)
        if not ids:
            return single(question, templates.refuse(text, True, rng), [], size)
        if unknown := [one for one in ids if one not in self._coco.annotations]:
            raise BadExample(f"{name}: there is no annotation {unknown[0]}")
        mask = union_of([self._coco.annotations[one] for one in ids], size)
        return single(question, templates.answer(rng), [mask], size)
