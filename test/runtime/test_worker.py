"""The worker process: commands in, events out, and nothing left behind however it ends."""

import errno
import logging
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import psutil
import pytest
import standin
from machine_speed import limit

from lisa_ros.errors import Cancelled, CheckpointError, LisaError, OutOfMemory
from lisa_ros.runtime import worker
from lisa_ros.runtime.frame_memory import FrameMemory
from lisa_ros.runtime.worker import (
    Answering,
    Cancel,
    Command,
    Died,
    Done,
    Failed,
    ForgetSessions,
    Found,
    LoadFailed,
    Loading,
    Ready,
    Staged,
    Worker,
    WorkerSettings,
)
from lisa_ros.runtime.worker_process import as_lisa_error

SIZE = (60, 80)
HERE = os.path.dirname(os.path.dirname(__file__))
LIMIT_S = limit(30.0)


class Bench:
    """A worker and what it says."""

    def __init__(self, **settings):
        self.memory = FrameMemory(100 * 100)
        self.events = queue.Queue()
        settings = {"checkpoint": "/models/standin", "segmenter": "standin:load", "first_pause_s": 0.05, **settings}
        self.worker = Worker(WorkerSettings(**settings), self.memory, self.events.put)
        self.worker.start()

    def until(self, *kinds):
        """Events up to and including the first of ``kinds``."""
        events = [self.events.get(timeout=LIMIT_S)]
        while not isinstance(events[-1], kinds):
            events.append(self.events.get(timeout=LIMIT_S))
        return events

    def ask(self, text, value=200, **fields):
        """Everything that one command leads to."""
        pixels = self.memory.pixels(SIZE)
        pixels[:] = 0
        pixels[10:20, 30:50] = value
        self.worker.send(Command("id", text, SIZE, **fields))
        return self.until(Done, Failed, Died)


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def make():
    benches = []

    def make(**settings):
        benches.append(Bench(**settings))
        return benches[-1]

    yield make
    for bench in benches:
        bench.worker.close()
        bench.memory.close()


@pytest.fixture
def bench(make):
    bench = make()
    bench.until(Ready)
    return bench


def test_loading_is_reported_until_ready(make):
    events = make().until(Ready)
    progress = [event.progress for event in events[:-1]]
    assert all(isinstance(event, Loading) for event in events[:-1])
    assert (progress, progress[-1]) == (sorted(progress), 1.0)
    assert (events[-1].name, events[-1].device, events[-1].precision) == ("stand-in", "cpu", "fp32")


def test_a_command_is_answered_by_stages_words_masks_and_the_end(bench):
    events = bench.ask("the box")
    stages = [event.name for event in events if isinstance(event, Staged)]
    assert stages == ["encoding", "reading", "generating", "decoding", "generating"]
    [found] = [event for event in events if isinstance(event, Found)]
    [crop] = found.crops
    assert (crop.x, crop.y, crop.width, crop.height, crop.area) == (30, 10, 20, 10, 200)
    assert (crop.pixels == 255).all()
    words = [event.text for event in events if isinstance(event, Answering)]
    assert all(events[-1].answer.startswith(text) for text in words)
    assert events[-1].crops == []  # sent before: a mask crosses the pipe once
    assert events.index(found) < len(events) - 2


def test_a_model_is_warm_before_it_is_ready_and_ready_although_its_warm_up_fails(make, monkeypatch):
    answered = make()
    answered.until(Ready)
    assert answered.ask("the box")[-1].answer.endswith("frame 2")  # frame 1 was the warm-up's
    monkeypatch.setenv("STANDIN_FAILS_ON", "the object")
    failing = make()
    failing.until(Ready)
    assert isinstance(failing.ask("the box")[-1], Done)


def test_a_mask_is_sent_once_however_many_follow(bench):
    found = [event for event in bench.ask("twice") if isinstance(event, Found)]
    assert [[crop.label for crop in event.crops] for event in found] == [[1], [2]]


def test_a_frame_is_encoded_once_and_the_oldest_is_forgotten(make):
    bench = make(kept_frames=2)
    bench.until(Ready)

    def encodings(value):
        return int(bench.ask("the box", value)[-1].answer.rsplit(" ", 1)[1])

    assert [encodings(value) for value in (200, 200, 201, 200, 202, 201)] == [2, 2, 3, 3, 4, 5]  # 1: the warm-up


def test_the_first_mask_is_timed_from_the_start_of_the_work(bench):
    def timings(text):
        pixels = bench.memory.pixels(SIZE)
        pixels[:] = 200
        pixels[0, 0, 0] = standin.SLOW_RED
        bench.worker.send(Command("id", text, SIZE))
        return bench.until(Done)[-1].timings

    first, again, nothing = timings("the box"), timings("the box"), timings("nothing")
    assert standin.SLOW_S <= first.encode_s < first.first_mask_s
    assert 0 == again.encode_s < again.first_mask_s < standin.SLOW_S
    assert nothing.first_mask_s == 0


