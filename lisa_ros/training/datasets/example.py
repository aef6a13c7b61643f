"""A picture and what is said about it, checked: every ``[SEG]`` has its mask."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.coco import Masks
from lisa_ros.data.picture import BadExample
from lisa_ros.engine.api import Turn
from lisa_ros.lisa.tokenizer import IMAGE
from lisa_ros.training.templates import SEG

_RESERVED = (SEG, IMAGE, "<im_start>", "<im_end>", "<s>", "</s>", "<unk>")


@dataclass(frozen=True, eq=False)
class Dialogue:
    """One conversation about a picture. masks: (S, H, W) uint8 of 0 and 1, in the order of the answers' ``[SEG]``.

    Raises BadExample where the number of ``[SEG]`` is not S, or where a text holds a token that is not its to use.
    """

    turns: tuple[Turn, ...]
    masks: Masks

    def __post_init__(self) -> None:
        answers = [turn.answer or "" for turn in self.turns]
        count = sum(text.count(SEG) for text in answers)
        if count != len(self.masks):
            raise BadExample(f"{count} {SEG} for {len(self.masks)} masks in {' / '.join(answers)!r}")
        for text in [*(turn.question for turn in self.turns), *(text.replace(SEG, "") for text in answers)]:
            if reserved := [token for token in _RESERVED if token in text]:
                raise BadExample(f"the text {text[:80]!r} holds {reserved[0]}, which only the template may")
        if not self.turns or any(not turn.question.strip() or not (turn.answer or "").strip() for turn in self.turns):
            raise BadExample("a turn without a question or without an answer")


@dataclass(frozen=True, eq=False)
class Example:
    """A picture with its conversations. name: the file, for messages. rgb: (H, W, 3) uint8."""

    name: str
    rgb: NDArray[np.uint8]
    dialogues: tuple[Dialogue, ...]

    def __post_init__(self) -> None:
        size = self.rgb.shape[:2]
        if not self.dialogues:
            raise BadExample(f"{self.name}: nothing is said about it")
        for dialogue in self.dialogues:
            if dialogue.masks.shape[1:] != size:
                of_mask = " x ".join(map(str, dialogue.masks.shape[1:]))
                raise BadExample(f"{self.name} has {size[0]} x {size[1]} pixels, its mask {of_mask}")


class Dataset(Protocol):
    """One data set on disk."""

    def __len__(self) -> int:
        """How many pictures there are to draw from."""
        ...

    def draw(self, rng: random.Random) -> Example:
        """A random picture with conversations. Raises BadExample naming the file that cannot be used."""
        ...


def single(question: str, answer: str, masks: Sequence[Masks], size: tuple[int, int]) -> Dialogue:
    """A conversation of one turn. masks: each (H, W), one for every ``[SEG]`` of ``answer``; size: (H, W)."""
    stacked = np.stack(list(masks)) if len(masks) else np.zeros((0, *size), np.uint8)
    return Dialogue((Turn(question, answer),), stacked.astype(np.uint8, copy=False))
