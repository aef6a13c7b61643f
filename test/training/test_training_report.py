"""What a round of training tells: on a terminal, in the log, in its json and in TensorBoard."""

import io
import json
import logging
import re
import sys

import pytest

from lisa_ros.training import report
from lisa_ros.training.report import Report


def _round(report, first, last, answer):
    """A round of ``report`` in which every step comes to ``answer``."""
    for step in report.steps(first, last):
        report.add({"answer": answer}, pictures=8)
        if report.due(step + 1):
            report.write(step + 1, {"exact": 0.5} if step + 1 == last else {})


def test_a_run_that_goes_on_keeps_the_lines_of_the_stopped_one(tmp_path):
    path = tmp_path / "speech-0.json"
    _round(Report(path), 0, 100, answer=2.0)
    _round(Report(path), 50, 150, answer=1.0)  # from a checkpoint before step 100
    lines = json.loads(path.read_text())
    assert [(line["step"], line["answer"]) for line in lines] == [(50, 2.0), (100, 1.0), (150, 1.0)]
    _round(Report(path), 0, 60, answer=3.0)
    assert [line["step"] for line in json.loads(path.read_text())] == [50, 60]


def test_a_round_tells_its_losses_its_speed_and_the_time_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _round(Report(tmp_path / "speech-0.json"), 0, 70, answer=2.0)
    said = [record.getMessage() for record in caplog.records if " left: " in record.getMessage()]
    assert [re.match(r"speech-0, [\d.]+ minutes left: step (\d+) answer 2 ", line)[1] for line in said] == ["50", "70"]
    assert said[1].startswith("speech-0, 0.0 minutes left")
    last = json.loads((tmp_path / "speech-0.json").read_text())[-1]
    assert last["exact"] == 0.5 and last["pictures_per_s"] > 0 and last["wall_s"] >= 0


def test_a_round_shows_a_bar_on_a_terminal(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    _round(Report(tmp_path / "speech-0.json"), 10, 20, answer=2.0)
    bar = terminal.getvalue().split("\r")[-1]
    assert re.search(r"speech-0: 100%.* 20/20 \[.*step/s.*answer=2", bar)


def test_tensorboard_shows_a_round_and_forgets_steps_that_are_done_again(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = tmp_path / "speech-0.json"
    _round(Report(path), 0, 100, answer=2.0)
    _round(Report(path), 50, 150, answer=1.0)
    board = events.EventAccumulator(str(tmp_path / "log" / "speech-0")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("answer")] == [(50, 2.0), (100, 1.0), (150, 1.0)]
    assert {"exact", "pictures_per_s", "cpu_s"} <= set(board.Tags()["scalars"])


def test_a_round_without_tensorboard_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        _round(Report(tmp_path / "speech-0.json"), 0, 10, answer=2.0)
    assert "pip install 'lisa_ros[train]'" in caplog.text
    assert not (tmp_path / "log").exists()
