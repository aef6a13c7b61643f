"""The self-test of engines: what it says about good, poor and broken ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from lisa_ros.cli import main
from lisa_ros.engine.api import EXPLAIN, Answer, Ask, EngineInfo, Region, crop_mask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Cancelled, NotReady
from lisa_ros.evaluation.self_check import (
    PHOTOGRAPHS,
    PICTURES,
    SQUARES,
    Place,
    SelfCheck,
    Verdict,
    coordinate_faults,
    row,
    self_check,
    table,
)


class Knowing:
    """An engine that knows the truth of every picture, and can be made to err."""

    info = EngineInfo("knowing", capabilities=frozenset({EXPLAIN}))

    def __init__(self) -> None:
        self.truths = {}
        for photograph in PHOTOGRAPHS:
            targets = {command: photograph.truth(value) for command, value in photograph.targets.items()}
            self.truths[photograph.rgb().tobytes()] = targets
        for square in SQUARES:
            self.truths[square.rgb().tobytes()] = {"the red square": square.truth()}

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask: Ask, on_event=None, should_stop=None, details=False) -> Answer:
        truth = self.truths[encoded.tobytes()].get(ask.text)
        while should_stop is not None and ask.explain:  # the command that is canceled
            if should_stop():
                raise Cancelled("stopped")
            time.sleep(0.001)
        return self.answer(truth, encoded, ask)

    def answer(self, truth, rgb, ask: Ask) -> Answer:
        return Answer("there", [Region(crop_mask(truth), 0.9)]) if truth is not None else Answer("not there")


class Scaled(Knowing):
    """Its x are told in another frame."""

    def answer(self, truth, rgb, ask: Ask) -> Answer:
        if truth is None:
            return Answer("not there")
        width = truth.shape[1]
        columns = (np.arange(width) / 0.5).astype(int)
        moved = np.where(columns < width, truth[:, np.minimum(columns, width - 1)], False)
        return Answer("there", [Region(crop_mask(moved), 0.9)])


class Eager(Knowing):
    """Draws what is not there."""

    def answer(self, truth, rgb, ask: Ask) -> Answer:
        return super().answer(truth if truth is not None else np.ones(rgb.shape[:2], bool), rgb, ask)


class Failing(Knowing):
    def answer(self, truth, rgb, ask: Ask) -> Answer:
        if "red" in ask.text:
            raise NotReady("the server is gone; start it again")
        raise ZeroDivisionError("in the engine")


class Deaf(Knowing):
    """Answers a command that was canceled, late."""

    def ask(self, encoded, ask: Ask, on_event=None, should_stop=None, details=False) -> Answer:
        if ask.explain:
            should_stop()
            time.sleep(2.2)
            should_stop()
        return self.answer(self.truths[encoded.tobytes()].get(ask.text), encoded, ask)


def check(engine: Knowing) -> SelfCheck:
    return self_check(SupportedEngine(engine))


def test_an_engine_that_knows_everything_is_usable() -> None:
    lines = []
    result = self_check(SupportedEngine(Knowing()), lines.append)
    assert result.whole == Verdict.GOOD
    assert result.lines == lines
    assert all(line.verdict == Verdict.GOOD for line in lines)
    assert all(line.iou > 0.999 for line in lines if line.iou is not None)
    assert result.remarks == []
    assert table(result).endswith("=> usable on this machine")


def test_coordinates_of_another_frame_are_named() -> None:
    result = check(Scaled())
    assert result.whole == Verdict.POOR
    assert result.verdict("square") == Verdict.POOR
    assert len(result.remarks) == 1
    assert "x is scaled by 0.50" in result.remarks[0]
    assert "set the option dialect" in table(result)


SIZES = [(640, 480), (1280, 720), (360, 640), (512, 512)]
TRUE = [(0.2, 0.3), (0.8, 0.6), (0.5, 0.5), (0.3, 0.9)]


def places(moved) -> list[Place]:
    """Squares at ``TRUE``, found where ``moved(size, true)`` says."""
    pairs = [(np.array(size, float), np.array(true)) for size, true in zip(SIZES, TRUE, strict=True)]
    return [Place(size, true, moved(size, true)) for size, true in pairs]


def test_a_shift_is_named_and_scattered_places_are_not() -> None:
    assert "y is shifted by +20%" in coordinate_faults(places(lambda size, true: true + np.array([0, 0.2])))[0]
    assert coordinate_faults(places(lambda size, true: true + 0.01)) == []
    assert coordinate_faults(places(lambda size, true: 1 - true[::-1])) == []
    assert coordinate_faults(places(lambda size, true: true / 2)[:2]) == []


def test_pixels_read_as_shares_and_the_other_way_round_are_named() -> None:
    def seen(size):
        return size * min(1.0, 1024 / size.max())  # a model sees no larger picture

    for moved in (lambda size, true: true * seen(size) / 1000, lambda size, true: true * 1000 / seen(size)):
        (fault,) = coordinate_faults(places(moved))
        assert "scaled by the size of the picture" in fault


def test_masks_of_what_is_not_there_are_poor() -> None:
    result = check(Eager())
    assert (result.whole, result.verdict("absent"), result.verdict("photograph")) == (
        Verdict.POOR,
        Verdict.POOR,
        Verdict.GOOD,
    )
    assert "1 mask of what is not there" in "\n".join(map(row, result.lines))


def test_errors_are_results_with_their_words() -> None:
    result = check(Failing())
    assert result.whole == Verdict.BROKEN
    words = {line.words for line in result.lines if line.verdict == Verdict.BROKEN}
    assert words == {"the server is gone; start it again", "ZeroDivisionError: in the engine"}


def test_a_cancel_that_is_not_heeded_is_poor() -> None:
    result = check(Deaf())
    assert (result.whole, result.verdict("cancel")) == (Verdict.POOR, Verdict.POOR)
    assert "to stop" in result.lines[-1].words


def test_the_command_prints_a_table_and_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    assert main(["check", f"{__name__}:load_knowing", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "the coffee cup (coffee)" in printed
    assert "=> usable" in printed
    content = json.loads(out.read_text())
    assert content["verdict"] == "good"
    assert len(content["checks"]) == 15
    assert main(["check", f"{__name__}:load_failing"]) == 1
    assert "ZeroDivisionError: in the engine" in capsys.readouterr().out


def load_knowing(*, model, device, precision, options, progress):
    return Knowing()


def load_failing(*, model, device, precision, options, progress):
    return Failing()


def test_the_demo_model_works_and_knows_no_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "cpu"]) == 3
    assert "broken" not in capsys.readouterr().out


def test_every_picture_has_masks_and_an_author() -> None:
    credits = (PICTURES / "CREDITS.md").read_text("utf-8")
    for photograph in PHOTOGRAPHS:
        assert f"`{photograph.name}.jpg`" in credits
        for value in photograph.targets.values():
            truth = photograph.truth(value)
            assert truth.shape == photograph.rgb().shape[:2]
            assert 500 < truth.sum() < truth.size / 2
