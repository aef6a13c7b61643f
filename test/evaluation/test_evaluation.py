"""Evaluation: what is counted, baselines, any engine, the report and its page."""

import json
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
from training_data import write_scenes

import lisa_ros
from lisa_ros import cli, load_engine
from lisa_ros.engine.api import Answer, EngineInfo, Region, crop_mask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.evaluation import run
from lisa_ros.evaluation.examples import Example, ExampleTurn, Picture, Question, read_pictures
from lisa_ros.evaluation.metrics import overlap
from lisa_ros.evaluation.report import Gallery, summarise, table
from lisa_ros.evaluation.run import Outcome


def outcome(truth, mask, *, kind="name", command="the cup", answer="It is the cup, [SEG].", found=True, explain=False):
    question = Question(kind, (ExampleTurn(command, answer, explain),), not truth.any(), names=("cup",))
    true = truth.astype(np.uint8)
    free = overlap(mask, true)
    baselines = {} if question.absent else {"empty": overlap(np.zeros_like(mask), true)}
    forced = None if question.absent else free
    timed = 0.1 if found else None
    size = Example(question, true).size
    named = found and "cup" in answer
    return Outcome(question, size, answer, found, bool(mask.any()), free, forced, baselines, timed, True, named, False)


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
    words = " ".join(table(report).split())
    assert "absent targets rejected 50.0% of 2" in words and "present targets rejected 33.3% of 3" in words
    # The questions do not say what was trained.
    assert report["by_phrasing"] == report["by_instance"] == {} and "phrasing" not in words
    assert "N-acc) 50.0%" in table(report) and "T-acc) 66.7%" in table(report)


@pytest.mark.parametrize(("side", "size"), [(9, "small"), (10, "medium"), (19, "medium"), (20, "large")])
def test_sizes_are_under_one_and_under_four_percent_of_the_picture(side, size):
    truth = np.zeros((100, 100), np.uint8)
    truth[:side, :side] = 1
    assert _example(truth).size == size


@pytest.mark.parametrize(
    ("names", "text", "named"),
    [
        (("cup",), "It is the cup, [SEG]. It holds tea.", True),
        (("cup",), "They are the cups, [SEG].", True),
        (("hat",), "It is the cup that is there, [SEG].", False),
        (("pot",), "It is the teapot, [SEG].", False),
        (("cup",), "It is the mug, [SEG]. It is no cup.", False),
        (("fork", "knife"), "It is the fork, [SEG].", False),
        (("fork", "knife"), "They are the fork and the knife, [SEG].", True),
    ],
)
def test_an_answer_names_the_target_where_every_class_stands_before_the_first_mask(names, text, named):
    begin = text.index("[SEG]")
    answer = Answer(text, [Region(crop_mask(np.ones((4, 4), bool)), span=(begin, begin + 5))])
    assert run.names_all(run.text_to_region(answer), names) == named


def test_a_mention_that_is_the_name_itself_counts_as_naming():
    """Engines whose spans are the words for a thing, not a mask token behind them."""
    answer = Answer("A cup and a plate.", [Region(crop_mask(np.ones((4, 4), bool)), span=(2, 5))])
    assert run.text_to_region(answer) == "A cup"
    assert run.text_to_region(Answer("A cup.", [Region(crop_mask(np.ones((4, 4), bool)))])) == "A cup."


class Talker:
    """An engine with one region, or none, and nothing else that LISA has: no mask token, no history, no details."""

    info = EngineInfo("talker")

    def __init__(self, mask, text="Here is the cup."):
        self.regions, self.text, self.asks = [] if mask is None else [Region(crop_mask(mask), 0.5)], text, []

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        self.asks.append(ask)
        return Answer(self.text, self.regions)


def test_any_engine_is_evaluated_without_knowing_its_tokens():
    truth = np.zeros((10, 10), bool)
    truth[2:6, 2:6] = True
    turns = (ExampleTurn("the cup", "It is the cup, [SEG]."), ExampleTurn("why?", "It is, [SEG].", verbatim=" why? "))
    question = Question("name", turns, False, names=("cup",))
    picture = Picture("0", np.zeros((10, 10, 3), np.uint8), [Example(question, truth.astype(np.uint8))])
    engine = Talker(truth)
    (outcome,) = run.evaluate(SupportedEngine(engine), [picture])
    assert (outcome.found, outcome.drawn, outcome.named) == (True, True, True)
    assert outcome.free.iou > 0.99
    assert (outcome.forced, outcome.cut, outcome.to_mask_s) == (None, None, None)
    assert [(ask.text, ask.verbatim) for ask in engine.asks] == [("the cup", False), (" why? ", True)]
    report = summarise([outcome])
    assert report["cut"] is None
    assert report["teacher_forced"]["n"] == 0
    assert "cut off" not in table(report)


