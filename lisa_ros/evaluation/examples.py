"""What is evaluated: pictures with questions and true masks, from rendered scenes, ReasonSeg or RefCOCO's family."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.coco import CocoFile, mask_of, read_coco, with_pixels
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

log = logging.getLogger(__name__)

SHORT_WORDS = 6
"""A command of at most this many words is short."""

# The benchmark's own two question forms, with the space that its code puts in front.
SENTENCE_FORM = " {} Please output segmentation mask."
PHRASE_FORM = " What is {} in this image? Please output segmentation mask."


@dataclass(frozen=True)
class ExampleTurn:
    """One turn of a question.

    Args:
        command: As a person says it.
        answer: The true answer.
        explain: A reason is asked for.
        verbatim: The question character by character, where the benchmark prescribes it.
    """

    command: str
    answer: str
    explain: bool = False
    verbatim: str | None = None


@dataclass(frozen=True)
class Question:
    """A conversation whose last turn is scored.

    Args:
        kind: Of command, for the report's groups.
        turns: One or more.
        absent: Nothing is to be found.
        held_out: The phrasing was never trained; None: the data set does not say.
        new_model: A target is an object model that was never trained; None: the data set does not say.
        names: The targets' classes.
    """

    kind: str
    turns: tuple[ExampleTurn, ...]
    absent: bool
    held_out: bool | None = None
    new_model: bool | None = None
    names: tuple[str, ...] = ()

    @property
    def length(self) -> str:
        """``short`` or ``long``."""
        return "short" if len(self.turns[-1].command.split()) <= SHORT_WORDS else "long"


@dataclass(frozen=True, eq=False)
class Example:
    """A question and its true mask.

    Args:
        question: What is asked.
        truth: (H, W) uint8 with 0, 1 and 255 (ignored), pixels of the picture.
        objects: Masks of all things in the picture, for the baselines; empty where they are not known.
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
    """Read a data set, picture by picture. A damaged example is logged and skipped.

    The format is RefCOCO's where there are references and instances.json, that of ``lisa scenes`` where there is a
    scenes.jsonl, and ReasonSeg's otherwise.

    Args:
        folder: Of the data set.
        split: Of RefCOCO's family; None: ``val``.
        split_by: Of RefCOCO's family: whose split; None: ``umd`` for RefCOCOg, else ``unc``.
        images: Of RefCOCO's family: folder of the pictures; None: where the reference has them.

    Raises:
        ConfigError: The folder has none of the formats, the options are for another format, or there is no such split,
            no references or no pictures.
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
    turn = _benchmark_turn(example.texts[0], example.is_sentence)
    kind = example.kind or ("sentence" if example.is_sentence else "phrase")
    absent = not bool((example.truth == 1).any())
    return Picture(example.name, example.rgb, [Example(Question(kind, (turn,), absent), example.truth)])


def _benchmark_turn(text: str, is_sentence: bool) -> ExampleTurn:
    form = SENTENCE_FORM if is_sentence else PHRASE_FORM
    return ExampleTurn(text, "[SEG].", verbatim=form.format(text))


def _read_refer(folder: Path, split: str, split_by: str | None, images: Path | None) -> Iterator[Picture]:
    """Faults of the whole data set are raised here; pictures are read one by one."""
    sentences = read_sentences(folder, split, split_by)
    coco = read_coco(folder / "instances.json")
    # So that `--data .` has a name and a parent.
    images = images or image_folder(folder.resolve().parent, folder.resolve().name)
    if not images.is_dir():
        raise ConfigError(f"{images} is not a folder; --images says where the pictures of {folder} are")
    kind = None if is_generalised(folder) else folder.resolve().name
    return _refer_pictures(coco, sentences, images, kind)


def _refer_pictures(
    coco: CocoFile, sentences: dict[int, list[Sentence]], images: Path, kind: str | None
) -> Iterator[Picture]:
    for image_id, asked in sentences.items():
        try:
            name, rgb = picture_of(coco, image_id, images)
        except BadExample as error:
            log.warning("skipped: %s", error)
            continue
        masks = _masks_of(coco.of_image.get(image_id, []), rgb.shape[:2], name)
        yield Picture(name, rgb, list(_from_refer(asked, masks, rgb.shape[:2], name, kind)))


def _masks_of(annotations: list[dict], size: tuple[int, int], name: str) -> dict[int, NDArray[np.uint8]]:
    """Id of each usable annotation -> (H, W) of 0 and 1."""
    masks = {}
    for annotation in annotations:
        try:
            masks[int(annotation["id"])] = mask_of(annotation, size)
        except BadExample as error:
            log.warning("skipped: %s: %s", name, error)
    return masks


def _from_refer(
    sentences: list[Sentence], masks: dict[int, NDArray[np.uint8]], size: tuple[int, int], name: str, kind: str | None
) -> Iterator[Example]:
    """One example for each sentence. ``kind``: None where the number of things that a sentence means decides it."""
    # A split has thousands of masks: sentences that mean the same share one.
    truths: dict[tuple[int, ...], NDArray[np.uint8]] = {(): np.zeros(size, np.uint8)}
    objects = [mask > 0 for mask in masks.values() if mask.any()]
    for text, ids, _ in sentences:
        if unknown := [one for one in ids if one not in masks]:
            log.warning("skipped: %s: '%s' means annotation %d, which cannot be used", name, text, unknown[0])
            continue
        key = tuple(ids)
        if key not in truths:
            truths[key] = np.maximum.reduce([masks[one] for one in ids])
        try:
            truth = with_pixels(truths[key], [{"id": one} for one in ids]) if ids else truths[key]
        except BadExample as error:
            log.warning("skipped: %s: '%s': %s", name, text, error)
            continue
        counted = "absent" if not ids else "single" if len(ids) == 1 else "several"
        # The benchmark's code strips and lowers REFER's sentences.
        turn = _benchmark_turn(text.strip().lower(), is_sentence=False)
        yield Example(Question(kind or counted, (turn,), absent=not ids), truth, objects)


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
        turns = tuple(ExampleTurn(t["command"], t["answer"], bool(t.get("explain"))) for t in conversation["turns"])
        targets = conversation["turns"][-1]["targets"]
        question = Question(
            # A need that was never trained in any words is harder than a new phrasing.
            kind=conversation["kind"] + ("_unseen" if conversation.get("held_out_content") else ""),
            turns=turns,
            absent=not targets,
            held_out=bool(conversation.get("held_out")),
            new_model=any(things[i].get("held_out") for i in targets),
            names=tuple(sorted({things[i]["class"] for i in targets})),
        )
        objects = [mask for mask in masks.values() if mask.any()]
        yield Example(question, np.isin(ids, targets).astype(np.uint8), objects)
