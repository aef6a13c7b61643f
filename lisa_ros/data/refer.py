"""REFER's folders: sentences and the annotations of the picture that each means.

FOLDER/refcoco/refs(unc).p and instances.json, FOLDER/grefcoco/grefs(unc).json and instances.json; the pictures in
FOLDER/images/mscoco/images/train2014, those of RefCLEF in FOLDER/images/saiapr_tc-12. R-RefCOCO (``R-refcoco``) and
FP-RefCOCO (``fprefcoco``) have sentences about things that are not there, in the same form. Ref-ZOM is
FOLDER/refzom/Ref_ZOM.p with FOLDER/images/mscoco/images/trainval2014.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.coco import CocoFile, Masks, size_of, union_of
from lisa_ros.data.entries import usable
from lisa_ros.data.picture import BadExample, check_picture, read_picture
from lisa_ros.data.plain_pickle import load_plain
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json

log = logging.getLogger(__name__)

_REF_ZOM = "Ref_ZOM.p"
NONE = -1
"""The annotation of a sentence that refers to nothing (gRefCOCO)."""


class Sentence(NamedTuple):
    """A referring expression.

    Args:
        text: The words.
        annotations: Ids of the annotations that it refers to: one, several, or none.
        instead: What is there in its place, in words, where it refers to nothing (FP-RefCOCO); empty: not stated.
    """

    text: str
    annotations: tuple[int, ...]
    instead: str = ""


def reference_files(folder: Path) -> dict[str, Path]:
    """Whose split -> its file, ``grefs(unc).json`` or, without any, ``refs(unc).p``; empty in a folder not REFER's."""
    if not (folder / "instances.json").is_file():
        return {}
    if (folder / _REF_ZOM).is_file():
        return {"zom": folder / _REF_ZOM}
    files = sorted(folder.glob("grefs(*).json" if is_generalised(folder) else "refs(*).p"))
    return {file.stem.partition("(")[2][:-1]: file for file in files}


def is_generalised(folder: Path) -> bool:
    """Whether the sentences may mean several things or none, as gRefCOCO's and Ref-ZOM's do."""
    return any(folder.glob("grefs(*).json")) or (folder / _REF_ZOM).is_file()


def image_folder(path: Path, name: str) -> Path:
    """Where the pictures of a data set lie in the reference's layout."""
    places = {"refclef": "saiapr_tc-12", "refzom": "mscoco/images/trainval2014"}
    return path / "images" / places.get(name, "mscoco/images/train2014")


def picture_of(coco: CocoFile, image_id: int, folder: Path) -> tuple[str, NDArray[np.uint8]]:
    """Name and (H, W, 3) pixels of a picture. Raises BadExample."""
    if image_id not in coco.images:
        raise BadExample(f"there is no picture {image_id} in instances.json")
    image = coco.images[image_id]
    file = folder / str(image.get("file_name", ""))
    rgb = read_picture(file)
    check_picture(rgb, size_of(image, str(file)), str(file))
    return str(file), rgb


def mask_of_sentence(sentence: Sentence, coco: CocoFile, size: tuple[int, int]) -> Masks:
    """(H, W) uint8: all that a sentence refers to; zeros where that is nothing.

    Raises:
        BadExample: An annotation is missing or has no usable mask.
    """
    if not sentence.annotations:
        return np.zeros(size, np.uint8)
    if unknown := [one for one in sentence.annotations if one not in coco.annotations]:
        raise BadExample(f"'{sentence.text}' refers to annotation {unknown[0]}, which is not in instances.json")
    return union_of([coco.annotations[one] for one in sentence.annotations], size)


def read_sentences(folder: Path, split: str, split_by: str | None = None) -> dict[int, list[Sentence]]:
    """Read a split's sentences.

    Args:
        folder: Of one data set.
        split: Such as ``train``, ``val`` or ``testA``.
        split_by: Whose split; None: the usual one, such as ``umd`` for RefCOCOg and ``unc`` for most others.

    Returns:
        Picture's id, ascending -> its sentences in the file's order.

    Raises:
        ConfigError: A file is missing or broken; there is no such split, or nobody's split of that name.
    """
    split_by = split_by or _usual_split(folder)
    files = reference_files(folder)
    if split_by not in files:
        known_splits = ", ".join(files) or "none, or no instances.json"
        raise ConfigError(f"{folder} has no references split by '{split_by}'; there is {known_splits}")
    file = files[split_by]
    refs = read_json(file) if file.suffix == ".json" else load_plain(file)
    of_picture: dict[int, list[Sentence]] = {}
    splits = set()
    blank = 0
    for name, image_id, sentences, without in usable(refs, _read_reference, "references", file):
        splits.add(name)
        blank += without if name == split else 0
        if name == split:
            of_picture.setdefault(image_id, []).extend(sentences)
    if blank:
        log.warning("skipped: %d sentences of the split '%s' of %s that are empty or no text", blank, split, file)
    if not any(of_picture.values()):
        raise ConfigError(f"{file} has no split '{split}'; there is {', '.join(sorted(splits)) or 'none'}")
    return {image: of_picture[image] for image in sorted(of_picture) if of_picture[image]}


def _usual_split(folder: Path) -> str:
    """Whose split a data set is used with: R-RefCOCO's and FP-RefCOCO's are those of SESAME's authors."""
    name = folder.resolve().name
    if name.startswith("fprefcoco"):
        return "berkeley_exclude_unified"
    whose = {"refcocog": "umd", "refzom": "zom"}.get(name.removeprefix("R-"), "unc")
    return f"{whose}_exclude_unified" if name.startswith("R-") else whose


def _read_reference(ref: Any) -> tuple[str, int, list[Sentence], int]:
    """Split, picture's id, sentences, and how many more say nothing."""
    annotations = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    ids = tuple(int(one) for one in annotations if int(one) != NONE)
    entries = [one for one in ref["sentences"] if isinstance(one["sent"], str) and one["sent"].strip()]
    sentences = [
        Sentence(one["sent"], (), str(one.get("gt_sent") or "").strip())
        if _is_false(one)
        else Sentence(one["sent"], ids)
        for one in entries
    ]
    return str(ref["split"]), int(ref["image_id"]), sentences, len(ref["sentences"]) - len(sentences)


def _is_false(sentence: Any) -> bool:
    """Whether a sentence names what is not in the picture, as R-RefCOCO (exist) and FP-RefCOCO mark it."""
    return bool(sentence.get("is_false_premise", not sentence.get("exist", True)))
