"""The queue of commands, without ROS and with a clock made up: exactly one answer, whatever comes in whatever order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lisa_ros.engine.api import Ask, EngineInfo, Region, crop_mask
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, ImageError, LisaError, OutOfMemory
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime import worker
from lisa_ros.runtime.admission import MAX_POINTS, clean_ask, clean_command
from lisa_ros.runtime.answer_regions import AnswerRegions
from lisa_ros.runtime.queue import RequestQueue
from lisa_ros.runtime.requests import Frame, Measured, Request
from lisa_ros.runtime.status import EMPTY_MASK, NoImage, NotReady, Stage, State, Status
from lisa_ros.runtime.transport import Ticket

READY = worker.Ready(EngineInfo("tiny", "cpu", "fp32"), 1.0)


class Robot:
    """Everything around a queue, made up: clock, worker, camera, topics."""

    def __init__(self, **parameters):
        self.parameters = Parameters(model="/m", **parameters)
        self.now = 100.0
        self.sent, self.restarts, self.published, self.states, self.answers, self.progress = [], 0, [], [], {}, {}
        self.wake = None
        self.camera = None  # an error to raise
        self.frames, self.early, self.shared = [], [], []
        self.queue = RequestQueue(self, self, lambda: self.parameters, self.wake_at, lambda: self.now)
        self.configure()
        self.queue.activate()
        self.count = 0

    def configure(self):
        self.queue.configure(self, self)

    def take(self, image, camera):
        if self.camera is not None:
            raise self.camera
        return Frame("header", np.zeros((10, 10, 3), np.uint8), camera=camera or "front", sent=image is not None)

    def check(self, image, camera):
        if image == "bad":
            raise ImageError("bad image")

    def put(self, rgb):
        return Ticket(rgb.shape[:2])

    def frame_taken(self, frame):
        self.frames.append(frame)

    def wake_at(self, when):
        self.wake = when

    def send(self, message):
        self.sent.append(message)

    def restart(self, reason):
        self.restarts += 1

    def publish_result(self, result):
        self.published.append(result)

    def publish_progress(self, request, progress):
        self.shared.append((request, progress))

    def publish_early(self, frame, regions):
        self.early.append(regions)

    def publish_state(self, state):
        self.states.append(state.state)

    # --- what a test does

    def submit(self, command="the box", **fields):
        self.count += 1
        key = f"r{self.count}"
        self.answers[key], self.progress[key] = [], []
        ask = command if isinstance(command, Ask) else Ask(command)
        self.queue.submit(Request(key, ask, self.answers[key].append, self.progress[key].append, **fields))
        return key

    def status(self, key):
        [answer] = self.answers[key]
        return answer.status

    @property
    def at_worker(self):
        """Ids of the commands that the worker was given."""
        return [message.request_id for message in self.sent if isinstance(message, worker.Command)]

    def done(self, key, regions=(), **fields):
        self.queue.handle(worker.Done(key, "Sure, [SEG].", list(regions), range(len(regions)), **fields))

    def advance(self, seconds):
        """Let time pass, waking the queue when it asked to be."""
        end = self.now + seconds
        while self.wake is not None and self.wake <= end:
            self.now = max(self.now, self.wake)
            self.queue.tick()
        self.now = end


def region(label=1):
    return Region(crop_mask(np.ones((3, 3), bool), label, 0.5), 0.5)


@pytest.fixture
def robot():
    robot = Robot(queue_size=2, timeout_s=10.0, stuck_worker_s=5.0)
    robot.queue.handle(READY)
    return robot


def test_one_runs_some_wait_the_next_is_busy(robot):
    keys = [robot.submit() for _ in range(4)]
    assert robot.at_worker == keys[:1]
    assert robot.status(keys[3]) is Status.BUSY
    assert robot.progress[keys[1]][0].stage is Stage.QUEUED
    robot.done(keys[0], [region()])
    assert (robot.status(keys[0]), robot.at_worker) == (Status.SUCCESS, keys[:2])


def test_a_stage_that_nobody_knows_is_passed_over(robot):
    key = robot.submit()
    for name in ("reading", "pondering"):
        robot.queue.handle(worker.StageBegan(key, name))
    assert [progress.stage for progress in robot.progress[key]] == [Stage.ENCODING, Stage.READING, Stage.READING]


def test_a_limit_that_ends_while_masks_are_measured_leaves_the_worker_alone(robot):
    """The engine is done: there is nothing to cancel, nothing is stuck, and the next command starts at once."""
    robot.queue._measure = lambda key, frame, regions: True
    key = robot.submit()
    robot.done(key, [region()])
    robot.advance(10.5)
    assert robot.status(key) is Status.TIMEOUT
    assert not [message for message in robot.sent if isinstance(message, worker.Cancel)]
    following = robot.submit()
    assert robot.at_worker == [key, following]
    robot.queue.handle(Measured(key, ["an object"]))
    robot.advance(6)
    assert robot.restarts == 0
    assert len(robot.answers[key]) == 1


def test_no_mask_is_not_found(robot):
    key = robot.submit()
    robot.done(key)
    assert robot.status(key) is Status.NOT_FOUND


def test_masks_that_came_early_are_in_the_answer(robot):
    key = robot.submit()
    robot.queue.handle(worker.NewRegions(key, [region()]))
    robot.queue.handle(worker.Done(key, "Sure, [SEG].", [], [0]))
    assert (robot.status(key), len(robot.answers[key][0].regions)) == (Status.SUCCESS, 1)


def test_an_empty_mask_is_not_found(robot):
    key = robot.submit()
    robot.done(key, [replace(region(), mask=replace(region().mask, area=0))])
    assert robot.status(key) is Status.NOT_FOUND
    assert robot.answers[key][0].message == EMPTY_MASK


class TestMeasuring:
    """Masks are measured elsewhere; the answer waits, and the next command with it."""

    @pytest.fixture
    def running(self, robot):
        robot.queue._measure = lambda key, frame, regions: True
        key = robot.submit()
        waiting = robot.submit()
        robot.done(key, [region()])
        assert not robot.answers[key]
        assert robot.at_worker == [key]
        return robot, key, waiting

    def test_the_answer_has_the_objects_and_the_next_starts(self, running):
        robot, key, waiting = running
        robot.queue.handle(Measured(key, ["an object"]))
        assert (robot.status(key), robot.answers[key][0].objects) == (Status.SUCCESS, ["an object"])
        assert robot.at_worker == [key, waiting]

    def test_a_cancel_meanwhile_is_answered_once(self, running):
        robot, key, waiting = running
        robot.queue.cancel(key)
        robot.queue.handle(Measured(key, ["an object"]))
        assert (robot.status(key), robot.at_worker) == (Status.CANCELED, [key, waiting])

    def test_a_death_meanwhile_does_not_cost_the_answer(self, running):
        robot, key, waiting = running
        robot.queue.handle(worker.Died("of SIGKILL", 1.0))
        assert robot.status(waiting) is Status.NOT_READY
        robot.queue.handle(Measured(key, []))
        assert robot.status(key) is Status.SUCCESS

    def test_a_cleanup_meanwhile_answers_and_what_comes_later_is_dropped(self, running):
        robot, key, waiting = running
        robot.queue.cleanup()
        robot.queue.handle(Measured(key, []))
        assert [robot.status(k) for k in (key, waiting)] == [Status.NOT_READY] * 2

    def test_what_goes_wrong_with_depth_does_not_cost_the_masks(self, robot):
        def fail(*_):
            raise ZeroDivisionError("a bug")

        robot.queue._measure = fail
        key = robot.submit()
        robot.done(key, [region()])
        assert (robot.status(key), list(robot.answers[key][0].objects)) == (Status.SUCCESS, [])


def test_before_ready_and_after_a_failed_load_commands_are_not_ready():
    robot = Robot()
    assert robot.status(robot.submit()) is Status.NOT_READY
    robot.queue.handle(worker.LoadFailed(CheckpointError("keys are missing: a, b")))
    key = robot.submit()
    assert robot.status(key) is Status.NOT_READY
    assert "keys are missing: a, b" in robot.answers[key][0].message
    assert robot.states == [State.LOADING, State.ERROR]


def test_a_canceled_command_is_answered_now_and_the_next_waits_for_the_worker(robot):
    first, second = robot.submit(), robot.submit()
    robot.queue.cancel(first)
    assert robot.status(first) is Status.CANCELED
    assert worker.Cancel(first) in robot.sent
    assert robot.at_worker == [first]
    robot.queue.handle(worker.Failed(first, Cancelled("stopped")))
    assert robot.at_worker == [first, second]


def test_forgetting_keeps_its_place_among_the_commands(robot):
    running, before, canceled = robot.submit(), robot.submit(), robot.submit()
    robot.queue.forget_sessions()
    robot.queue.forget_sessions()  # once more changes nothing, and takes no more room
    robot.queue.cancel(canceled)
    after = robot.submit()
    assert robot.states[-1] is State.BUSY
    assert robot.status(robot.submit()) is Status.BUSY  # two wait: what is not a command takes no command's place
    for key in (running, before):
        robot.done(key)
    order = [getattr(message, "request_id", "forget") for message in robot.sent]
    assert order == [running, before, "forget", after]


def test_forgetting_goes_to_the_worker_at_once_where_nothing_waits(robot):
    robot.queue.forget_sessions()
    robot.submit()
    robot.queue.forget_sessions()  # the worker itself does it after the command that it has
    assert [type(message).__name__ for message in robot.sent] == ["ForgetSessions", "Command", "ForgetSessions"]


def test_a_new_worker_has_nothing_to_forget(robot):
    robot.submit()
    robot.submit()
    robot.queue.forget_sessions()
    robot.queue.handle(worker.Died("of SIGKILL", 1.0))
    robot.queue.handle(READY)
    assert worker.ForgetSessions() not in robot.sent


def test_an_answer_that_comes_after_the_cancel_is_dropped(robot):
    key = robot.submit()
    robot.queue.cancel(key)
    robot.done(key, [region()])
    robot.queue.cancel(key)
    assert robot.status(key) is Status.CANCELED


def test_time_runs_from_receiving_also_in_the_queue(robot):
    first, second = robot.submit(), robot.submit(timeout_s=3.0)
    robot.advance(3.5)
    assert robot.status(second) is Status.TIMEOUT
    assert not robot.answers[first]
    robot.advance(7.0)
    assert robot.status(first) is Status.TIMEOUT


def test_a_worker_that_does_not_let_go_is_restarted(robot):
    key = robot.submit(timeout_s=1.0)
    robot.advance(5.9)
    assert (robot.status(key), robot.restarts) == (Status.TIMEOUT, 0)
    robot.advance(0.2)
    assert robot.restarts == 1


def test_a_death_answers_the_running_and_the_waiting(robot):
    keys = [robot.submit() for _ in range(2)]
    robot.queue.handle(worker.Died("of SIGKILL", 1.0))
    assert [robot.status(key) for key in keys] == [Status.INTERNAL_ERROR, Status.NOT_READY]
    assert robot.status(robot.submit()) is Status.NOT_READY
    robot.queue.handle(READY)
    assert robot.at_worker == keys[:1]
    robot.done(robot.submit())


def test_deactivating_answers_what_is_open_and_keeps_the_model(robot):
    keys = [robot.submit() for _ in range(2)]
    robot.queue.deactivate()
    assert [robot.status(key) for key in keys] == [Status.NOT_READY] * 2
    assert worker.Cancel(keys[0]) in robot.sent
    refused = robot.submit()
    assert (robot.status(refused), robot.states[-1]) == (Status.NOT_READY, State.INACTIVE)
    assert "activate it" in robot.answers[refused][0].message
    robot.queue.activate()
    waiting = robot.submit()  # the worker still has the first: this one waits until it has let go
    assert robot.at_worker == keys[:1]
    robot.queue.handle(worker.Failed(keys[0], Cancelled("stopped")))
    robot.done(waiting)
    assert robot.status(waiting) is Status.NOT_FOUND


def test_without_a_worker_commands_are_answered_too(robot):
    running = robot.submit()
    robot.queue.cleanup()
    after = robot.submit()
    assert [robot.status(key) for key in (running, after)] == [Status.NOT_READY] * 2
    assert (robot.states[-1], robot.wake) == (State.UNCONFIGURED, None)
    robot.queue.forget_sessions()
    assert worker.ForgetSessions() not in robot.sent
    robot.configure()
    robot.queue.activate()
    robot.queue.handle(READY)
    robot.done(robot.submit())


def test_a_node_whose_model_cannot_be_loaded_is_not_activated():
    robot = Robot()
    robot.queue.deactivate()
    robot.queue.handle(worker.LoadFailed(CheckpointError("keys are missing: a, b")))
    with pytest.raises(NotReady, match="keys are missing: a, b"):
        robot.queue.activate()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfMemory("too much"), Status.OUT_OF_MEMORY),
        (ImageError("no"), Status.INVALID_IMAGE),
        (CommandError("no"), Status.INVALID_COMMAND),
        (LisaError("no"), Status.INTERNAL_ERROR),
    ],
)
def test_errors_of_the_worker_become_statuses(robot, error, status):
    key = robot.submit()
    robot.queue.handle(worker.Failed(key, error))
    assert (robot.status(key), robot.answers[key][0].message) == (status, str(error))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoImage("none yet"), Status.NO_IMAGE),
        (MemoryError(), Status.OUT_OF_MEMORY),
        (ZeroDivisionError("a bug"), Status.INTERNAL_ERROR),
    ],
)
def test_a_frame_that_cannot_be_taken_answers_its_command_and_the_next_starts(robot, error, status):
    first, second, third = robot.submit(), robot.submit(), robot.submit()
    robot.camera = error
    robot.done(first)
    assert [robot.status(second), robot.status(third)] == [status, status]
    robot.camera = None
    assert robot.submit() in robot.at_worker


def test_a_callback_that_fails_does_not_keep_others_from_their_answers(robot, caplog):
    def fail(_):
        raise RuntimeError("the client's connection is gone")

    robot.queue.submit(Request("x", Ask("the box"), on_result=fail, on_progress=fail))
    second = robot.submit()
    robot.done("x")
    robot.done(second)
    assert robot.status(second) is Status.NOT_FOUND
    assert "the client's connection is gone" in caplog.text


def test_a_negative_timeout_is_refused(robot):
    assert robot.status(robot.submit(timeout_s=-1.0)) is Status.INVALID_COMMAND


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  the\n red\tmug ", "the red mug"),
        ("カップ ☕", "カップ ☕"),
        ("[SEG] </s>", "[SEG] </s>"),
        ("x" * 50, "x" * 50),
    ],
)
def test_a_command_becomes_one_line(text, clean):
    assert clean_command(text, 50) == clean


@pytest.mark.parametrize("text", ["", " \n", "a\x00", "\x1b[0m", "a\x7f", "\ud800", "x" * 51])
def test_what_is_no_command_is_refused(text):
    with pytest.raises(CommandError):
        clean_command(text, 50)


class AnyOrder(RuleBasedStateMachine):
    """Callers, the clock and the worker do what they like; each request has one answer at most, and in the end one."""

    @initialize(size=st.integers(0, 3))
    def start(self, size):
        self.robot = Robot(queue_size=size, timeout_s=10.0, stuck_worker_s=5.0)
        self.robot.queue.handle(READY)

    @property
    def held(self):
        """The command that the worker is busy with, answered or not."""
        running = self.robot.queue._running
        return running.request.request_id if running else None

    @rule(timeout_s=st.sampled_from([0.0, 1.0, 20.0]), image=st.sampled_from([None, "good", "bad"]))
    def submit(self, timeout_s, image):
        self.robot.submit(timeout_s=timeout_s, image=image)

    @precondition(lambda self: self.robot.count)
    @rule(data=st.data())
    def cancel(self, data):
        self.robot.queue.cancel(f"r{data.draw(st.integers(1, self.robot.count))}")

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds):
        self.robot.advance(seconds)

    @precondition(lambda self: self.held)
    @rule(event=st.sampled_from(["staged", "found", "done", "failed"]))
    def worker_says(self, event):
        key = self.held
        self.robot.queue.handle(
            {
                "staged": worker.StageBegan(key, "generating"),
                "found": worker.NewRegions(key, [region()]),
                "done": worker.Done(key, "Sure."),
                "failed": worker.Failed(key, OutOfMemory("no")),
            }[event]
        )

    @rule(key=st.sampled_from(["r1", "r2", "r999"]))
    def worker_says_something_late(self, key):
        if key != self.held:
            self.robot.queue.handle(worker.Done(key, "late"))

    @rule()
    def forget(self):
        self.robot.queue.forget_sessions()

    @rule(broken=st.booleans())
    def camera(self, broken):
        self.robot.camera = NoImage("none") if broken else None

    @rule()
    def worker_dies(self):
        self.robot.queue.handle(worker.Died("of SIGKILL", 1.0))

    @rule()
    def worker_is_back(self):
        if self.robot.queue.engine.ready is None and self.robot.queue.engine._worker is not None:
            self.robot.queue.handle(READY)

    @rule()
    def lifecycle(self):
        """Deactivate, or activate again."""
        queue = self.robot.queue
        if queue._active:
            queue.deactivate()
            assert all(self.robot.answers.values())
        elif queue.engine._worker is not None:
            queue.activate()

    @rule()
    def cleanup(self):
        if self.robot.queue.engine._worker is not None:
            self.robot.queue.cleanup()
            assert all(self.robot.answers.values())
        else:
            self.robot.configure()
            self.robot.queue.activate()

    @invariant()
    def one_answer_at_most_and_published(self):
        if hasattr(self, "robot"):
            assert all(len(answers) <= 1 for answers in self.robot.answers.values())
            assert len(self.robot.published) == sum(map(len, self.robot.answers.values()))

    @invariant()
    def nothing_waits_while_the_worker_is_free(self):
        if hasattr(self, "robot") and self.robot.queue.engine.ready is not None and self.held is None:
            assert not self.robot.queue._waiting

    def teardown(self):
        if hasattr(self, "robot"):
            self.robot.advance(1000.0)
            assert all(len(answers) == 1 for answers in self.robot.answers.values())


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_any_order = AnyOrder.TestCase


def test_the_table_of_errors_names_every_status_but_the_good_ones():
    from lisa_ros.runtime.status import STATUS_OF

    assert set(STATUS_OF.values()) == set(Status) - {Status.SUCCESS, Status.NOT_FOUND}


def test_an_answer_is_timed_from_receiving(robot):
    key = robot.submit()
    robot.now += 2.5
    robot.done(key)
    assert robot.answers[key][0].timings.total_s == pytest.approx(2.5)
    assert robot.answers[key][0].model == "tiny"


def test_a_question_reaches_the_worker_as_it_was_asked(robot):
    robot.queue.handle(worker.Ready(EngineInfo("tiny", capabilities=frozenset({"points"})), 1.0))
    ask = Ask("", targets=("a  cup", "a spoon"), points=((1.0, 2.0),), point_labels=(1,), box=(1, 2, 3, 4))
    robot.submit(ask, session="talk")
    [command] = robot.sent
    assert command.ask.targets == ("a cup", "a spoon")
    assert (command.ask.points, command.ask.point_labels, command.ask.box) == (((1.0, 2.0),), (1,), (1, 2, 3, 4))
    assert (command.session, command.ticket, command.ask.max_new_tokens) == ("talk", Ticket((10, 10)), 512)


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (Ask("the box", points=((1.0, 2.0),)), "it supports commands in words only"),
        (Ask("", box=(1, 2, 3, 4)), "it supports commands in words only"),
        (Ask("", targets=("x",) * 256), "256 targets; at most 255"),
        (Ask("", targets=("x" * 100,) * 101), "the targets have 10100 characters"),
        (Ask("", targets=("x", " ")), "a target is empty"),
        (Ask("  "), "the command is empty"),
        (Ask("the box", points=((1.0, 2.0),) * (MAX_POINTS + 1)), "1001 points; at most 1000"),
    ],
)
def test_what_the_engine_cannot_be_asked_is_refused_before_it_is_queued(robot, ask, text):
    key = robot.submit(ask)
    assert robot.status(key) is Status.INVALID_COMMAND
    assert text in robot.answers[key][0].message
    assert not robot.sent


def test_partly_found_is_success_and_the_rest_is_absent(robot):
    key = robot.submit(Ask("", targets=("cup", "unicorn")))
    robot.done(key, [region()], absent=["unicorn"])
    assert (robot.status(key), robot.answers[key][0].absent) == (Status.SUCCESS, ["unicorn"])
    key = robot.submit(Ask("", targets=("unicorn",)))
    robot.done(key, absent=["unicorn"])
    assert (robot.status(key), robot.answers[key][0].absent) == (Status.NOT_FOUND, ["unicorn"])


def test_a_target_that_the_answer_does_not_mention_is_named(robot):
    key = robot.submit(Ask("", targets=("cup", "knife", "unicorn")))
    robot.done(key, [replace(region(), phrase="cup")], absent=["unicorn"])
    assert robot.status(key) is Status.SUCCESS
    assert "does not mention knife;" in robot.answers[key][0].message


def test_the_answer_decides_which_regions_count_and_in_which_order(robot):
    key = robot.submit()
    robot.queue.handle(worker.NewRegions(key, [region(1), region(2)]))
    robot.queue.handle(worker.Done(key, "Sure.", [region(3)], [2, 1]))
    assert [one.mask.label for one in robot.answers[key][0].regions] == [3, 2]


def test_progress_is_shared_with_everybody_but_that_of_the_nodes_own_questions_is_not(robot):
    key = robot.submit(source="action")
    assert [(request.request_id, request.source) for request, _ in robot.shared] == [(key, "action")]
    robot.done(key)
    shared = len(robot.shared)
    own = robot.submit(background=True, published=False)
    assert robot.progress[own]
    assert len(robot.shared) == shared


def test_progress_has_all_regions_and_the_number_of_new_ones(robot):
    key = robot.submit()
    robot.queue.handle(worker.NewRegions(key, [region(1)]))
    robot.queue.handle(worker.PartialText(key, "Both"))
    robot.queue.handle(worker.NewRegions(key, [replace(region(2), mask=replace(region(2).mask, area=0)), region(3)]))
    assert [(len(p.regions), p.new) for p in robot.progress[key]] == [(0, 0), (1, 1), (1, 0), (2, 1)]


def test_early_masks_are_published_with_each_new_region_only(robot):
    robot.parameters = replace(robot.parameters, early_mask=True)
    key = robot.submit()
    robot.queue.handle(worker.NewRegions(key, [region(1)]))
    robot.queue.handle(worker.PartialText(key, "Both"))
    assert [len(regions) for regions in robot.early] == [1]


@pytest.mark.parametrize(("image", "camera"), [(None, "front"), ("good", "")])
def test_a_result_names_the_camera_of_its_frame_and_none_for_an_image_of_the_caller(robot, image, camera):
    key = robot.submit(image=image)
    robot.done(key)
    assert robot.answers[key][0].camera == camera
    assert robot.frames[0].sent is (image is not None)


def test_an_empty_command_stays_empty_beside_targets():
    assert clean_ask(Ask(" \n", targets=("cup",)), Parameters()).text == ""


def test_the_reason_why_a_model_cannot_be_loaded_is_logged_once(caplog):
    robot = Robot()
    robot.queue.handle(worker.LoadFailed(CheckpointError("keys are missing: a, b")))
    assert caplog.text.count("keys are missing: a, b") == 1


def test_a_region_that_was_announced_has_all_mentions_of_the_answer(robot):
    key = robot.submit()
    robot.queue.handle(worker.NewRegions(key, [replace(region(1), spans=((0, 3),), span=None)]))
    robot.queue.handle(worker.Done(key, "[1] and [1]", [], [0], spans=[((0, 3), (8, 11))]))
    [one] = robot.answers[key][0].regions
    assert (one.spans, one.span, one.mask.label) == (((0, 3), (8, 11)), (0, 3), 1)


def test_a_region_with_further_mentions_is_not_sent_again():
    regions = AnswerRegions()
    first, other = replace(region(0), spans=((0, 3),), span=None), replace(region(0), spans=((4, 7),), span=None)
    [sent] = regions.announce([first])
    regions.announce([other])
    again = replace(first, spans=((0, 3), (8, 11)), span=None)
    assert regions.complete([again, other]) == ([], [0, 1])
    assert sent.mask.label == 1
