"""Scores against what the masks mark, and the calibration that corrects them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lisa_ros import cli, load_engine
from lisa_ros.engine.api import Answer, Ask, EngineInfo, Region, Regions, crop_mask
from lisa_ros.engine.calibration import Calibration, read_calibration
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError
from lisa_ros.evaluation.reliability import ScoredMask, fit, reliability, reliability_table, score_mask

scores = st.floats(0, 1)
calibrations = st.builds(Calibration, st.floats(0.01, 100), st.floats(-10, 10))


def box(left: int, right: int) -> np.ndarray:
    mask = np.zeros((10, 20), bool)
    mask[2:6, left:right] = True
    return mask


def region(mask: np.ndarray, score: float = 0.9) -> Region:
    return Region(crop_mask(mask), score)


def drawn(count: int, temperature: float, bias: float, seed: int = 0) -> list[ScoredMask]:
    """Masks whose chance to be right is known."""
    rng = np.random.default_rng(seed)
    truth = Calibration(temperature, bias)
    given = rng.uniform(0.02, 0.98, count)
    return [ScoredMask(score, 0.5, bool(rng.random() < truth.probability(score))) for score in given]


# --- what a mask marks


@pytest.mark.parametrize(
    ("left", "right", "iou", "on_target"),
    [(0, 4, 1.0, True), (0, 2, 0.5, True), (0, 8, 0.5, True), (0, 9, 4 / 9, False), (10, 14, 0.0, False)],
)
def test_a_mask_is_right_where_half_of_it_is_on_the_target(left: int, right: int, iou: float, on_target: bool) -> None:
    scored = score_mask(region(box(left, right)), box(0, 4).astype(np.uint8))
    assert scored == ScoredMask(0.9, pytest.approx(iou), on_target)


def test_ignored_pixels_count_neither_way() -> None:
    truth = box(0, 4).astype(np.uint8)
    truth[box(4, 20)] = 255
    assert score_mask(region(box(0, 20)), truth) == ScoredMask(0.9, 1.0, True)
    assert score_mask(region(box(4, 20)), truth) == ScoredMask(0.9, 0.0, False)


def test_a_mask_of_one_of_several_targets_is_compared_with_that_one() -> None:
    objects = [box(0, 4), box(8, 12), box(14, 18)]
    truth = (objects[0] | objects[1]).astype(np.uint8)
    assert score_mask(region(objects[1]), truth, objects) == ScoredMask(0.9, 1.0, True)
    assert score_mask(region(objects[2]), truth, objects) == ScoredMask(0.9, 0.0, False)
    assert score_mask(region(objects[1]), truth).iou == 0.5  # nobody knows the objects


def test_a_mask_for_an_absent_target_is_wrong() -> None:
    assert score_mask(region(box(0, 4)), np.zeros((10, 20), np.uint8)) == ScoredMask(0.9, 0.0, False)


# --- the table


def test_bins_have_the_means_of_their_masks_and_the_error_is_their_distance() -> None:
    masks = [ScoredMask(1.0, 0.8, True), ScoredMask(0.92, 0.0, False), ScoredMask(0.05, 0.1, False)]
    report = reliability(masks)
    low, high = report["bins"]
    assert (low["from"], low["n"], low["right"], low["iou"]) == (0.0, 1, 0.0, 0.1)
    assert (high["from"], high["n"], high["right"], high["iou"], high["score"]) == (0.9, 2, 0.5, 0.4, 0.96)
    assert report["error_right"] == pytest.approx((2 * 0.46 + 0.05) / 3, abs=1e-4)
    assert report["error_iou"] == pytest.approx((2 * 0.56 + 0.05) / 3, abs=1e-4)
    lines = reliability_table(report)
    assert lines[2].split() == ["0.9", "to", "1.0", "2", "0.96", "50.0%", "0.40"]
    assert "0.323 for the right object" in lines[-1]


def test_without_masks_there_is_no_table() -> None:
    report = reliability([])
    assert (report["n"], report["bins"], report["error_right"]) == (0, [], None)
    assert reliability_table(report) == []


# --- the fit


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (3.0, -1.0), (0.5, 1.0)])
def test_the_fit_finds_what_the_masks_were_drawn_from(temperature: float, bias: float) -> None:
    found = fit(drawn(20_000, temperature, bias))
    assert found == (pytest.approx(temperature, rel=0.1), pytest.approx(bias, abs=0.1))


def test_a_fit_makes_new_masks_reliable() -> None:
    """Scores of 0.84 to 0.99 of which a third is right."""
    rng = np.random.default_rng(1)

    def overconfident(count: int) -> list[ScoredMask]:
        return [ScoredMask(score, 0.3, bool(rng.random() < 0.33)) for score in rng.uniform(0.84, 0.99, count)]

    calibration = Calibration(*fit(overconfident(500)))
    new = overconfident(500)
    corrected = [ScoredMask(calibration.probability(mask.score), mask.iou, mask.right) for mask in new]
    assert reliability(new)["error_right"] > 0.5
    assert reliability(corrected)["error_right"] < 0.08


@given(st.lists(st.builds(ScoredMask, scores, scores, st.booleans()), min_size=1, max_size=30))
def test_any_masks_give_a_finite_calibration_that_keeps_the_order(masks: list[ScoredMask]) -> None:
    temperature, bias = fit(masks)
    assert 0 < temperature <= 100.0001
    assert math.isfinite(bias)
    calibration = Calibration(temperature, bias)
    ordered = [calibration.probability(score) for score in sorted(mask.score for mask in masks)]
    assert ordered == sorted(ordered)


@given(calibrations, scores, scores)
def test_a_calibrated_score_is_a_probability_and_grows_with_the_score(calibration, one: float, other: float) -> None:
    low, high = calibration.probability(min(one, other)), calibration.probability(max(one, other))
    assert 0 <= low <= high <= 1


# --- the engine


class Sure:
    info = EngineInfo("sure")

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        regions = [Region(crop_mask(encoded[:, :, 0] > 128), 0.95)]
        if on_event:
            on_event(Regions(regions))
        return Answer("It is there.", regions)


def test_events_and_answer_have_calibrated_scores() -> None:
    calibration, events = Calibration(2.0, -1.0), []
    engine = SupportedEngine(Sure(), calibration)
    rgb = np.full((8, 8, 3), 200, np.uint8)
    answer = engine.ask(engine.encode(rgb), Ask("x"), on_event=events.append)
    assert answer.regions[0].score == calibration.probability(0.95)
    assert events[0].regions[0] is answer.regions[0]


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Calibration(2.5, -0.5, 100, 0.4, "data", "model")
    written.write(tmp_path / "calibration.json")
    there = read_calibration(tmp_path)
    assert (there.temperature, there.bias, there.model) == (2.5, -0.5, "model")
    assert read_calibration(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "{}",
        '{"temperature": 0, "bias": 0}',
        '{"temperature": "1", "bias": 0}',
        '{"temperature": 1, "bias": NaN}',
    ],
)
def test_a_damaged_calibration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"calibration\.json"):
        read_calibration(tmp_path)


# --- the verb

ENGINE = '''
import numpy as np
from lisa_ros.engine.api import Answer, EngineInfo, Region, crop_mask


class Sure:
    """Marks what is bright, always sure of itself."""
    info = EngineInfo("sure")

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        score = 0.85 + 0.1 * float(encoded[0, 0, 2]) / 255
        return Answer("There.", [Region(crop_mask(encoded[:, :, 0] > 128), score)])


def load(*, model, device, precision, options, progress):
    return Sure()
'''


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of an installed engine that is right for every third picture, and sure each time."""
    site = tmp_path / "site"
    about = site / "sure-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "sure_engine.py").write_text(ENGINE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sure\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lisa_ros.engines]\nsure = sure_engine:load\n")
    monkeypatch.syspath_prepend(site)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "engine.json").write_text('{"engine": "sure"}')
    return folder


