"""What is evaluated: pictures with conversations and the true masks, from our scenes or from ReasonSeg's folders."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.reasonseg import ReasonSegExample, read_folder
from lisa_ros.prompt import MASK_REQUEST
from lisa_ros.scenes.pictures import read_pair

log = logging.getLogger(__name__)

SHORT_WORDS = 6
"""A command of at most this many words is short."""


@dataclass(frozen=True)
class Said:
    """One turn: the command, the true answer, whether a reason is asked for, and the question where it is verbatim."""

    command: str
    answer: str
    explain: bool = False
    verbatim: str | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """A conversation whose last turn is scored.

    truth: (H, W) uint8 with 0, 1 and 255 (ignored), camera pixels. absent: nothing is to be found. held_out: the
    phrasing was never trained; new_model: a target is an object instance that was never trained. names: the targets'
    classes. objects: masks of all things in the scene, for the baselines; empty where they are not known.
    """

    kind: str
    turns: list[Said]
    truth: NDArray[np.uint8]
    absent: bool
    held_out: bool = False
    new_model: bool = False
    names: tuple[str, ...] = ()
    objects: list[NDArray[np.bool_]] = field(default_factory=list)

    @property
    def length(self) -> str:
        """``short`` or ``long``."""
        return "short" if len(self.turns[-1].command.split()) <= SHORT_WORDS else "long"

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``: under 1 %, under 4 % and from 4 % of the picture."""
        share = float(np.mean(self.truth == 1))
        return "small" if share < 0.01 else "medium" if share < 0.04 else "large"


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, rgb (H, W, 3) uint8, and the examples about it."""

    name: str
    rgb: NDArray[np.uint8]
    examples: list[Example]


def read_pictures(folder: Path) -> Iterator[Picture]:
    """Our scenes where there is a scenes.jsonl, ReasonSeg's format otherwise. Broken ones are named and skipped.

    Raises ConfigError where the folder has neither.
    """
    if (folder / "scenes.jsonl").is_file():
        return _read_scenes(folder)
    if not folder.is_dir() or not any(folder.glob("*.json")):
        raise ConfigError(
            f"{folder} has neither scenes.jsonl (lisa scenes) nor pictures with .json beside them (ReasonSeg)"
        )
    return map(_from_reasonseg, read_folder(folder))


def _from_reasonseg(example: ReasonSegExample) -> Picture:
    text = example.texts[0]
    # The benchmark's own two sentences, with the space that its code puts in front.
    question = f" {text} {MASK_REQUEST}" if example.is_sentence else f" What is {text} in this image? {MASK_REQUEST}"
    said = Said(text, "[SEG].", verbatim=question)
    kind = "sentence" if example.is_sentence else "phrase"
    absent = not bool((example.truth == 1).any())
    return Picture(example.name, example.rgb, [Example(kind, [said], example.truth, absent)])


def _read_scenes(folder: Path) -> Iterator[Picture]:
    for number, line in enumerate((folder / "scenes.jsonl").read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            rgb, ids = read_pair(folder, record)
            yield Picture(record["id"], rgb, list(_examples(record, ids)))
        except (ConfigError, ValueError, KeyError, TypeError) as error:
            log.warning("%s, line %d is skipped: %s", folder / "scenes.jsonl", number, error)


def _examples(record: dict, ids: NDArray[np.uint8]) -> Iterator[Example]:
    things = {o["id"]: o for o in record["objects"]}
    masks = {i: ids == i for i in things}
    for conversation in record["conversations"]:
        turns = [Said(t["command"], t["answer"], bool(t.get("explain"))) for t in conversation["turns"]]
        targets = conversation["turns"][-1]["targets"]
        yield Example(
            # A need that training never heard in any words asks for more than a new phrasing does.
            kind=conversation["kind"] + ("_unseen" if conversation.get("held_out_content") else ""),
            turns=turns,
            truth=np.isin(ids, targets).astype(np.uint8),
            absent=not targets,
            held_out=bool(conversation.get("held_out")),
            new_model=any(things[i].get("held_out") for i in targets),
            names=tuple(sorted({things[i]["class"] for i in targets})),
            objects=[mask for mask in masks.values() if mask.any()],
        )
