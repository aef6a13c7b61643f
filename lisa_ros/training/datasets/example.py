"""A picture and what is said about it, checked: every mask token has its mask."""

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
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.tokenizer import IMAGE

_RESERVED = (IMAGE, "<im_start>", "<im_end>", "<s>", "</s>", "<unk>")


@dataclass(frozen=True, eq=False)
class Dialogue:
    """One conversation about a picture.

    Args:
        turns: Each with its answer.
        masks: (S, H, W) uint8 of 0 and 1, in the order of the answers' mask tokens.
        family: Whose tokens the texts have.

    Raises:
        BadExample: The number of mask tokens is not S, a coarse token is missing, or a text holds a token that is not
            its to use.
    """

    turns: tuple[Turn, ...]
    masks: Masks
    family: Family = FAMILIES["lisa"]

    def __post_init__(self) -> None:
        answers = [turn.answer or "" for turn in self.turns]
        for token in (self.family.mask_token, self.family.coarse_token):
            count = sum(text.count(token) for text in answers) if token else len(self.masks)
            if count != len(self.masks):
                raise BadExample(f"{count} {token} for {len(self.masks)} masks in {' / '.join(answers)!r}")
        self._check([turn.question for turn in self.turns], (*_RESERVED, *self.family.answer_tokens))
        self._check(answers, (*_RESERVED, *self.family.list_tokens))
        if not self.turns or any(not turn.question.strip() or not (turn.answer or "").strip() for turn in self.turns):
            raise BadExample("a turn without a question or without an answer")

    @staticmethod
    def _check(texts: Sequence[str], reserved: Sequence[str]) -> None:
        for text in texts:
            if found := [token for token in reserved if token in text]:
                raise BadExample(f"the text {text[:80]!r} holds {found[0]}, which only the template may")


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


def single(
    question: str, answer: str, masks: Sequence[Masks], size: tuple[int, int], family: Family = FAMILIES["lisa"]
) -> Dialogue:
    """A conversation of one turn. masks: each (H, W), one for every mask token of ``answer``; size: (H, W)."""
    stacked = np.stack(list(masks)) if len(masks) else np.zeros((0, *size), np.uint8)
    return Dialogue((Turn(question, answer),), stacked.astype(np.uint8, copy=False), family)
