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

from lisa_ros.engine.api import Ask, EngineInfo
from lisa_ros.errors import Cancelled, CheckpointError, ConfigError, LisaError, OutOfMemory
from lisa_ros.runtime import worker
from lisa_ros.runtime.transport import SharedMemory, Ticket
from lisa_ros.runtime.worker import (
    Cancel,
    Command,
    Died,
    Done,
    Failed,
    ForgetSessions,
    LoadFailed,
    Loading,
    NewRegions,
    PartialText,
    Ready,
    StageBegan,
    Worker,
    WorkerSettings,
)
from lisa_ros.runtime.worker_process import as_lisa_error

SIZE = (60, 80)
HERE = os.path.dirname(os.path.dirname(__file__))
LIMIT_S = limit(30.0)


class Bench:
    """A worker and its events. options: of the stand-in."""

    def __init__(self, model="standin:load", **settings):
        self.transport = SharedMemory(100 * 100)
        self.events = queue.Queue()
        names = {"first_pause_s", "kept_frames", "max_sessions"}
        options = {name: settings.pop(name) for name in list(settings) if name not in names}
        settings = WorkerSettings(model, options, **{"first_pause_s": 0.05, **settings})
        self.worker = Worker(settings, self.transport, self.events.put)
        self.worker.start()

    def until(self, *kinds):
        """Events up to and including the first of ``kinds``."""
        events = [self.events.get(timeout=LIMIT_S)]
        while not isinstance(events[-1], kinds):
            events.append(self.events.get(timeout=LIMIT_S))
        return events

    def ask(self, text, value=200, session="", red=0, **fields):
        """Everything that one command leads to."""
        self.send(text, value, session, red, **fields)
        return self.until(Done, Failed, Died)

    def send(self, text, value=200, session="", red=0, **fields):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[10:20, 30:50] = value
        pixels[0, 0, 0] = red
        self.worker.send(Command("id", Ask(text, **fields), self.transport.put(pixels), session))


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
        bench.transport.close()


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
    assert events[-1].info == EngineInfo("stand-in", "cpu", "fp32", frozenset({"explain", "history"}))


def test_a_command_is_answered_by_stages_words_masks_and_the_end(bench):
    events = bench.ask("the box")
    stages = [event.name for event in events if isinstance(event, StageBegan)]
    assert stages == ["encoding", "reading", "generating", "decoding", "generating"]
    [found] = [event for event in events if isinstance(event, NewRegions)]
    crop = found.regions[0].mask
    assert (crop.x, crop.y, crop.width, crop.height, crop.area) == (30, 10, 20, 10, 200)
    assert (crop.pixels == 255).all()
    words = [event.text for event in events if isinstance(event, PartialText)]
    assert all(events[-1].text.startswith(text) for text in words)
    assert (events[-1].new, events[-1].order) == ([], [0])  # sent before: a mask crosses the pipe once
    assert events.index(found) < len(events) - 2


def test_a_model_is_warm_before_it_is_ready_and_ready_although_its_warm_up_fails(make, monkeypatch):
    answered = make()
    answered.until(Ready)
    assert answered.ask("the box")[-1].text.endswith("frame 2")  # frame 1 was the warm-up's
    monkeypatch.setenv("STANDIN_FAILS_ON", "the object")
    failing = make()
    failing.until(Ready)
    assert isinstance(failing.ask("the box")[-1], Done)


def test_a_mask_is_sent_once_however_many_follow(bench):
    found = [event for event in bench.ask("twice") if isinstance(event, NewRegions)]
    assert [[region.mask.label for region in event.regions] for event in found] == [[1], [2]]


def test_a_frame_is_encoded_once_and_the_oldest_is_forgotten(make):
    bench = make(kept_frames=2)
    bench.until(Ready)

    def encodings(value):
        return int(bench.ask("the box", value)[-1].text.rsplit(" ", 1)[1])

    assert [encodings(value) for value in (200, 200, 201, 200, 202, 201)] == [2, 2, 3, 3, 4, 5]  # 1: the warm-up


def test_the_first_mask_is_timed_from_the_start_of_the_work(bench):
    def timings(text):
        return bench.ask(text, red=standin.SLOW_RED)[-1].timings

    first, again, nothing = timings("the box"), timings("the box"), timings("nothing")
    assert standin.SLOW_S <= first.encode_s < first.first_mask_s
    assert 0 == again.encode_s < again.first_mask_s < standin.SLOW_S
    assert nothing.first_mask_s == 0


def test_no_frame_is_kept_where_none_shall_be(make):
    bench = make(kept_frames=0)
    bench.until(Ready)
    assert [bench.ask("the box")[-1].text[-1] for _ in range(2)] == ["2", "3"]


