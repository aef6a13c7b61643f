"""gRefCOCO: sentences that refer to one object, to several, or to none.

FOLDER/grefcoco/grefs(unc).json and instances.json; pictures as for RefCOCO. A sentence about nothing is answered with a
refusal and no ``[SEG]``.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.coco import read_coco, read_json, union_of
from lisa_ros.training.datasets.example import BadExample, Dialogue, Example, single
from lisa_ros.training.datasets.refer import image_folder, picture_of

NONE = -1
"""The annotation of a sentence that refers to nothing."""


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
        self._said: dict[int, list[tuple[str, list[int]]]] = defaultdict(list)
        file = folder / f"grefs({split_by}).json"
        try:
            for ref in read_json(file):
                if ref["split"] == split:
                    meant = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
                    ids = [int(one) for one in meant if int(one) != NONE]
                    texts = [str(told["sent"]) for told in ref["sentences"] if str(told["sent"]).strip()]
                    self._said[int(ref["image_id"])] += [(text, ids) for text in texts]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{file} is not in gRefCOCO's format: {error!r}") from error
        self._ids = sorted(image for image, said in self._said.items() if said)
        if not self._ids:
            raise ConfigError(f"{file} has no split '{split}'")

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
