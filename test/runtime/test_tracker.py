"""A tracker in a process of its own gives what it gives here; and nothing is left of it however it ends."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from machine_speed import Deadline

from lisa_ros.engine.api import crop_mask
from lisa_ros.errors import CheckpointError, ConfigError, LisaError
from lisa_ros.perception.tracking import FlowTracker, Tracked
from lisa_ros.runtime.tracker import TrackerProcess, sam2_video

FLOW = "lisa_ros.perception.tracking:FlowTracker"


def frame(number: int) -> tuple[np.ndarray, np.ndarray]:
    """rgb (120, 160, 3) uint8 of a square that moves over noise, and its mask (120, 160) bool."""
    rgb = np.random.default_rng(0).integers(0, 90, (120, 160, 3), dtype=np.uint8)
    mask = np.zeros((120, 160), bool)
    mask[40:80, 30 + 2 * number : 70 + 2 * number] = True
    rgb[mask] = np.random.default_rng(1).integers(120, 250, (1600, 3), dtype=np.uint8)
    return rgb, mask


def plain(tracked: list[Tracked]) -> list[tuple]:
    return [(one.id, one.state, one.confidence, one.crop.x, one.crop.y, one.crop.pixels.tobytes()) for one in tracked]


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[TrackerProcess]:
    tracker = TrackerProcess(getattr(request, "param", FLOW))
    yield tracker
    pid = tracker.pid
    tracker.close()
    assert pid is None or not psutil.pid_exists(pid)


def start(tracker, number: int = 0) -> None:
    rgb, mask = frame(number)
    tracker.start(rgb, [crop_mask(mask, 7, 0.9)], number / 30)


def wait_until(condition) -> None:
    end, pause = Deadline(20.0), threading.Event()
    while not condition():
        assert not end.passed()
        pause.wait(0.01)


def test_it_tracks_as_in_this_process(process: TrackerProcess) -> None:
    here = FlowTracker()
    for tracker in (process, here):
        start(tracker)
    for number in range(1, 5):
        rgb, mask = frame(number)
        if number == 3:
            for tracker in (process, here):
                tracker.redetect(rgb, [crop_mask(mask, 1, 0.9)], number / 30)
        theirs, ours = (tracker.update(rgb, number / 30) for tracker in (process, here))
        assert [one.id for one in ours] == [7]
        assert plain(theirs) == plain(ours)
    hidden = np.zeros_like(rgb)
    for number in range(5, 20):
        theirs, ours = (tracker.update(hidden, number / 30) for tracker in (process, here))
        assert (plain(theirs), process.wants_detection) == (plain(ours), here.wants_detection)
    assert process.wants_detection
    process.clear()
    assert process.update(rgb, 1.0) == []


def test_nothing_is_started_before_there_is_something_to_track(process: TrackerProcess) -> None:
    process.clear()
    assert process.pid is None


@pytest.mark.parametrize("process", ["nowhere:Tracker", "lisa_ros.errors:Nothing", "os"], indirect=True)
def test_a_tracker_that_cannot_be_made_says_why(process: TrackerProcess) -> None:
    with pytest.raises(ConfigError, match="give module:callable"):
        start(process)


def test_a_folder_without_a_model_is_an_error_with_the_remedy(tmp_path) -> None:
    tracker = sam2_video(str(tmp_path), device="cpu")
    with pytest.raises(CheckpointError, match="give the folder of a SAM 2"):
        start(tracker)
    tracker.close()


@pytest.mark.parametrize("process", ["standin_tracker:Broken"], indirect=True)
def test_an_exception_costs_one_call(process: TrackerProcess, caplog: pytest.LogCaptureFixture) -> None:
    start(process)
    pid = process.pid
    for _ in range(2):
        with pytest.raises(LisaError, match="the tracker failed: RuntimeError: this tracker is broken"):
            process.update(frame(1)[0], 0.1)
    assert process.pid == pid
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("process", ["standin_tracker:Talking"], indirect=True)
def test_what_it_logs_is_logged_here(process: TrackerProcess, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        start(process)
    assert "tracker: start" in caplog.text


@pytest.mark.parametrize("process", ["standin_tracker:Dying"], indirect=True)
def test_a_process_that_ends_is_said_and_started_again(process: TrackerProcess) -> None:
    start(process)
    first = process.pid
    with pytest.raises(LisaError, match="the tracker's process ended with exit code 3"):
        process.update(frame(1)[0], 0.1)
    start(process)
    assert process.pid not in (None, first)


def test_a_process_that_is_killed_between_two_calls_is_started_again(process: TrackerProcess) -> None:
    start(process)
    os.kill(process.pid, 9)
    with pytest.raises(LisaError, match="ended of SIGKILL"):
        process.update(frame(1)[0], 0.1)
    start(process)
    assert [one.id for one in process.update(frame(1)[0], 0.1)] == [7]


@pytest.mark.parametrize("process", ["standin_tracker:Hanging"], indirect=True)
def test_close_ends_a_call_that_waits(process: TrackerProcess) -> None:
    start(process)
    errors: list[Exception] = []

    def update() -> None:
        try:
            process.update(frame(1)[0], 0.1)
        except LisaError as error:
            errors.append(error)

    waiting = threading.Thread(target=update)
    waiting.start()
    child = psutil.Process(process.pid)
    wait_until(lambda: child.status() == psutil.STATUS_SLEEPING)
    process.close()
    waiting.join(Deadline(20.0).limit_s)
    assert not waiting.is_alive()
    assert "closed" in str(errors[0])
    with pytest.raises(LisaError, match="the tracker was closed; configure the node again"):
        start(process)