def test_an_encoded_frame_is_not_touched_by_the_next_one(bench):
    def area():
        [event] = [event for event in bench.ask("the box") if isinstance(event, NewRegions)]
        return event.regions[0].mask.area

    assert area() == 200
    bench.transport.put(np.full((*SIZE, 3), 255, np.uint8))
    assert area() == 200


def test_the_engine_gets_a_frame_that_it_may_keep_and_nobody_changes(bench):
    assert "writeable False own True" in bench.ask("show flags")[-1].text


def test_sessions_are_remembered_bounded_and_forgotten(make):
    bench = make(max_sessions=2)
    bench.until(Ready)

    def turn(session):
        answer = bench.ask("the box", session=session)[-1].text
        return int(answer.split("turn ")[1].split()[0]) if "turn" in answer else None

    assert [turn(session) for session in ("a", "a", "b", "", "c", "b", "a")] == [0, 1, 0, None, 0, 1, 0]
    bench.worker.send(ForgetSessions())
    assert turn("b") == 0


def test_a_cancel_stops_at_the_next_token_and_the_worker_goes_on(bench):
    bench.send("slow box")
    bench.until(PartialText)
    bench.worker.send(Cancel("id"))
    events = bench.until(Done, Failed)
    assert isinstance(events[-1].error, Cancelled)
    assert len(events) < 20
    bench.worker.send(Command("next", Ask("the box"), Ticket(SIZE)))
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
    assert bench.ask("the box")[-1].text.endswith("frame 3")


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
    events = make(loading="mortal", first_pause_s=0.01).until(LoadFailed)
    assert [event.pause_s for event in events if isinstance(event, Died)] == [0.01, 0.02, 0.03, 0.03]
    events = make(loading="mortal", first_pause_s=0.05).until(LoadFailed)
    assert [event.pause_s for event in events if isinstance(event, Died)] == [0.05] * 4


def test_a_worker_that_keeps_dying_is_given_up(make):
    events = make(loading="mortal", first_pause_s=0.01).until(LoadFailed)
    pauses = [event.pause_s for event in events if isinstance(event, Died)]
    assert pauses == [0.01, 0.02, 0.04, 0.08]
    assert "5 times" in str(events[-1].error)


def test_a_checkpoint_that_cannot_be_loaded_is_not_tried_again(make):
    bench = make(loading="missing")
    assert isinstance(bench.until(LoadFailed)[-1].error, CheckpointError)
    bench.worker._thread.join(LIMIT_S)
    assert bench.worker.pid is None
    assert bench.events.empty()


def test_an_engine_that_cannot_be_imported_is_named(make):
    error = make(model="no_such_module:load").until(LoadFailed)[-1].error
    assert type(error) is ConfigError
    assert "no_such_module" in str(error)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"loading": "no engine"}, ConfigError, "object is not an engine"),
        ({"colour": "red"}, ConfigError, "engine 'standin' has no option 'colour'; its options: capabilities"),
        (
            {"loading": "torchless"},
            ConfigError,
            "needs the Python module 'torch', which is not installed; install",
        ),
    ],
)
def test_what_is_wrong_with_an_engine_is_one_line(make, options, kind, text):
    failed = make(**options).until(LoadFailed)[-1]
    assert type(failed.error) is kind
    assert text in str(failed.error)
    assert failed.traceback == ""


def test_an_unexpected_error_while_loading_brings_its_traceback_and_is_not_logged_elsewhere(make, caplog):
    failed = make(loading="huge").until(LoadFailed)[-1]
    assert type(failed.error) is OutOfMemory
    assert "standin.py" in failed.traceback
    assert "Traceback" not in caplog.text


def test_what_the_worker_logs_is_logged_here(bench, caplog):
    with caplog.at_level(logging.WARNING):
        bench.ask("log the box")
    assert ("lisa_ros.lisa.segmenter", logging.WARNING, "logged by the worker") in caplog.record_tuples


def test_the_longest_command_is_sent_without_waiting_for_a_worker_that_stands_still(bench):
    os.kill(bench.worker.pid, signal.SIGSTOP)
    face = "\U0001f600"
    # The most that max_command_length may allow, and admission of targets and points.
    targets, points = [face * 40] * 250, [(1279.5, 719.5)] * 1000
    ask = Ask(face * 10_000, targets=targets, points=points, point_labels=[1] * 1000)
    command = Command("id", ask, Ticket(SIZE), face * 256)
    sending = threading.Thread(target=bench.worker.send, args=(command,), daemon=True)
    sending.start()
    sending.join(LIMIT_S)
    assert not sending.is_alive()
    os.kill(bench.worker.pid, signal.SIGCONT)
    assert isinstance(bench.until(Done, Failed)[-1], Failed)  # of points, which this engine has not


