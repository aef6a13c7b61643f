"""RefCOCO and its relatives: sentences that refer to one object of a picture, several or none.

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
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.phrasing import LISA, Phrasing, Target

NAMES = (
    *("refcoco", "refcoco+", "refcocog", "refclef"),
    *("R-refcoco", "R-refcoco+", "R-refcocog", "fprefcoco", "fprefcoco+", "fprefcocog"),
)


class Refer:
    """One data set of the family; where its files are is said in :mod:`lisa_ros.data.refer`.

    Args:
        path: The folder with all data sets.
        name: Which of them.
        split_by: Whose split, in the file's name; None: the usual one.
        split: Such as ``train``.
        images: Where the pictures are; None: in the reference's layout.
        questions: How many sentences about a picture are asked in one step.
        phrasing: The model's questions and answers.

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
        phrasing: Phrasing = LISA,
    ) -> None:
        if name not in self.names:
            raise ConfigError(f"'{name}' is not one of {', '.join(self.names)}")
        self._coco = read_coco(path / name / "instances.json")
        self._images = images or image_folder(path, name)
        self._questions, self._phrasing = questions, phrasing
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
        """About all sentences that can be used; the others are named."""
        targets, reason = [], ""
        for sentence in sentences:
            try:
                mask = mask_of_sentence(sentence, self._coco, size)
                if sentence.annotations:
                    targets.append(Target(sentence.text, mask))
                else:
                    targets.append(
                        Target(sentence.text, None, denial=templates.deny(sentence.text, sentence.instead, rng))
                    )
            except BadExample as error:
                reason = f"{name}: {error}"
                if len(sentences) > 1:
                    self._name_skipped(reason)
        if not targets:
            raise BadExample(reason)
        return self._phrasing.dialogues(targets, size, rng)


class _Named(Refer):
    """A data set of its own kind. Arguments as of :class:`Refer`."""

    def __init__(
        self,
        path: Path,
        *,
        split_by: str | None = None,
        split: str = "train",
        images: Path | None = None,
        questions: int = 3,
        phrasing: Phrasing = LISA,
    ) -> None:
        super().__init__(
            path,
            name=self.names[0],
            split_by=split_by,
            split=split,
            images=images,
            questions=questions,
            phrasing=phrasing,
        )


class GRefCoco(_Named):
    """gRefCOCO: ``ann_id`` [-1] is no target, several are their union."""

    names = ("grefcoco",)


class RefZom(_Named):
    """Ref-ZOM: an empty ``ann_id`` is no target."""

    names = ("refzom",)