def test_no_frame_is_kept_where_none_shall_be(make):
    bench = make(kept_frames=0)
    bench.until(Ready)
    assert [bench.ask("the box")[-1].answer[-1] for _ in range(2)] == ["2", "3"]


def test_what_a_command_found_is_not_touched_by_the_next_frame(bench):
    first = bench.ask("the box")
    bench.memory.pixels(SIZE)[:] = 255
    assert [e.crops[0].area for e in first if isinstance(e, Found)] == [200]
    again = bench.ask("the box")
    assert [e.crops[0].area for e in again if isinstance(e, Found)] == [200]


def test_sessions_are_remembered_bounded_and_forgotten(make):
    bench = make(max_sessions=2)
    bench.until(Ready)

    def turn(session):
        answer = bench.ask("the box", session=session)[-1].answer
        return int(answer.split("turn ")[1].split()[0]) if "turn" in answer else None

    assert [turn(session) for session in ("a", "a", "b", "", "c", "b", "a")] == [0, 1, 0, None, 0, 1, 0]
    bench.worker.send(ForgetSessions())
    assert turn("b") == 0


def test_a_cancel_stops_at_the_next_token_and_the_worker_goes_on(bench):
    bench.worker.send(Command("id", "slow box", SIZE))
    bench.until(Answering)
    bench.worker.send(Cancel("id"))
    events = bench.until(Done, Failed)
    assert isinstance(events[-1].error, Cancelled)
    assert len(events) < 20
    bench.worker.send(Command("next", "the box", SIZE))
    assert isinstance(bench.until(Done, Failed)[-1], Done)


def test_a_cancel_of_another_command_changes_nothing(bench):
    bench.worker.send(Cancel("another"))
    assert isinstance(bench.ask("the box")[-1], Done)


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        ("eat all memory", OutOfMemory, "no memory for this image"),
        ("eat python memory", OutOfMemory, "out of memory"),
        ("raise", LisaError, "RuntimeError: a fault"),
    ],
)
def test_an_error_is_answered_and_survived(bench, command, kind, says):
    pid = bench.worker.pid
    failed = bench.ask(command)[-1]
    assert type(failed.error) is kind
    assert says in str(failed.error)
    assert isinstance(bench.ask("the box")[-1], Done)
    assert bench.worker.pid == pid


def test_out_of_memory_lets_go_of_what_was_kept(bench):
    bench.ask("the box")
    bench.ask("eat all memory")
    assert bench.ask("the box")[-1].answer.endswith("frame 3")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), OutOfMemory),
        (type("Mine", (CheckpointError,), {})("keys"), CheckpointError),
        (KeyError("x"), LisaError),
    ],
)
def test_any_error_becomes_one_that_can_be_sent(error, kind):
    assert type(as_lisa_error(error, "loading")) is kind


@pytest.mark.parametrize(("command", "cause"), [("kill yourself", "SIGKILL"), ("segfault", "SIGSEGV")])
def test_a_dead_worker_is_started_again(bench, command, cause):
    died = bench.ask(command)[-1]
    assert cause in died.cause
    bench.until(Ready)
    assert isinstance(bench.ask("the box")[-1], Done)


@pytest.mark.parametrize(
    ("name", "says"),
    [("_spawn", "Cannot allocate memory"), ("Pipe", "Too many open files"), ("at once", "before it ran")],
)
def test_a_worker_that_cannot_be_started_now_is_tried_again(make, monkeypatch, name, says):
    """Short of memory, short of files, or a process that is gone before it gets its settings."""
    spawn, failures = worker._spawn, iter(range(2))

    def fail(*_):
        if next(failures, None) is None:
            monkeypatch.undo()
            monkeypatch.syspath_prepend(HERE)
            return original(*_)
        if name == "at once":
            process = subprocess.Popen(["true"])
            process.wait()
            return process
        raise OSError(errno.ENOMEM if name == "_spawn" else errno.EMFILE, says)

    original = worker.Pipe if name == "Pipe" else spawn
    monkeypatch.setattr(worker, "Pipe" if name == "Pipe" else "_spawn", fail)
    bench = make(first_pause_s=0.01)
    died = [event for event in bench.until(Ready) if isinstance(event, Died)]
    assert [(says in event.cause, event.pause_s) for event in died] == [(True, 0.01), (True, 0.02)]
    assert isinstance(bench.ask("the box")[-1], Done)


