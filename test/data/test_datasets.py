"""Every data set in its real format on disk, small; and what happens to what is broken."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_data import SIZE, box, grefer, picture, refer, text

from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.data.plain_pickle import load_plain
from lisa_ros.engine.api import Turn
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.training import templates
from lisa_ros.training.datasets.ade20k import ade20k
from lisa_ros.training.datasets.cocostuff import cocostuff
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.datasets.llava_instruct import LlavaInstruct
from lisa_ros.training.datasets.mixture import KINDS, Mixture, open_mixture
from lisa_ros.training.datasets.parts import Parts
from lisa_ros.training.datasets.reasonseg import ReasonSeg
from lisa_ros.training.datasets.refer import GRefCoco, Refer
from lisa_ros.training.templates import ANSWERS
from lisa_small.training.dataset import Scenes


@pytest.fixture
def rng() -> random.Random:
    return random.Random(3)


def label_map(file: Path, numbers: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.astype(np.uint8)).save(file)
    return file


def every(example: Example) -> list[tuple[str, str, np.ndarray]]:
    return [(d.turns[0].question, d.turns[0].answer or "", d.masks) for d in example.dialogues]


def asks_for(question: str, name: str) -> bool:
    return any(question == form.format(name) for form in templates.SHORT_QUESTIONS)


# --- ReasonSeg ---


def reasonseg(folder: Path, name: str = "a", **changes: object) -> Path:
    picture(folder / f"{name}.jpg")
    shapes = [{"label": "target", "points": [[10, 10], [30, 10], [30, 25], [10, 25]]}]
    label = {"text": ["what keeps the rain out", "the dry one"], "is_sentence": True, "shapes": shapes} | changes
    text(folder / f"{name}.json", label)
    return folder


def test_reasonseg_asks_with_a_paraphrase_and_answers_with_a_mask(tmp_path: Path, rng: random.Random) -> None:
    data = ReasonSeg(reasonseg(tmp_path / "train"))
    assert len(data) == 1
    said = every(data.draw(rng))
    assert len(said) == 2
    for question, answer, masks in said:
        assert question.startswith(("what keeps the rain out Please", "the dry one Please"))
        assert answer in ANSWERS
        assert masks.shape == (1, *SIZE)
        assert masks[0, 15, 20] == 1
        assert masks[0, 35, 50] == 0


def test_reasonseg_explains_where_there_is_an_explanation(tmp_path: Path, rng: random.Random) -> None:
    folder = reasonseg(tmp_path / "train")
    reason = "Because it is waterproof."
    text(tmp_path / "explanatory" / "train.json", [{"image": "a.jpg", "query": "q", "outputs": reason}])
    seen = {"mask": 0, "both": 0, "reason": 0}
    for _ in range(200):
        for question, answer, masks in every(ReasonSeg(folder, questions=1).draw(rng)):
            if answer == reason:
                seen["reason"] += 1
                assert len(masks) == 0
                assert "segmentation" not in question
            elif answer.endswith(reason):
                seen["both"] += 1
                assert "expla" in question
                assert answer.count("[SEG]") == len(masks) == 1
            else:
                seen["mask"] += 1
                assert answer in ANSWERS
    assert 5 < seen["reason"] < 45
    assert seen["both"] > 60
    assert seen["mask"] > 60
    for _ in range(20):
        assert every(ReasonSeg(folder, explanatory=-1).draw(rng))[0][1] in ANSWERS


def test_reasonseg_without_a_shape_is_a_refusal(tmp_path: Path, rng: random.Random) -> None:
    data = ReasonSeg(reasonseg(tmp_path / "train", shapes=[], text=["the red umbrella"], is_sentence=False))
    ((question, answer, masks),) = every(data.draw(rng))
    assert "red umbrella" in question
    assert "no red umbrella" in answer
    assert len(masks) == 0


def test_reasonseg_label_of_another_code_page_is_read(tmp_path: Path, rng: random.Random) -> None:
    folder = reasonseg(tmp_path / "train")
    label = json.loads((folder / "a.json").read_text()) | {"text": ["the caf\u00e9\u2019s cup"]}
    (folder / "a.json").write_bytes(json.dumps(label, ensure_ascii=False).encode("cp1252"))
    assert "caf\u00e9\u2019s cup" in every(ReasonSeg(folder).draw(rng))[0][0]


# --- REFER ---


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "refclef"])
def test_refer_reads_its_four_data_sets(tmp_path: Path, rng: random.Random, name: str) -> None:
    data = Refer(refer(tmp_path, name, "umd" if name == "refcocog" else "unc"), name=name)
    ((question, answer, masks),) = every(data.draw(rng))
    assert "cup on the right" in question
    assert "the the" not in question
    assert answer in ANSWERS
    assert masks[0, 10, 40] == masks[0, 6, 55] == 1
    assert masks[0, 10, 10] == 0


def test_refer_reads_the_other_splits(tmp_path: Path, rng: random.Random) -> None:
    assert "left cup" in every(Refer(refer(tmp_path), split="val").draw(rng))[0][0]
    with pytest.raises(ConfigError, match="no split 'testC'"):
        Refer(refer(tmp_path), split="testC")


@pytest.mark.parametrize("form", ["uncompressed", "compressed", "list"])
def test_run_lengths_are_masks_too(tmp_path: Path, form: str) -> None:
    from pycocotools import mask as rle

    from lisa_ros.data.coco import mask_of

    wanted = np.zeros(SIZE, np.uint8)
    wanted[5:20, 8:30] = 1
    compressed = rle.encode(np.asfortranarray(wanted))
    told = {"size": list(SIZE), "counts": compressed["counts"].decode()}
    if form == "uncompressed":
        flat = wanted.flatten(order="F")
        ends = np.flatnonzero(np.diff(flat)) + 1
        told["counts"] = np.diff([0, *ends, flat.size]).tolist()
    segmentation = [told] if form == "list" else told
    assert np.array_equal(mask_of({"id": 1, "segmentation": segmentation}, SIZE), wanted)


@pytest.mark.parametrize("told", [None, [], [[1, 2]], [["x"]], {"counts": "?", "size": [3, 3]}, {"size": [3, 3]}])
def test_a_broken_segmentation_is_a_bad_example(told: object) -> None:
    from lisa_ros.data.coco import mask_of

    with pytest.raises(BadExample, match="annotation 5"):
        mask_of({"id": 5, "segmentation": told}, SIZE)


def test_a_sentence_without_its_annotation_is_left_out_by_training_as_by_evaluation(
    tmp_path: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    folder = refer(tmp_path, "grefcoco")
    for split in ("train", "val"):
        grefer(folder, [("both cups", [7, 8]), ("the fork", [99])], split=split)
        caplog.clear()
        if split == "train":
            asked = [question for question, _, _ in every(GRefCoco(folder).draw(rng))]
        else:
            (shown,) = read_pictures(folder / "grefcoco", split="val")
            asked = [example.question.turns[0].command for example in shown.examples]
        assert len(asked) == 1
        assert "both cups" in asked[0]
        assert re.search("'the fork' .* annotation 99", caplog.text)


def test_broken_entries_of_an_annotation_file_are_counted_and_left_out(
    tmp_path: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    folder = refer(tmp_path)
    instances, refs = folder / "refcoco" / "instances.json", folder / "refcoco" / "refs(unc).p"
    content = json.loads(instances.read_text())
    content["annotations"] += [{"id": 9}, None, {"id": float("inf"), "image_id": float("nan")}]
    content["images"].append({"id": "x"})
    instances.write_text(json.dumps(content))
    refs.write_bytes(pickle.dumps([{"split": "train"}, *pickle.loads(refs.read_bytes())], protocol=2))
    assert "cup on the right" in every(Refer(folder).draw(rng))[0][0]
    assert len(list(read_pictures(folder / "refcoco"))) == 1
    for reason in ("3 of 5 annotations", "1 of 2 images", "1 of 3 references"):
        assert reason in caplog.text
    content["images"] = [{"id": "x"}]
    instances.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"none of the 1 images of .*instances\.json can be used"):
        Refer(folder)


# --- the pickle ---


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil was here",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([{"ref_id": Evil()}], protocol=protocol))
    with pytest.raises(ConfigError, match="mkdir"):
        load_plain(file)
    assert not (tmp_path / "evil was here").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(S'1'\nibuiltins\neval\n.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"Pelsewhere\n.",
    ],
)
def test_no_instruction_of_the_pickle_machine_reaches_a_name(tmp_path: Path, program: bytes) -> None:
    file = tmp_path / "x.p"
    file.write_bytes(program)
    with pytest.raises(ConfigError):
        load_plain(file)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(tmp_path: Path, protocol: int) -> None:
    value = [{"a": (1, 2.5, None, True), "b": "caf\u00e9", 3: [10**30]}]
    file = tmp_path / "x.p"
    file.write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_plain(file) == value


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """As the published ones are: protocol 0, byte strings, long integers."""
    file = tmp_path / "x.p"
    file.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'left cup'\np3\nsS'ann_id'\np4\nL12L\nsVcat\np5\nI01\nsa.")
    assert load_plain(file) == [{"sent": "left cup", "ann_id": 12, "cat": True}]


def test_a_damaged_pickle_is_an_error_with_its_name(tmp_path: Path) -> None:
    whole = pickle.dumps([{"a": list(range(50))}])
    file = tmp_path / "x.p"
    for broken in (b"", whole[:20], b"\x80\x04\x8e" + struct.pack("<Q", 2**62), b"garbage", whole[10:]):
        file.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"x\.p"):
            load_plain(file)


# --- the others ---


def test_grefcoco_has_several_targets_and_none(tmp_path: Path, rng: random.Random) -> None:
    folder = refer(tmp_path, "grefcoco")
    grefer(folder, [("both cups", [7, 8]), ("the blue dog", [-1])])
    said = every(GRefCoco(folder).draw(rng))
    both = next(one for one in said if "both cups" in one[0])
    none = next(one for one in said if "blue dog" in one[0])
    assert both[2].shape == (1, *SIZE)
    assert both[2][0, 10, 10] == both[2][0, 10, 40] == 1
    assert len(none[2]) == 0
    assert none[1] in templates.REFUSALS_OF_A_SENTENCE


def ade(folder: Path) -> Path:
    picture(folder / "images" / "training" / "ADE_train_00000001.jpg")
    numbers = np.zeros(SIZE)
    numbers[:20], numbers[20:30, :30] = 1, 3
    label_map(folder / "annotations" / "training" / "ADE_train_00000001.png", numbers)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.1576\t11664\t1172\t1\twall"]
    lines += ["2\t0.1072\t6046\t612\t1\tbuilding, edifice", "3\t0.0878\t8265\t796\t1\tswivel chair"]
    text(folder / "objectInfo150.txt", "\ufeff" + "\n".join(lines))
    return folder


def test_ade20k_numbers_classes_from_one(tmp_path: Path, rng: random.Random) -> None:
    data = ade20k(ade(tmp_path))
    said = {question: masks for question, _, masks in every(data.draw(rng))}
    assert len(said) == 2
    wall = next(masks for question, masks in said.items() if asks_for(question, "wall"))
    chair = next(masks for question, masks in said.items() if asks_for(question, "swivel chair"))
    assert wall[0].sum() == 20 * 60
    assert chair[0].sum() == 10 * 30


def test_several_classes_in_one_question_have_a_seg_each(tmp_path: Path, rng: random.Random) -> None:
    ((question, answer, masks),) = every(ade20k(ade(tmp_path), several=1.0).draw(rng))
    assert answer.count("[SEG]") == len(masks) == 2
    first_is_wall = question.index("the wall") < question.index("the swivel chair")
    assert masks[0].sum() == (1200 if first_is_wall else 300)


def test_an_absent_class_is_refused(tmp_path: Path, rng: random.Random) -> None:
    question, answer, masks = every(ade20k(ade(tmp_path), absent=1.0).draw(rng))[-1]
    assert asks_for(question, "building")
    assert "building" in answer
    assert len(masks) == 0


def test_cocostuff_leaves_out_names_with_a_hyphen(tmp_path: Path, rng: random.Random) -> None:
    picture(tmp_path / "coco" / "000000000009.jpg")
    numbers = np.full(SIZE, 255)
    numbers[:10], numbers[10:20] = 0, 2
    label_map(tmp_path / "stuff" / "train2017" / "000000000009.png", numbers)
    text(tmp_path / "stuff" / "labels.txt", "\ufeff0: unlabeled\n1: person\n2: bicycle\n3: wall-brick\n")
    ((question, _, masks),) = every(cocostuff(tmp_path / "stuff", images=tmp_path / "coco").draw(rng))
    assert asks_for(question, "person")
    assert masks[0].sum() == 10 * 60


def test_parts_are_asked_for_with_their_object(tmp_path: Path) -> None:
    picture(tmp_path / "coco" / "train2017" / "1.jpg")
    boxes = [(1, box(0, 0, 10, 10)), (1, box(20, 0, 30, 10)), (2, box(0, 20, 30, 30))]
    told = [
        {"id": number, "image_id": 1, "category_id": category, "segmentation": [where]}
        for number, (category, where) in enumerate(boxes)
    ]
    image = {"id": 1, "file_name": "train2017/1.jpg", "height": SIZE[0], "width": SIZE[1]}
    categories = [{"id": 1, "name": "mug:handle"}, {"id": 2, "name": "trash_can_(bin)"}]
    content = {"images": [image], "annotations": told, "categories": categories}
    data = Parts(text(tmp_path / "paco.json", content), images=tmp_path / "coco")
    heard = set()
    for seed in range(20):
        for question, _, masks in every(data.draw(random.Random(seed))):
            names = ("mug handle", "handle of the mug", "the handle of the mug", "trash can")
            heard |= {name for name in names if asks_for(question, name)}
            if "mug" in question:
                assert masks[0, 5, 5] == masks[0, 5, 25] == 1
    assert {"mug handle", "trash can"} < heard


def test_pascal_part_is_read_in_its_own_form(tmp_path: Path) -> None:
    """VOC's pictures lie flat in one folder, every category is a part, and their ids do not begin at 1."""
    picture(tmp_path / "VOC2010" / "JPEGImages" / "2008_000008.jpg")
    content = {
        "images": [{"id": 8, "file_name": "2008_000008.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"id": 0, "image_id": 8, "category_id": 43, "segmentation": [box(0, 0, 10, 10)], "iscrowd": 0},
            {"id": 1, "image_id": 8, "category_id": 57, "segmentation": [box(20, 0, 30, 10)], "iscrowd": 0},
        ],
        "categories": [{"id": 43, "name": "dog:head"}, {"id": 57, "name": "potted_plant:pot"}],
    }
    file = text(tmp_path / "train.json", content)
    entry = {"kind": "pascal_part", "path": str(file), "images": str(tmp_path / "VOC2010" / "JPEGImages")}
    mixture = open_mixture([entry], Path())
    expected = {"dog head": 5, "head of the dog": 5, "potted plant pot": 25, "pot of the potted plant": 25}
    heard = set()
    for seed in range(20):
        asked = every(mixture.draw(random.Random(seed), lambda example: example))
        assert len(asked) == 2
        for question, _, masks in asked:
            (name,) = (name for name in expected if asks_for(question, name) or asks_for(question, f"the {name}"))
            assert masks[0, 5, expected[name]] == 1
            assert masks[0, 5, 30 - expected[name]] == 0
            heard.add(name)
    assert heard == set(expected)


def test_llava_instruct_keeps_its_turns_and_has_no_mask(tmp_path: Path, rng: random.Random) -> None:
    picture(tmp_path / "coco" / "1.jpg")
    said = [("human", "<image>\nWhat is it?"), ("gpt", "A cup."), ("human", "Why?"), ("gpt", "It has a handle.")]
    told = [{"id": "1", "image": "1.jpg", "conversations": [{"from": who, "value": what} for who, what in said]}]
    data = LlavaInstruct(text(tmp_path / "llava_instruct_150k.json", told), images=tmp_path / "coco")
    (dialogue,) = data.draw(rng).dialogues
    assert dialogue.turns == (Turn("What is it?", "A cup."), Turn("Why?", "It has a handle."))
    assert dialogue.masks.shape == (0, *SIZE)


def test_scenes_of_our_own_are_read(tmp_path: Path, rng: random.Random) -> None:
    picture(tmp_path / "images" / "0.jpg")
    ids = np.zeros(SIZE)
    ids[:10], ids[20:30] = 1, 2
    label_map(tmp_path / "ids" / "0.png", ids)
    turns = [{"command": "both cups", "targets": [1, 2], "answer": "They are the cups, [SEG].", "explain": False}]
    turns.append({"command": "and the dog", "targets": [], "answer": "There is no dog here.", "explain": False})
    scene = {"id": "0", "image": "images/0.jpg", "ids": "ids/0.png", "objects": [], "conversations": [{"turns": turns}]}
    text(tmp_path / "scenes.jsonl", json.dumps(scene) + "\n{broken\n")
    (dialogue,) = Scenes(tmp_path).draw(rng).dialogues
    assert [turn.answer for turn in dialogue.turns] == ["They are the cups, [SEG].", "There is no dog here."]
    assert dialogue.masks.shape == (1, *SIZE)
    assert dialogue.masks[0].sum() == 20 * 60


# --- what is broken ---


def test_a_dialogue_has_as_many_masks_as_seg() -> None:
    one = np.ones((1, 4, 4), np.uint8)
    Dialogue((Turn("where?", "Sure, [SEG]."),), one)
    for turns, masks in [
        ((Turn("where?", "Sure, [SEG]."),), one[:0]),
        ((Turn("where?", "Nowhere."),), one),
        ((Turn("where?", "[SEG] and [SEG]."),), one),
        ((Turn("where is [SEG]?", "Sure, [SEG]."),), one),
        ((Turn("where?</s>", "Sure, [SEG]."),), one),
        ((Turn("where?", "Sure, <image> [SEG]."),), one),
        ((Turn(" ", "Sure, [SEG]."),), one),
        ((), one[:0]),
    ]:
        with pytest.raises(BadExample):
            Dialogue(turns, masks)


def test_a_mask_of_another_size_is_a_bad_example() -> None:
    dialogue = Dialogue((Turn("where?", "Sure, [SEG]."),), np.ones((1, 4, 4), np.uint8))
    with pytest.raises(BadExample, match=r"p\.jpg has 4 x 5 pixels, its mask 4 x 4"):
        Example("p.jpg", np.zeros((4, 5, 3), np.uint8), (dialogue,))


def test_a_cut_off_picture_is_noticed(tmp_path: Path) -> None:
    file = picture(tmp_path / "p.jpg")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadExample, match=r"p\.jpg cannot be read"):
        read_picture(file)


