"""ReasonSeg in training: masks, refusals, and the reasons of ``explanatory/train.json``."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from lisa_ros.data.coco import Masks
from lisa_ros.data.entries import text_of, usable
from lisa_ros.data.picture import SkipLog
from lisa_ros.data.reasonseg import labelled_pictures, read_example
from lisa_ros.json_file import read_json
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single
from lisa_ros.training.phrasing import LISA, Phrasing, Target


class ReasonSeg:
    """A folder of ReasonSeg, or of one's own pictures in its format. A label without a mask is an absent target.

    Args:
        path: The folder of a split.
        explanations: The json of explanations (image, query, outputs); None: ``../explanatory/train.json``, if it is
            there.
        explanatory: Share of the explained pictures that are asked for the reason alone; the others are asked for a
            mask, every second time with the reason. -1: no explanations.
        questions: Paraphrases of a picture's text that are asked in one step.
        phrasing: The model's questions and answers.

    Raises:
        ConfigError: The folder has no labelled picture, or the explanations cannot be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        explanations: Path | None = None,
        explanatory: float = 0.1,
        questions: int = 3,
        phrasing: Phrasing = LISA,
    ) -> None:
        self._pictures = labelled_pictures(path)
        beside = path.parent / "explanatory" / "train.json"
        file = explanations or (beside if beside.is_file() else None)
        self._explained = _explanations(file) if file is not None and explanatory >= 0 else {}
        self._explanatory = explanatory
        self._questions, self._phrasing = questions, phrasing
        self._name_skipped = SkipLog()

    def __len__(self) -> int:
        return len(self._pictures)

    def draw(self, rng: random.Random) -> Example:
        example = read_example(rng.choice(self._pictures))
        for remark in example.remarks:
            self._name_skipped(remark)
        mask = (example.truth == 1).astype(np.uint8)
        chosen = rng.sample(example.texts, min(self._questions, len(example.texts)))
        style = self._style(example.file.name, rng)
        dialogues = [self._dialogue(text, example.is_sentence, mask, example.file.name, style, rng) for text in chosen]
        return Example(str(example.file), example.rgb, tuple(dialogues))

    def _style(self, name: str, rng: random.Random) -> str:
        if name not in self._explained:
            return "mask"
        return "reason" if rng.random() < self._explanatory else rng.choice(("mask", "both"))

    def _dialogue(
        self, text: str, is_sentence: bool, mask: Masks, name: str, style: str, rng: random.Random
    ) -> Dialogue:
        size = mask.shape[0], mask.shape[1]
        if style == "reason":
            return single(text, self._explained[name], [], size, self._phrasing.family)
        if style == "both" and mask.any():
            answer = f"{self._phrasing.answer(rng)} {self._explained[name]}"
            return single(templates.ask_why(text, rng), answer, [mask], size, self._phrasing.family)
        return self._phrasing.single(Target(text, mask if mask.any() else None, is_sentence), size, rng)


def _explanations(file: Path) -> dict[str, str]:
    """Picture's name -> the reason. Explanations that cannot be used are counted in the log. Raises ConfigError."""
    return dict(
        usable(
            read_json(file),
            lambda one: (text_of(one["image"]), text_of(one["outputs"]).strip()),
            "explanations (image, query, outputs)",
            file,
        )
    )