def test_a_fault_of_our_own_is_said_not_waited_for(make, monkeypatch):
    monkeypatch.setattr(worker, "_spawn", lambda *_: 1 // 0)
    error = make().until(LoadFailed)[-1].error
    assert "ZeroDivisionError" in str(error)


def test_a_robot_does_not_wait_longer_from_death_to_death(make, monkeypatch):
    monkeypatch.setattr(worker, "LONGEST_PAUSE_S", 0.03)
    events = make(checkpoint="/models/mortal", first_pause_s=0.01).until(LoadFailed)
    assert [event.pause_s for event in events if isinstance(event, Died)] == [0.01, 0.02, 0.03, 0.03]
    events = make(checkpoint="/models/mortal", first_pause_s=0.05).until(LoadFailed)
    assert [event.pause_s for event in events if isinstance(event, Died)] == [0.05] * 4


def test_a_worker_that_keeps_dying_is_given_up(make):
    events = make(checkpoint="/models/mortal", first_pause_s=0.01).until(LoadFailed)
    pauses = [event.pause_s for event in events if isinstance(event, Died)]
    assert pauses == [0.01, 0.02, 0.04, 0.08]
    assert "5 times" in str(events[-1].error)


def test_a_checkpoint_that_cannot_be_loaded_is_not_tried_again(make):
    bench = make(checkpoint="/models/missing")
    assert isinstance(bench.until(LoadFailed)[-1].error, CheckpointError)
    bench.worker._thread.join(LIMIT_S)
    assert bench.worker.pid is None
    assert bench.events.empty()


def test_a_segmenter_that_cannot_be_imported_says_so(make):
    error = make(segmenter="no_such_module:load").until(LoadFailed)[-1].error
    assert "no_such_module" in str(error)


def test_what_the_worker_logs_is_logged_here(bench, caplog):
    with caplog.at_level(logging.WARNING):
        bench.ask("log the box")
    assert ("lisa_ros.lisa.segmenter", logging.WARNING, "logged by the worker") in caplog.record_tuples


def test_the_longest_command_is_sent_without_waiting_for_a_worker_that_stands_still(bench):
    os.kill(bench.worker.pid, signal.SIGSTOP)
    command = Command("id", "\U0001f600" * 10_000, SIZE)  # the most that max_command_length may allow
    sending = threading.Thread(target=bench.worker.send, args=(command,), daemon=True)
    sending.start()
    sending.join(LIMIT_S)
    assert not sending.is_alive()
    os.kill(bench.worker.pid, signal.SIGCONT)
    assert isinstance(bench.until(Done, Failed)[-1], Done)


def test_closing_ends_the_process_in_the_middle_of_a_command(bench):
    process = psutil.Process(bench.worker.pid)
    bench.worker.send(Command("id", "hang", SIZE))
    bench.until(Staged)
    bench.worker.close()
    assert not process.is_running()


def test_nothing_is_left_and_nothing_is_said_however_a_worker_ends(tmp_path):
    """In an interpreter of its own, since resource trackers speak at exit; with kills of both processes in between."""
    program = textwrap.dedent(
        """
        import os, queue, sys
        from machine_speed import limit
        from lisa_ros.runtime.frame_memory import FrameMemory
        from lisa_ros.runtime.worker import *
        events = queue.Queue()
        memory = FrameMemory(1000)
        worker = Worker(WorkerSettings("/m/standin", segmenter="standin:load", first_pause_s=0.01), memory, events.put)
        worker.start()
        for _ in range(3):
            while not isinstance(events.get(timeout=limit(30)), Ready):
                pass
            os.kill(worker.pid, 9)
        while not isinstance(events.get(timeout=limit(30)), Ready):
            pass
        if sys.argv[1] == "close":
            worker.close()
        else:
            print(worker.pid, flush=True)
            os.kill(os.getpid(), 9)
        """
    )

    def shared() -> set[str]:
        """What lies in the shared memory; of Fast DDS only other programs leave something."""
        return {name for name in os.listdir("/dev/shm") if "fastrtps" not in name and "fastdds" not in name}

    before = shared()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([os.path.dirname(HERE), HERE, *sys.path]))
    for end in ("close", "kill"):
        run = subprocess.run(
            [sys.executable, "-c", program, end],
            capture_output=True,
            text=True,
            env=environment,
            timeout=limit(60),
            check=False,
        )
        assert run.stderr == ""
        assert run.returncode == (0 if end == "close" else -9)
    orphan = int(run.stdout)
    if psutil.pid_exists(orphan):
        psutil.Process(orphan).wait(LIMIT_S)
    assert shared() <= before


def test_the_parent_does_not_import_torch():
    program = "import lisa_ros.runtime.worker, sys; assert 'torch' not in sys.modules and 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=os.path.dirname(HERE))


def test_frame_memory_costs_only_what_is_written():
    memory = FrameMemory(1_000_000_000)
    before = psutil.Process().memory_info().rss
    memory.pixels((480, 640))[:] = 1
    assert psutil.Process().memory_info().rss - before < 5_000_000
    np.testing.assert_array_equal(memory.pixels((2, 2)), 1)
    memory.close()