def write_pictures(folder: Path, count: int) -> Path:
    """ReasonSeg's pairs: the bright square is what is meant in every third."""
    folder.mkdir()
    for number in range(count):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[10:30, 10:30] = 255
        pixels[..., 2] = number * 5 % 256
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
        left = 10 if number % 3 == 0 else 40
        points = [[left, 10], [left + 19, 10], [left + 19, 29], [left, 29]]
        shapes = [{"label": "target", "points": points}]
        content = {"text": ["the square"], "is_sentence": False, "shapes": shapes}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


def test_a_calibrated_model_tells_how_often_it_is_right(model: Path, tmp_path: Path, capsys) -> None:
    data = write_pictures(tmp_path / "data", 60)
    report = tmp_path / "report.json"
    evaluate = ["evaluate", "--data", str(data), "--model", str(model), "--json", str(report)]
    assert cli.main(evaluate) == 0
    before = json.loads(report.read_text())["reliability"]
    assert before["error_right"] > 0.5
    assert "calibration error of the score" in capsys.readouterr().out
    for _ in range(2):  # again: the raw scores are fitted, not the calibrated ones
        assert cli.main(["calibrate", "--data", str(data), "--model", str(model)]) == 0
        content = json.loads((model / "calibration.json").read_text())
        assert (content["masks"], content["right"], content["model"], content["data"]) == (60, 0.3333, "sure", "data")
        assert "after calibration, on masks that it was not fitted to: 0.0" in capsys.readouterr().out
    assert cli.main(evaluate) == 0
    after = json.loads(report.read_text())["reliability"]
    assert after["error_right"] < 0.1
    engine = load_engine(model)
    answer = engine.ask(engine.encode(np.full((8, 8, 3), 255, np.uint8)), Ask("x"))
    assert answer.regions[0].score == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the bundled demo model is not changed"),
        ("http://box:8000", "is a server; run lisa calibrate there"),
        ("os:abort", "has no folder to store a calibration in"),
    ],
)
def test_a_model_without_a_folder_is_refused_before_it_is_loaded(name: str, message: str, capsys) -> None:
    assert cli.main(["calibrate", "--data", "/nowhere", "--model", name]) == 1
    assert message in capsys.readouterr().err


def test_too_few_masks_are_refused(model: Path, tmp_path: Path, capsys) -> None:
    data = write_pictures(tmp_path / "data", 10)
    assert cli.main(["calibrate", "--data", str(data), "--model", str(model)]) == 1
    assert "gave 10 masks; at least 50 are needed" in capsys.readouterr().err
    assert not (model / "calibration.json").exists()
