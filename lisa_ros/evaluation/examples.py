"""What is evaluated: pictures with conversations and true masks, of our scenes, ReasonSeg or the RefCOCO family."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.coco import CocoFile, mask_of, read_coco
from lisa_ros.data.picture import BadExample
from lisa_ros.data.reasonseg import ReasonSegExample, read_folder
from lisa_ros.data.refer import (
    Sentence,
    image_folder,
    is_generalised,
    picture_of,
    read_sentences,
    reference_files,
)
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.prompt import MASK_REQUEST

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


@dataclass(frozen=True)
class Question:
    """A conversation whose last turn is scored.

    absent: nothing is to be found. held_out: the phrasing was never trained; new_model: a target is an object instance
    that was never trained. names: the targets' classes.
    """

    kind: str
    turns: tuple[Said, ...]
    absent: bool
    held_out: bool = False
    new_model: bool = False
    names: tuple[str, ...] = ()

    @property
    def length(self) -> str:
        """``short`` or ``long``."""
        return "short" if len(self.turns[-1].command.split()) <= SHORT_WORDS else "long"


@dataclass(frozen=True, eq=False)
class Example:
    """A question and what is true.

    truth: (H, W) uint8 with 0, 1 and 255 (ignored), camera pixels. objects: masks of all things in the scene, for the
    baselines; empty where they are not known.
    """

    question: Question
    truth: NDArray[np.uint8]
    objects: list[NDArray[np.bool_]] = field(default_factory=list)

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


def read_pictures(
    folder: Path, *, split: str | None = None, split_by: str | None = None, images: Path | None = None
) -> Iterator[Picture]:
    """RefCOCO's family where there are references and instances.json, our scenes where there is a scenes.jsonl,
    ReasonSeg's format otherwise. Broken ones are named and skipped.

    split: ``val`` where left out. split_by: whose split; ``umd`` for RefCOCOg, else ``unc``. images: where the pictures
    are; None: as the reference has them. Raises ConfigError where the folder has none of the three, where these options
    are given for another folder than RefCOCO's family, and where there is no such split, references or pictures.
    """
    if reference_files(folder):
        return _read_refer(folder, split or "val", split_by, images)
    options = {"--split": split, "--split-by": split_by, "--images": images}
    if given := [name for name, value in options.items() if value is not None]:
        raise ConfigError(
            f"{given[0]} '{options[given[0]]}' is for RefCOCO's family; {folder} has no refs(*).p or grefs(*).json "
            "with instances.json"
        )
    if (folder / "scenes.jsonl").is_file():
        return _read_scenes(folder)
    if not folder.is_dir() or not any(folder.glob("*.json")):
        raise ConfigError(
            f"{folder} has neither scenes.jsonl (lisa scenes) nor pictures with .json beside them (ReasonSeg) "
            "nor refs(*).p or grefs(*).json with instances.json (RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO)"
        )
    return map(_from_reasonseg, read_folder(folder))


def _from_reasonseg(example: ReasonSegExample) -> Picture:
    said = _asked(example.texts[0], example.is_sentence)
    kind = example.kind or ("sentence" if example.is_sentence else "phrase")
    absent = not bool((example.truth == 1).any())
    return Picture(example.name, example.rgb, [Example(Question(kind, (said,), absent), example.truth)])


def _asked(text: str, is_sentence: bool) -> Said:
    # The benchmark's own two sentences, with the space that its code puts in front.
    question = f" {text} {MASK_REQUEST}" if is_sentence else f" What is {text} in this image? {MASK_REQUEST}"
    return Said(text, "[SEG].", verbatim=question)


def _read_refer(folder: Path, split: str, split_by: str | None, images: Path | None) -> Iterator[Picture]:
    """What is wrong with the whole data set is raised here; pictures are read as they are asked for."""
    sentences = read_sentences(folder, split, split_by)
    coco = read_coco(folder / "instances.json")
    # So that `--data .` has a name and a parent.
    images = images or image_folder(folder.resolve().parent, folder.resolve().name)
    if not images.is_dir():
        raise ConfigError(f"{images} is no folder; --images says where the pictures of {folder} are")
    kind = None if is_generalised(folder) else folder.resolve().name
    return _refer_pictures(coco, sentences, images, kind)


def _refer_pictures(
    coco: CocoFile, sentences: dict[int, list[Sentence]], images: Path, kind: str | None
) -> Iterator[Picture]:
    for image_id, said in sentences.items():
        try:
            name, rgb = picture_of(coco, image_id, images)
        except BadExample as error:
            log.warning("skipped: %s", error)
            continue
        masks = _masks_of(coco.of_image.get(image_id, []), rgb.shape[:2], name)
        yield Picture(name, rgb, list(_from_refer(said, masks, rgb.shape[:2], name, kind)))


def _masks_of(annotations: list[dict], size: tuple[int, int], name: str) -> dict[int, NDArray[np.uint8]]:
    """Annotation's id -> (H, W) of 0 and 1, without those that cannot be used."""
    masks = {}
    for told in annotations:
        try:
            masks[int(told["id"])] = mask_of(told, size)
        except BadExample as error:
            log.warning("skipped: %s: %s", name, error)
    return masks


def _from_refer(
    said: list[Sentence], masks: dict[int, NDArray[np.uint8]], size: tuple[int, int], name: str, kind: str | None
) -> Iterator[Example]:
    """One example for each sentence. kind: None where it is told by how many things a sentence means."""
    # A split has thousands of masks: sentences that mean the same share one.
    truths: dict[tuple[int, ...], NDArray[np.uint8]] = {(): np.zeros(size, np.uint8)}
    objects = [mask > 0 for mask in masks.values() if mask.any()]
    for text, ids in said:
        if unknown := [one for one in ids if one not in masks]:
            log.warning("skipped: %s: '%s' means annotation %d, which is not there", name, text, unknown[0])
            continue
        key = tuple(ids)
        if key not in truths:
            truths[key] = np.maximum.reduce([masks[one] for one in ids])
        counted = "absent" if not ids else "single" if len(ids) == 1 else "several"
        # The benchmark's code strips and lowers REFER's sentences.
        asked = _asked(text.strip().lower(), is_sentence=False)
        yield Example(Question(kind or counted, (asked,), absent=not ids), truths[key], objects)


def _read_scenes(folder: Path) -> Iterator[Picture]:
    for record in read_records(folder):
        try:
            rgb, ids = read_pair(folder, record)
            examples = list(_examples(record, ids))
        except (BadExample, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("skipped: scene %s of %s: %s", record["id"], folder, error)
            continue
        yield Picture(record["id"], rgb, examples)


def _examples(record: SceneRecord, ids: NDArray[np.uint8]) -> Iterator[Example]:
    things = {o["id"]: o for o in record["objects"]}
    masks = {i: ids == i for i in things}
    for conversation in record["conversations"]:
        turns = tuple(Said(t["command"], t["answer"], bool(t.get("explain"))) for t in conversation["turns"])
        targets = conversation["turns"][-1]["targets"]
        question = Question(
            # A need that training never heard in any words asks for more than a new phrasing does.
            kind=conversation["kind"] + ("_unseen" if conversation.get("held_out_content") else ""),
            turns=turns,
            absent=not targets,
            held_out=bool(conversation.get("held_out")),
            new_model=any(things[i].get("held_out") for i in targets),
            names=tuple(sorted({things[i]["class"] for i in targets})),
        )
        objects = [mask for mask in masks.values() if mask.any()]
        yield Example(question, np.isin(ids, targets).astype(np.uint8), objects)
