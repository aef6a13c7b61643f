"""`lisa evaluate` on RefCOCO's family and gRefCOCO, in their own format on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from training_data import SIZE, grefer, picture, refer, write_scenes

from lisa_ros import cli
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import read_pictures


def two_pictures(path: Path, name: str = "refcoco", split_by: str = "unc") -> Path:
    """The folder of ``refer`` with a second picture; two sentences of val mean its cup, and it comes first in refs."""
    folder = refer(path, name, split_by) / name
    content = json.loads((folder / "instances.json").read_text())
    content["images"].append(content["images"][0] | {"id": 2, "file_name": "two.jpg"})
    content["annotations"].append(content["annotations"][0] | {"id": 9, "image_id": 2})
    (folder / "instances.json").write_text(json.dumps(content))
    where = path / "images" / ("saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014")
    picture(where / "two.jpg")
    file = folder / f"refs({split_by}).p"
    refs = pickle.loads(file.read_bytes())
    sentences = [{"sent": sentence} for sentence in ("Only cup ", "lone cup")]
    refs.insert(0, refs[0] | {"ann_id": 9, "image_id": 2, "split": "val", "sentences": sentences})
    file.write_bytes(pickle.dumps(refs, protocol=2))
    return folder


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "refclef"])
def test_every_sentence_of_the_split_is_asked_in_order(tmp_path: Path, name: str) -> None:
    folder = two_pictures(tmp_path, name, "umd" if name == "refcocog" else "unc")
    pictures = list(read_pictures(folder))
    assert [Path(p.name).name for p in pictures] == ["one.jpg", "two.jpg"]
    examples = [example for p in pictures for example in p.examples]
    assert [example.question.turns[0].command for example in examples] == ["left cup", "only cup", "lone cup"]
    question = " What is only cup in this image? Please output segmentation mask."
    assert examples[1].question.turns[0].verbatim == question
    assert {example.question.turns[0].answer for example in examples} == {"[SEG]."}
    assert {example.question.kind for example in examples} == {name}
    assert not any(example.question.absent for example in examples)
    assert [len(example.objects) for example in examples] == [2, 1, 1]
    left, right = examples[0].objects
    assert np.array_equal(examples[0].truth, right)
    assert np.array_equal(examples[1].truth, left)
    assert right[10, 40] and right[6, 55] and not right[10, 10]


def test_another_split_and_other_pictures_are_asked_for(tmp_path: Path) -> None:
    folder = refer(tmp_path) / "refcoco"
    elsewhere = picture(tmp_path / "elsewhere" / "one.jpg").parent
    (one,) = read_pictures(folder, split="train", split_by="unc", images=elsewhere)
    assert one.name == str(elsewhere / "one.jpg")
    assert one.examples[0].question.turns[0].command == "the cup on the right"


def gref(path: Path) -> Path:
    folder = refer(path, "grefcoco") / "grefcoco"
    grefer(path, [("both cups", [7, 8]), ("the blue dog", [-1]), ("left one", [7])], "val")
    return folder


def test_grefcoco_asks_for_several_and_for_what_is_not_there(tmp_path: Path) -> None:
    (one,) = read_pictures(gref(tmp_path))
    several, absent, single = one.examples
    assert [example.question.kind for example in one.examples] == ["several", "absent", "single"]
    assert [example.question.absent for example in one.examples] == [False, True, False]
    assert absent.truth.shape == SIZE
    assert not absent.truth.any()
    assert several.truth[10, 10] == several.truth[10, 40] == 1
    assert single.truth[10, 10] == 1
    assert single.truth[10, 40] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "testC"}, "no split 'testC'; there is train, val"),
        ({"split_by": "google"}, "split by 'google'; there is unc"),
        ({"images": Path("nowhere")}, "nowhere is not a folder; --images"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_pictures(refer(tmp_path) / "refcoco", **options)


@pytest.mark.parametrize("option", [{"split": "val"}, {"split_by": "unc"}, {"images": Path("here")}])
def test_the_options_are_refused_for_other_folders(tmp_path: Path, option: dict) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} '.*' is for RefCOCO"):
        read_pictures(write_scenes(tmp_path / "scenes", 1), **option)


@pytest.mark.parametrize("broken", ["missing", "size", "cut"])
def test_a_broken_picture_is_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str) -> None:
    folder = two_pictures(tmp_path)
    file = tmp_path / "images/mscoco/images/train2014/one.jpg"
    if broken == "missing":
        file.unlink()
    elif broken == "size":
        picture(file, (10, 10))
    else:
        file.write_bytes(file.read_bytes()[:300])
    (left,) = read_pictures(folder)
    assert left.name.endswith("two.jpg")
    assert "one.jpg" in caplog.text


def test_a_sentence_without_its_annotation_is_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = gref(tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = []
    (folder / "instances.json").write_text(json.dumps(content))
    (one,) = read_pictures(folder)
    assert [example.question.kind for example in one.examples] == ["absent", "single"]
    assert "'both cups' means annotation 8" in caplog.text


def test_evaluate_from_the_command_line(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--data", str(two_pictures(tmp_path)), "--split", "val", "--json", str(report), "--device", "cpu"]
    assert cli.main(["evaluate", *arguments]) == 0
    scores = json.loads(report.read_text())
    assert scores["pictures"] == 2
    assert scores["n"] == scores["teacher_forced"]["n"] == 3
    assert set(scores["by_kind"]) == {"refcoco"}
    assert scores["absent"]["n"] == 0
    assert set(scores["baselines"]) == {"empty", "all objects", "random object", "largest object"}


def test_absent_targets_count_for_n_acc_and_present_ones_for_t_acc(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = ["--data", str(gref(tmp_path)), "--no-teacher-forced", "--json", str(report), "--device", "cpu"]
    assert cli.main(["evaluate", *arguments]) == 0
    scores = json.loads(report.read_text())
    assert set(scores["by_kind"]) == {"several", "single"}
    assert set(scores["absent_by_kind"]) == {"absent"}
    assert (scores["n"], scores["absent"]["n"]) == (2, 1)
    # An answer without a mask has no pixel of one; one with a mask may still have none.
    assert scores["absent"]["refused"] <= scores["N_acc"]
    assert scores["T_acc"] <= 1 - scores["present"]["refused"]
