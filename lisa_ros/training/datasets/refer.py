"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO: sentences that refer to one object of a picture, several or none.

A sentence about nothing (gRefCOCO) is answered with a refusal and no ``[SEG]``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from lisa_ros.data.coco import read_coco
from lisa_ros.data.picture import BadExample, SkipLog
from lisa_ros.data.refer import Sentence, image_folder, mask_of_sentence, picture_of, read_sentences
from lisa_ros.errors import ConfigError
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single

NAMES = ("refcoco", "refcoco+", "refcocog", "refclef")


class Refer:
    """One data set of the family; where its files are is said in :mod:`lisa_ros.data.refer`.

    Args:
        path: The folder with all data sets.
        name: Which of them.
        split_by: Whose split, in the file's name; ``umd`` for RefCOCOg, else ``unc``.
        split: Such as ``train``.
        images: Where the pictures are; None: in the reference's layout.
        questions: How many sentences about a picture are asked in one step.

    Raises:
        ConfigError: A file is missing or broken, or there is no such data set or split.
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
        self._sentences = read_sentences(path / name, split, split_by)
        self._ids = sorted(self._sentences)
        self._name_skipped = SkipLog()

    def __len__(self) -> int:
        return len(self._ids)

    def draw(self, rng: random.Random) -> Example:
        image_id = rng.choice(self._ids)
        sentences = self._sentences[image_id]
        chosen = rng.sample(sentences, min(self._questions, len(sentences)))
        name, rgb = picture_of(self._coco, image_id, self._images)
        return Example(name, rgb, self._dialogues(chosen, (rgb.shape[0], rgb.shape[1]), name, rng))

    def _dialogues(
        self, sentences: Sequence[Sentence], size: tuple[int, int], name: str, rng: random.Random
    ) -> tuple[Dialogue, ...]:
        """One for each sentence that can be used; the others are named."""
        dialogues, reason = [], ""
        for sentence in sentences:
            try:
                mask = mask_of_sentence(sentence, self._coco, size)
                question = templates.ask(sentence.text, False, rng)
                if sentence.annotations:
                    dialogues.append(single(question, templates.answer(rng), [mask], size))
                else:
                    dialogues.append(single(question, templates.refuse(sentence.text, True, rng), [], size))
            except BadExample as error:
                reason = f"{name}: {error}"
                if len(sentences) > 1:
                    self._name_skipped(reason)
        if not dialogues:
            raise BadExample(reason)
        return tuple(dialogues)


class GRefCoco(Refer):
    """gRefCOCO. Arguments as of :class:`Refer`."""

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
