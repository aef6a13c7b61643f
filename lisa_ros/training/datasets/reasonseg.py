"""ReasonSeg's format, for training: pictures with a labelme-like json each, and ``explanatory/train.json``."""

from __future__ import annotations

import random
from pathlib import Path

from lisa_ros.data import coco
from lisa_ros.data.coco import Masks
from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.reasonseg import read_json, read_truth
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, Example, single

_PICTURES = (".jpg", ".jpeg", ".png")


class ReasonSeg:
    """A folder of ReasonSeg, or of one's own pictures in its format. A label without a mask is a thing to refuse.

    path: the folder of a split. explanations: the json of explanations (image, query, outputs); left out, it is looked
    for as ``../explanatory/train.json``. explanatory: share of the explained pictures that are asked about without
    mention of a mask; the others are asked for a mask, every second time with the reason. -1: no explanations.
    questions: how many paraphrases of a picture's text are asked in one step.
    """

    def __init__(
        self, path: Path, *, explanations: Path | None = None, explanatory: float = 0.1, questions: int = 3
    ) -> None:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
        self._pictures = sorted(
            file for file in path.iterdir() if file.suffix.lower() in _PICTURES and file.with_suffix(".json").is_file()
        )
        if not self._pictures:
            raise ConfigError(f"{path} has no picture with a .json beside it")
        beside = path.parent / "explanatory" / "train.json"
        file = explanations or (beside if beside.is_file() else None)
        self._explained = _explanations(file) if file is not None and explanatory >= 0 else {}
        self._explanatory = explanatory
        self._questions = questions

    def __len__(self) -> int:
        return len(self._pictures)

    def draw(self, rng: random.Random) -> Example:
        file = rng.choice(self._pictures)
        rgb = read_picture(file)
        label = file.with_suffix(".json")
        try:
            told = read_json(label)
            mask = (read_truth(told, rgb.shape[:2]) == 1).astype("uint8")
            texts = [str(text) for text in told["text"] if str(text).strip()]
            is_sentence = bool(told["is_sentence"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadExample(f"{label} is not a ReasonSeg label: {error!r}") from error
        if not texts:
            raise BadExample(f"{label} has no text")
        chosen = rng.sample(texts, min(self._questions, len(texts)))
        style = self._style(file.name, rng)
        return Example(
            str(file), rgb, tuple(self._dialogue(text, is_sentence, mask, file.name, style, rng) for text in chosen)
        )

    def _style(self, name: str, rng: random.Random) -> str:
        if name not in self._explained:
            return "mask"
        return "reason" if rng.random() < self._explanatory else rng.choice(("mask", "both"))

    def _dialogue(
        self, text: str, is_sentence: bool, mask: Masks, name: str, style: str, rng: random.Random
    ) -> Dialogue:
        size = mask.shape[0], mask.shape[1]
        if style == "reason":
            return single(text, self._explained[name], [], size)
        if not mask.any():
            return single(templates.ask(text, is_sentence, rng), templates.refuse(text, is_sentence, rng), [], size)
        if style == "both":
            answer = f"{templates.answer(rng)} {self._explained[name]}"
            return single(templates.ask_why(text, rng), answer, [mask], size)
        return single(templates.ask(text, is_sentence, rng), templates.answer(rng), [mask], size)


def _explanations(file: Path) -> dict[str, str]:
    """Picture's name -> the reason."""
    try:
        return {str(told["image"]): str(told["outputs"]).strip() for told in coco.read_json(file)}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a list of explanations (image, query, outputs): {error!r}") from error