def test_broken_pictures_and_labels_are_named_once_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "train"
    for name in ("good", "cut", "json", "keys"):
        reasonseg(folder, name)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:500])
    (folder / "json.json").write_text("{")
    (folder / "keys.json").write_text('{"text": ["x"]}')
    mixture = open_mixture([{"kind": "reasonseg", "path": "train"}], tmp_path)
    with caplog.at_level(logging.WARNING):
        names = {Path(mixture.draw(random.Random(seed)).name).stem for seed in range(40)}
    assert names == {"good"}
    assert len(caplog.records) == 3
    for name in ("cut.jpg", "json.json", "keys.json"):
        assert name in caplog.text


def test_nothing_but_broken_pictures_is_an_error(tmp_path: Path) -> None:
    folder = reasonseg(tmp_path / "train")
    (folder / "a.jpg").write_bytes(b"no picture")
    mixture = open_mixture([{"kind": "reasonseg", "path": "train"}], tmp_path)
    with pytest.raises(ConfigError, match=r"100 examples in a row.*a\.jpg"):
        mixture.draw(random.Random(0))


class Fixed:
    def __init__(self, name: str):
        self.example = Example(
            name,
            np.zeros((2, 2, 3), np.uint8),
            (Dialogue((Turn("q", "a"),), np.zeros((0, 2, 2), np.uint8)),),
        )

    def __len__(self) -> int:
        return 1

    def draw(self, rng: random.Random) -> Example:
        return self.example