def test_a_region_without_a_pixel_is_found_and_not_drawn():
    picture = Picture("0", np.zeros((10, 10, 3), np.uint8), [_example(np.ones((10, 10)))])
    (empty,) = run.evaluate(SupportedEngine(Talker(np.zeros((10, 10), bool))), [picture])
    (none,) = run.evaluate(SupportedEngine(Talker(None)), [picture])
    assert (empty.found, empty.drawn) == (True, False)
    assert (none.found, none.drawn, none.named, none.to_mask_s) == (False, False, False, None)
    assert empty.to_mask_s > 0  # measured where the engine gives no timings


def test_an_engine_in_one_file_is_evaluated_from_the_command_line(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository / "examples")
    rgb = np.full((60, 80, 3), 120, np.uint8)
    rgb[10:30, 20:50] = (220, 20, 20)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    corners = [[20, 10], [49, 10], [49, 29], [20, 29]]
    label = {"text": ["the red thing"], "is_sentence": False, "shapes": [{"label": "target", "points": corners}]}
    (tmp_path / "a.json").write_text(json.dumps(label))
    report = tmp_path / "report.json"
    arguments = ["--data", str(tmp_path), "--model", "colour_engine:load", "--json", str(report)]
    assert cli.main(["evaluate", *arguments]) == 0
    scores = json.loads(report.read_text())
    assert (scores["model"], scores["device"], scores["n"]) == ("colours", "cpu", 1)
    assert scores["gIoU"] > 0.99
    assert scores["teacher_forced"] == {"gIoU": None, "cIoU": None, "n": 0}


def _example(truth, answer="", objects=()):
    return Example(Question("name", (ExampleTurn("the cup", answer),), False), truth.astype(np.uint8), list(objects))


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
    engine = load_engine(device="cpu", precision="fp32")
    (cut,) = run.evaluate(engine, [picture], forced=False)
    monkeypatch.undo()
    (whole,) = run.evaluate(engine, [picture], forced=False)
    assert cut.cut and not whole.cut


def test_a_score_that_was_not_measured_is_null(outcomes):
    report = summarise([replace(one, forced=None) for one in outcomes])
    assert report["teacher_forced"] == {"gIoU": None, "cIoU": None, "n": 0}
    assert "teacher-forced" not in table(report)


def _true_answer(name):
    return Question(name, (ExampleTurn("the cup", "It is the cup, [SEG]."),), False)


@pytest.fixture(scope="module")
def frame_of(repository):
    """A golden picture encoded by the golden checkpoint, asked in a conversation template."""
    rgb = cv2.cvtColor(cv2.imread(str(repository / "test/golden/wide.png")), cv2.COLOR_BGR2RGB)

    def frame(conversation):
        folder = repository / "test/golden/ckpt"
        engine = load_engine(folder, "cpu", "fp32", {"conversation": conversation})
        return engine, engine.encode(rgb), rgb.shape[:2]

    return frame


def test_a_teacher_forced_answer_uses_the_conversation_that_the_engine_was_loaded_with(frame_of):
    """The option holds for both scores, not only for free generation."""
    masks = []
    for conversation in ("llava_v1", "compact"):
        engine, encoded, size = frame_of(conversation)
        example = Example(_true_answer("name"), np.ones(size, np.uint8))
        masks.append(run.forced_mask(engine, encoded, example))
    assert masks[0].shape == masks[1].shape == size
    assert not np.array_equal(*masks)


def test_specks_are_removed_from_teacher_forced_masks_as_from_free_ones(frame_of):
    engine, encoded, size = frame_of("llava_v1")
    example = Example(_true_answer("name"), np.ones(size, np.uint8))
    engine.engine.spec = replace(engine.engine.spec, smallest_part=0.0)
    raw = run.forced_mask(engine, encoded, example)
    engine.engine.spec = replace(engine.engine.spec, smallest_part=1.0)
    clean = run.forced_mask(engine, encoded, example)
    parts = [cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in (raw, clean)]
    assert parts[0] > 1, "the golden mask has one part: nothing is tested"
    assert parts[1] == 1
    assert not (clean & ~raw).any()


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
    question = replace(outcomes[0].question, turns=(ExampleTurn("<b>the cup</b>", ""),))
    html = gallery_of([replace(outcomes[0], question=question), *outcomes[1:]])
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
    assert f"{picture.name} cannot be read" in caplog.text


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
        (("--data", "scenes", "--option", "x"), "option 'x' is not name=value"),
    ],
)
def test_what_would_fail_later_fails_before_the_model_is_loaded(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes", 2)
    silent = write_scenes(tmp_path / "silent", 2) / "scenes.jsonl"
    lines = [json.loads(line) | {"conversations": []} for line in silent.read_text().splitlines()]
    silent.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(lisa_ros, "load_engine", lambda *_, **__: pytest.fail("the model was loaded"), raising=False)
    assert cli.main(["evaluate", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_that_leaves_nothing_is_wrong_usage(tmp_path, capsys, limit):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "--data", str(tmp_path), "--limit", limit])
    assert f"'{limit}' is not a whole number from 1 up" in capsys.readouterr().err
