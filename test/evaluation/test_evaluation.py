"""From outcomes to numbers: who was refused, what counts, what a baseline is."""

import json
import random
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from training_data import write_scenes

from lisa_ros import cli
from lisa_ros.evaluation import run
from lisa_ros.evaluation.examples import Example, Picture, Question, Said, read_pictures
from lisa_ros.evaluation.metrics import overlap
from lisa_ros.evaluation.report import Gallery, summarise, table
from lisa_ros.evaluation.run import Outcome
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.segmenter import Segmenter
from lisa_small import model_folder


def outcome(truth, mask, *, kind="name", command="the cup", answer="It is the cup, [SEG].", found=True, explain=False):
    question = Question(kind, (Said(command, answer, explain),), not truth.any(), names=("cup",))
    true = truth.astype(np.uint8)
    free = overlap(mask, true)
    baselines = {} if question.absent else {"empty": overlap(np.zeros_like(mask), true)}
    forced = None if question.absent else free
    timed = 0.1 if found else None
    size = Example(question, true).size
    return Outcome(question, size, answer, found, bool(mask.any()), free, forced, baselines, timed, True)


@pytest.fixture
def outcomes():
    cup, nothing = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    cup[2:6, 2:6] = True
    half = cup.copy()
    half[4:] = False
    return [
        outcome(cup, cup, explain=True),
        outcome(
            cup, half, kind="need", command="I would like to drink something hot now", answer="It is the mug, [SEG]."
        ),
        outcome(cup, nothing, found=False, answer="There is no cup here."),
        outcome(nothing, nothing, kind="absent", found=False, answer="There is no cup here."),
        outcome(nothing, cup, kind="absent"),
    ]


def test_present_targets_are_scored_and_absent_ones_counted(outcomes):
    report = summarise(outcomes)
    assert report["n"] == 3
    assert report["gIoU"] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-3)
    assert report["cIoU"] == pytest.approx((16 + 8) / 48, abs=1e-3)
    assert report["gIoU_with_absent"] == pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5, abs=1e-3)
    assert report["absent"] == {"refused": 0.5, "n": 2}
    assert report["present"]["refused"] == pytest.approx(1 / 3, abs=1e-3)
    assert report["by_kind"]["need"]["gIoU"] == pytest.approx(0.5, abs=1e-3)
    assert report["by_length"]["long"]["n"] == 1
    assert report["explanations"] == {"named_right": 1.0, "n": 1}
    assert report["baselines"]["empty"]["gIoU"] == 0
    assert report["time_to_mask_s"]["p50"] == pytest.approx(0.1)
    json.dumps(report)
    assert (report["N_acc"], report["T_acc"]) == (0.5, pytest.approx(2 / 3, abs=1e-3))
    assert {name: size["n"] for name, size in report["by_size"].items()} == {"large": 3}
    assert "absent targets refused  50.0% of 2" in table(report)
    assert "N-acc) 50.0%" in table(report) and "T-acc) 66.7%" in table(report)


@pytest.mark.parametrize(("side", "size"), [(9, "small"), (10, "medium"), (19, "medium"), (20, "large")])
def test_sizes_are_under_one_and_under_four_percent_of_the_picture(side, size):
    truth = np.zeros((100, 100), np.uint8)
    truth[:side, :side] = 1
    assert _example(truth).size == size


@pytest.mark.parametrize(
    ("names", "answer", "found", "named"),
    [
        (("cup",), "It is the cup, [SEG]. It holds tea.", True, True),
        (("cup",), "They are the cups, [SEG].", True, True),
        (("hat",), "It is the cup that is there, [SEG].", True, False),
        (("pot",), "It is the teapot, [SEG].", True, False),
        (("cup",), "It is the mug, [SEG]. It is no cup.", True, False),
        (("fork", "knife"), "It is the fork, [SEG].", True, False),
        (("fork", "knife"), "They are the fork and the knife, [SEG].", True, True),
        (("cup",), "It is the cup that is not here.", False, False),
    ],
)
def test_an_explanation_is_right_where_every_target_is_named_as_found(names, answer, found, named):
    blank = np.zeros((4, 4), bool)
    assert replace(outcome(blank, blank, answer=answer, found=found), question=_named(names)).named == named


def _named(names):
    return Question("name", (Said("it", "", explain=True),), False, names=names)


def _example(truth, answer="", objects=()):
    return Example(Question("name", (Said("the cup", answer),), False), truth.astype(np.uint8), list(objects))


def test_the_four_baselines_are_what_they_are_called():
    one, other, truth = (np.zeros((10, 10), bool) for _ in range(3))
    one[:4, :4], other[6:8, 6:8], truth[:4, :4] = True, True, True
    masks = run._baselines(_example(truth, objects=[one, other]), random.Random(0))
    assert list(masks) == ["empty", "all objects", "random object", "largest object"]
    assert not masks["empty"].any()
    assert np.array_equal(masks["all objects"], one | other)
    assert any(np.array_equal(masks["random object"], thing) for thing in (one, other))
    assert np.array_equal(masks["largest object"], one)


def test_answers_that_are_cut_off_are_counted(outcomes):
    report = summarise([*outcomes, replace(outcomes[0], cut=True)])
    assert report["cut"] == 1
    assert "cut off after 96 tokens: 1" in table(report)
    assert "cut off" not in table(summarise(outcomes))


def test_an_answer_longer_than_the_limit_is_cut(monkeypatch):
    monkeypatch.setattr(run, "MAX_ANSWER", 2)
    picture = Picture("0", np.zeros((48, 64, 3), np.uint8), [_example(np.ones((48, 64)))])
    segmenter = Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32")
    (cut,) = run.evaluate(segmenter, [picture], forced=False)
    monkeypatch.undo()
    (whole,) = run.evaluate(segmenter, [picture], forced=False)
    assert cut.cut and not whole.cut


