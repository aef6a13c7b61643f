"""How people put a request into words: the phrasings of every intention, read from ``phrasings/*.yaml``.

A file maps intentions to two lists of texts: ``train``, and ``test``, which training never uses. A text has fields in
braces; a comment beside the intention's name says what fills them::

    USE: # x: a use (drive a nail with)
      train:
        - something to {x}
      test:
        - Do we have something to {x}?

A text may be there twice: it is then chosen twice as often.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from lisa_small.scenes.tables import read_table

FOLDER = Path(__file__).parent / "phrasings"

Direction = Literal["LEFT", "RIGHT", "FRONT", "BEHIND"]
Intention = Literal[
    "NAME",
    "COLOUR_OF",
    "USE",
    "NEED",
    "PROPERTY",
    "WHOLE",
    Direction,
    "LEFTMOST",
    "RIGHTMOST",
    "NEAREST",
    "FARTHEST",
    "LARGEST",
    "SMALLEST",
    "BESIDE",
    "THING_AT",
    "LEFT_ONE",
    "RIGHT_ONE",
    "NEAR_ONE",
    "FAR_ONE",
    "BOTH",
    "PAIR",
    "OTHER_NAME",
    "GOES_WITH",
    "OTHER_ONE",
    "AROUND_IT",
    "INSTEAD",
    "AGAIN",
    "BEFORE",
    "AFTER",
]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
INTENTIONS: tuple[Intention, ...] = get_args(Intention)
WordSplit = Literal["train", "test"]


@dataclass(frozen=True)
class Phrasings:
    """The texts of one intention. train and test have no text in common."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: WordSplit) -> tuple[str, ...]:
        """Returns the texts of a split."""
        return self.train if split == "train" else self.test


def _texts(entry: Any, name: str) -> tuple[str, ...]:
    """Raises ValueError where ``entry`` is not a list of texts."""
    if not isinstance(entry, list) or not entry or not all(isinstance(text, str) for text in entry):
        raise ValueError(f"{name} is {entry!r:.60}; write a list of texts, in quotes where YAML needs them")
    return tuple(entry)


def read_phrasings(folder: Path) -> Mapping[Intention, Phrasings]:
    """Reads all ``*.yaml`` files of a folder.

    Returns:
        The phrasings of each intention, in the order of INTENTIONS.

    Raises:
        ValueError: An intention is unknown, missing or in two files, or its texts are not two lists of texts.
    """
    entries: dict[str, Phrasings] = {}
    for path in sorted(folder.glob("*.yaml")):
        for name, splits in read_table(path).items():
            if name not in INTENTIONS or name in entries:
                problem = "is in two files" if name in entries else f"is unknown; choose from {', '.join(INTENTIONS)}"
                raise ValueError(f"{path}: intention {name} {problem}")
            if not isinstance(splits, dict) or splits.keys() != {"train", "test"}:
                raise ValueError(f"{path}: {name} needs the lists train and test, and nothing else")
            train, test = (_texts(splits[split], f"{path}: {name}, {split},") for split in ("train", "test"))
            entries[name] = Phrasings(train, test)
    if missing := [name for name in INTENTIONS if name not in entries]:
        raise ValueError(f"{folder}: no phrasings for {', '.join(missing)}")
    return MappingProxyType({name: entries[name] for name in INTENTIONS})


@functools.cache
def load_phrasings() -> Mapping[Intention, Phrasings]:
    """The phrasings of this package; the files are read once."""
    return read_phrasings(FOLDER)
