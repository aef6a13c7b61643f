"""Data sets and phrasings of LISA's relatives: several targets, none, refusals, and lists of classes."""

from __future__ import annotations

import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
from training_data import box, grefer, picture, refer, write_scenes

from lisa_ros.data.coco import mask_of
from lisa_ros.data.picture import BadExample
from lisa_ros.data.refer import read_sentences
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.lisa.family import FAMILIES
from lisa_ros.training.datasets.label_maps import LabelMaps
from lisa_ros.training.datasets.mixture import open_mixture
from lisa_ros.training.datasets.refer import GRefCoco, Refer, RefZom
from lisa_ros.training.phrasing import Phrasing, Target

SIZE = (40, 60)
MASK = np.ones(SIZE, np.uint8)
GSVA, LASAGNA, SESAME, CORES = (Phrasing(FAMILIES[name]) for name in ("gsva", "lasagna", "sesame", "cores"))


def reference(sentences: list[dict], annotation: object, split: str = "train") -> dict:
    return {"ref_id": 0, "ann_id": annotation, "image_id": 1, "category_id": 1, "split": split, "sentences": sentences}


def write_refs(folder: Path, file: str, refs: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(pickle.dumps(refs))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return refer(tmp_path)


def copy_instances(root: Path, name: str) -> Path:
    (root / name).mkdir()
    (root / name / "instances.json").write_bytes((root / "refcoco" / "instances.json").read_bytes())
    return root / name


# --- gRefCOCO


def test_grefcoco_has_none_one_and_several_targets_in_one_conversation(root: Path) -> None:
    copy_instances(root, "grefcoco")
    grefer(root, [("red bicycle", [-1]), ("the left cup", [7]), ("both cups", [7, 8])])
    example = GRefCoco(root, questions=3, phrasing=GSVA).draw(random.Random(0))
    (dialogue,) = example.dialogues
    answer = dialogue.turns[0].answer or ""
    assert len(dialogue.masks) == answer.count("[SEG]") == 2 and answer.count("[REJ]") == 1
    assert re.search(r"red bicycle\W+(is )?\[REJ\]", answer)
    union, left = sorted(dialogue.masks, key=np.count_nonzero, reverse=True)
    assert union[left > 0].all() and union.sum() > left.sum()
    for name in ("red bicycle", "the left cup", "both cups"):
        assert name in dialogue.turns[0].question


def test_targets_that_are_all_absent_are_an_answer_too(root: Path) -> None:
    copy_instances(root, "grefcoco")
    grefer(root, [("red bicycle", [-1])])
    (dialogue,) = GRefCoco(root, phrasing=GSVA).draw(random.Random(0)).dialogues
    assert "[REJ]" in (dialogue.turns[0].answer or "") and not len(dialogue.masks)


def test_every_form_of_segmentation_that_grefcoco_has_is_drawn() -> None:
    """Polygons, uncompressed and compressed run lengths give the same mask; two corners alone are no outline."""
    expected = np.zeros(SIZE, np.uint8)
    expected[5:20, 5:20] = 1
    column = [5, 15, 20]
    runs = [5 * 40 + column[0], column[1]]
    for _ in range(14):
        runs += [25, 15]
    runs.append(40 * 60 - sum(runs))
    from pycocotools import mask as rle

    compressed = rle.encode(np.asfortranarray(expected))
    for segmentation in (
        [box(5, 5, 20, 20)],
        [box(5, 5, 20, 20), [1.0, 1.0, 2.0, 2.0]],
        {"size": list(SIZE), "counts": runs},
        {"size": list(SIZE), "counts": compressed["counts"].decode()},
        [{"size": list(SIZE), "counts": runs}],
    ):
        drawn = mask_of({"id": 1, "segmentation": segmentation}, SIZE)
        assert (drawn == expected).mean() > 0.97, segmentation
    with pytest.raises(BadExample, match="no polygon has three corners"):
        mask_of({"id": 1, "segmentation": [[1.0, 1.0, 2.0, 2.0]]}, SIZE)


# --- Ref-ZOM


def test_ref_zom_has_an_empty_list_for_no_target(root: Path) -> None:
    folder = copy_instances(root, "refzom")
    picture(root / "images" / "mscoco/images/trainval2014" / "one.jpg")
    sentences = [("a zebra", []), ("cups", [7, 8]), ("a cup", [7])]
    write_refs(folder, "Ref_ZOM.p", [reference([{"sent": text}], ids) for text, ids in sentences])
    (dialogue,) = RefZom(root, phrasing=GSVA).draw(random.Random(1)).dialogues
    answer = dialogue.turns[0].answer or ""
    assert (answer.count("[SEG]"), answer.count("[REJ]")) == (2, 1)
    (one,) = read_pictures(folder, split="train")
    assert [example.question.kind for example in one.examples] == ["absent", "several", "single"]


# --- SESAME's refusals


@pytest.mark.parametrize(
    ("name", "file", "false"),
    [
        ("R-refcoco", "refs(unc_exclude_unified).p", {"exist": False}),
        ("R-refcocog", "refs(umd_exclude_unified).p", {"exist": False}),
        ("fprefcoco+", "refs(berkeley_exclude_unified).p", {"is_false_premise": True, "gt_sent": "the left Cup"}),
    ],
)
def test_a_false_premise_is_denied(name: str, file: str, false: dict, root: Path) -> None:
    folder = copy_instances(root, name)
    true = {key: not value for key, value in false.items() if key != "gt_sent"}
    write_refs(folder, file, [reference([{"sent": "left cup", **true}, {"sent": "The zebra", **false}], 7)])
    assert [len(one.annotations) for one in read_sentences(folder, "train")[1]] == [1, 0]
    example = Refer(root, name=name, questions=2, phrasing=SESAME).draw(random.Random(0))
    answers = {len(one.masks): one.turns[0].answer or "" for one in example.dialogues}
    assert answers[1].count("[SEG]") == 1 and "[SEG]" not in answers[0]
    assert ("the left cup" in answers[0]) == ("gt_sent" in false)
    (one,) = read_pictures(folder, split="train")
    assert [example.question.absent for example in one.examples] == [False, True]


# --- lists of classes


def label_maps(tmp_path: Path, phrasing: Phrasing, **options: object) -> LabelMaps:
    from PIL import Image

    file, label = picture(tmp_path / "one.jpg"), tmp_path / "one.png"
    numbers = np.zeros(SIZE, np.uint8)
    numbers[:, 20:40], numbers[:, 40:] = 1, 2
    Image.fromarray(numbers).save(label)
    names = ["Traffic light", "cup", "table", "horse", "sea"]
    return LabelMaps([(file, label)], names, lambda label: label, phrasing=phrasing, **options)  # type: ignore[arg-type]


def test_lasagna_is_asked_for_a_list_and_answers_in_its_own_order(tmp_path: Path) -> None:
    orders = set()
    for seed in range(8):
        example = label_maps(tmp_path, LASAGNA, listed=4).draw(random.Random(seed))
        (dialogue,) = example.dialogues
        question, answer = dialogue.turns[0].question, dialogue.turns[0].answer or ""
        asked = re.fullmatch(r"<semantic>Segment this image\.<cat_start> (.+) <cat_end>", question)
        assert asked
        entries = re.findall(r"([^<>]+)<(no_)?ins>", answer)
        assert "".join(f"{name}<{no}ins>" for name, no in entries) == answer
        assert sorted(asked[1].split(", ")) == sorted(name for name, _ in entries)
        present = [name for name, no in entries if not no]
        assert sorted(present) == ["cup", "table", "traffic light"]
        starts = {"traffic light": 0, "cup": 20, "table": 40}
        for name, mask in zip(present, dialogue.masks, strict=True):
            assert mask[:, starts[name] : starts[name] + 20].all() and mask.sum() == 800
        orders.add(tuple(present))
    assert len(orders) > 1


def test_gsva_is_asked_for_several_classes_at_once(tmp_path: Path) -> None:
    example = label_maps(tmp_path, GSVA, absent=1.0).draw(random.Random(0))
    (dialogue,) = example.dialogues
    answer = dialogue.turns[0].answer or ""
    assert (answer.count("[SEG]"), answer.count("[REJ]"), len(dialogue.masks)) == (3, 1, 3)
    assert "traffic light" in dialogue.turns[0].question and "Traffic light" in answer


# --- sentences


def test_each_family_says_what_it_was_trained_to_say() -> None:
    rng = random.Random(0)
    for _ in range(30):
        (one,) = CORES.dialogues([Target("the spoon", MASK)], SIZE, rng)
        assert one.turns[0].answer in FAMILIES["cores"].answers
        (one,) = GSVA.dialogues([Target("Cup .", MASK)], SIZE, rng)
        assert "cup" in one.turns[0].question and "Cup" in (one.turns[0].answer or "")
        (sentence,) = GSVA.dialogues([Target("What holds a drink?", MASK, is_sentence=True)], SIZE, rng)
        assert sentence.turns[0].answer in FAMILIES["gsva"].answers
        (one,) = LASAGNA.dialogues([Target("the spoon", MASK)], SIZE, rng)
        assert one.turns[0].answer in FAMILIES["lasagna"].answers and "<semantic>" not in one.turns[0].question


@pytest.mark.parametrize("name", ["the [SEG] cup", "the [REJ] cup"])
def test_a_name_with_a_token_in_it_is_a_bad_example(name: str) -> None:
    with pytest.raises(BadExample):
        GSVA.dialogues([Target(name, MASK), Target("cup", None)], SIZE, random.Random(0))


def test_scenes_name_several_things(tmp_path: Path) -> None:
    file = write_scenes(tmp_path / "scenes", 1) / "scenes.jsonl"
    file.write_text(file.read_text().replace('"class": "ball"', '"class": "mug"'))  # a name of the world table
    entry = {"kind": "scenes", "path": "scenes", "targets": 1.0, "questions": 4}
    mixture = open_mixture([entry], tmp_path, Phrasing(FAMILIES["gsva"]))
    (dialogue,) = mixture.draw(random.Random(0)).dialogues
    answer = dialogue.turns[0].answer or ""
    assert answer.startswith("Sure, they are ")
    assert answer.count("[SEG]") == len(dialogue.masks)
    assert answer.count("[SEG]") + answer.count("[REJ]") >= 1