def test_closing_ends_the_process_in_the_middle_of_a_command(bench):
    process = psutil.Process(bench.worker.pid)
    bench.send("hang")
    bench.until(StageBegan)
    bench.worker.close()
    assert not process.is_running()


def test_nothing_is_left_and_nothing_is_said_however_a_worker_ends(tmp_path):
    """In an interpreter of its own, since resource trackers speak at exit; with kills of both processes in between."""
    program = textwrap.dedent(
        """
        import os, queue, sys
        from machine_speed import limit
        from lisa_ros.runtime.transport import SharedMemory
        from lisa_ros.runtime.worker import *
        events = queue.Queue()
        worker = Worker(WorkerSettings("standin:load", first_pause_s=0.01), SharedMemory(1000), events.put)
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


def test_shared_memory_costs_only_what_is_written():
    transport = SharedMemory(1_000_000_000)
    before = psutil.Process().memory_info().rss
    frame = np.ones((480, 640, 3), np.uint8)
    ticket = transport.put(frame)
    assert psutil.Process().memory_info().rss - before < 5_000_000
    received = transport.receiver().get(ticket)
    np.testing.assert_array_equal(received, frame)
    assert not received.flags.writeable
    transport.close()


# --- engines of others


def regions_of(events):
    """The answer's regions, as the node puts them together."""
    every = [region for event in events if isinstance(event, NewRegions) for region in event.regions]
    every += events[-1].new
    return [every[index] for index in events[-1].order]


@pytest.mark.parametrize(
    ("command", "left"),
    [("twice", [30, 40]), ("twice silently", [30, 40]), ("twice rebuilt", [40, 30]), ("twice, second thoughts", [40])],
)
def test_the_complete_answer_decides_whatever_was_announced_before(bench, command, left):
    events = bench.ask(command)
    regions = regions_of(events)
    assert [region.mask.x for region in regions] == left
    assert len({region.mask.label for region in regions}) == len(left)
    if command != "twice, second thoughts":  # there the second keeps the label that it was announced with
        assert [region.mask.label for region in regions] == list(range(1, len(left) + 1))


def test_a_region_has_its_phrase_and_its_place_in_the_text(bench):
    events = bench.ask("with a phrase")
    [region] = regions_of(events)
    assert region.phrase == "bright box"
    begin, end = region.span
    assert events[-1].text[begin:end] == "[SEG]"


def test_no_more_regions_come_than_a_labels_image_can_show(bench, caplog):
    regions = regions_of(bench.ask("many"))
    assert [region.mask.label for region in regions] == list(range(1, 256))
    assert "the answer has 300 regions; the first 255 are used" in caplog.text


def test_targets_are_asked_one_by_one_where_the_engine_knows_none(bench):
    events = bench.ask("", targets=("the box", "nothing", "another box"))
    assert [region.phrase for region in regions_of(events)] == ["the box", "another box"]
    assert list(events[-1].absent) == ["nothing"]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("wrong answer", "returned dict instead of an Answer"),
        ("wrong event", "event of type str"),
        ("outside", "80 x 60"),
        ("be speechless", "Speechless: (no text)"),
        ("exit", "the engine has had enough"),
    ],
)
def test_an_engine_that_breaks_the_contract_costs_one_command(bench, command, text):
    pid = bench.worker.pid
    assert text in str(bench.ask(command)[-1].error)
    assert isinstance(bench.ask("the box")[-1], Done)
    assert bench.worker.pid == pid


def test_a_session_with_an_engine_without_history_is_a_warning_once(make, caplog):
    bench = make(capabilities="explain")
    bench.until(Ready)
    for _ in range(2):
        assert "turn" not in bench.ask("the box", session="talk")[-1].text
    assert caplog.text.count("keeps no history") == 1


@pytest.mark.parametrize(("long_life_s", "pauses"), [(0.0, [0.02] * 3), (60.0, [0.02, 0.04, 0.08])])
def test_a_long_life_resets_the_pause_before_the_next_start(make, monkeypatch, long_life_s, pauses):
    monkeypatch.setattr(worker, "LONG_LIFE_S", long_life_s)
    bench = make(first_pause_s=0.02)
    deaths = []
    for _ in pauses:
        bench.until(Ready)
        os.kill(bench.worker.pid, signal.SIGKILL)
        deaths.append(bench.until(Died)[-1].pause_s)
    assert deaths == pauses