def test_a_score_that_was_not_asked_is_none(outcomes):
    report = summarise([replace(one, forced=None) for one in outcomes])
    assert report["teacher_forced"] == {"gIoU": None, "cIoU": None, "n": 0}
    assert "teacher-forced" not in table(report)


def test_the_given_answer_stands_in_the_talk_that_was_asked_for(monkeypatch):
    """--conversation holds for both scores, not for free generation alone."""
    seen = []
    build = run.build_prompt
    monkeypatch.setattr(run, "build_prompt", lambda turns, how, **rest: seen.append(how) or build(turns, how, **rest))
    golden = Path(__file__).parents[1] / "golden"
    segmenter = Segmenter.from_checkpoint(golden / "ckpt", conversation="v1", device="cpu", precision="fp32")
    frame = segmenter.encode(np.zeros((32, 32, 3), np.uint8))
    truth = np.ones((32, 32), np.uint8)
    run.forced_mask(segmenter, frame, _example(truth, "It is the cup, [SEG]."))
    assert seen and all(how is template("v1") for how in seen)


def test_an_evaluation_without_targets_still_reports(outcomes):
    report = summarise(outcomes[3:])
    assert report["n"] == 0
    assert report["present"]["n"] == 0
    assert table(report)


def gallery_of(outcomes, count=12):
    gallery = Gallery(count)
    for one in outcomes:
        gallery.add(one, np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), np.uint8), np.zeros((10, 10), bool))
    return gallery.page()


def test_the_page_shows_commands_as_text(outcomes):
    said = replace(outcomes[0].question, turns=(Said("<b>the cup</b>", ""),))
    html = gallery_of([replace(outcomes[0], question=said), *outcomes[1:]])
    assert "&lt;b&gt;the cup" in html
    assert html.count("<figure>") == 15
    worst, best = (html.split(f"<h2>{title}</h2>")[1] for title in ("Worst", "Best"))
    assert worst.index("IoU 0.00") < worst.index("IoU 0.50") < worst.index("IoU 1.00")
    assert best.index("IoU 1.00") < best.index("IoU 0.50") < best.index("IoU 0.00")


def test_the_page_keeps_the_worst_the_best_and_random_ones_of_many(outcomes):
    """However they come: none is forgotten, and no more are kept than are shown."""
    perfect, half, missed, *_ = outcomes
    many = [*[perfect] * 3, missed, *[half] * 8, missed, perfect]
    random.Random(1).shuffle(many)
    worst, rest = gallery_of(many, count=3).split("<h2>Worst</h2>")[1].split("<h2>Random</h2>")
    drawn, best = rest.split("<h2>Best</h2>")
    assert [part.count("<figure>") for part in (worst, drawn, best)] == [3, 3, 3]
    assert (worst.count("IoU 0.00"), worst.count("IoU 0.50")) == (2, 1)
    assert best.count("IoU 1.00") == 3


def test_a_scene_whose_picture_is_cut_off_is_named_and_skipped(tmp_path, caplog):
    folder = write_scenes(tmp_path / "scenes", 3)
    picture = sorted((folder / "images").iterdir())[1]
    picture.write_bytes(picture.read_bytes()[:-200])
    assert len(list(read_pictures(folder))) == 2
    assert f"{picture.name} is not a whole picture" in caplog.text


def test_scenes_and_reasonseg_folders_are_read_alike(tmp_path):
    scenes = list(read_pictures(write_scenes(tmp_path / "scenes", 3)))
    assert len(scenes) == 3
    assert all(example.truth.shape == picture.rgb.shape[:2] for picture in scenes for example in picture.examples)
    assert any(example.question.absent for picture in scenes for example in picture.examples)
    folder = tmp_path / "reasonseg"
    folder.mkdir()
    label = {
        "text": ["I am thirsty."],
        "is_sentence": True,
        "shapes": [{"label": "target", "points": [[1, 1], [5, 1], [5, 5]]}],
    }
    cv2.imwrite(str(folder / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    (folder / "a.json").write_text(json.dumps(label))
    (picture,) = read_pictures(folder)
    assert picture.examples[0].question.turns[0].verbatim == " I am thirsty. Please output segmentation mask."
    assert picture.examples[0].question.kind == "sentence"
    (folder / "a.json").write_text(json.dumps(label | {"kind": "need"}))  # as `lisa scenes --format reasonseg` has it
    assert next(read_pictures(folder)).examples[0].question.kind == "need"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "nowhere has neither scenes.jsonl"),
        (("--data", "silent"), "silent has no picture with a command"),
        (("--data", "scenes", "--json", "nowhere/a.json"), "there is no folder nowhere"),
        (("--data", "scenes", "--html", "scenes"), "scenes is a folder"),
        (("--data", "scenes", "--json", "a", "--html", "./a"), "--json and --html name one file"),
    ],
)
def test_what_would_fail_later_fails_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes", 2)
    silent = write_scenes(tmp_path / "silent", 2) / "scenes.jsonl"
    lines = [json.loads(line) | {"conversations": []} for line in silent.read_text().splitlines()]
    silent.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(Segmenter, "from_checkpoint", lambda *_, **__: pytest.fail("the model was loaded"))
    assert cli.main(["evaluate", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_that_leaves_nothing_is_wrong_usage(tmp_path, capsys, limit):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "--data", str(tmp_path), "--limit", limit])
    assert f"'{limit}' is not a whole number from 1 up" in capsys.readouterr().err