def test_data_sets_are_drawn_by_their_rates(rng: random.Random) -> None:
    mixture = Mixture([Fixed("a"), Fixed("b")], [9, 1])
    names = [mixture.draw(rng).name for _ in range(1000)]
    assert 850 < names.count("a") < 950


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    mixture = open_mixture(
        [{"kind": "ade20k", "path": ade(tmp_path / "ade")}, {"kind": "refer", "path": refer(tmp_path / "refer")}],
        tmp_path,
    )
    for seed in range(5):
        first, second = (every(mixture.draw(random.Random(seed))) for _ in range(2))
        assert [one[:2] for one in first] == [one[:2] for one in second]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "at least one data set"),
        ([{"kind": "coco"}], "entry 1: kind 'coco' is not known; choose one of reasonseg"),
        ([{"kind": "reasonseg", "path": "nowhere"}], "entry 1: .*nowhere is not a folder"),
        ([{"kind": "reasonseg", "path": "x", "colour": 1}], "no option 'colour'; it has path"),
        ([{"kind": "reasonseg", "path": "x", "rate": "often"}], "'often' is not a number"),
        ([{"kind": "paco", "path": "x"}], "images"),
        ([{"kind": "refer", "path": "x", "name": "coco"}], "not one of refcoco"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, entries: list[dict], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_mixture(entries, tmp_path)


def test_every_kind_exists() -> None:
    for kind in KINDS:
        with pytest.raises(ConfigError):
            open_mixture([{"kind": kind, "path": "nowhere", "images": "nowhere"}], Path("/nowhere"))
