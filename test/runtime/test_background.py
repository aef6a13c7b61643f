"""The queue's own questions, for tracking: nobody hears of them, and no person's command waits for one."""

import pytest
from test_requests import READY, Robot, region

from lisa_ros.engine.api import Ask
from lisa_ros.errors import ImageError
from lisa_ros.runtime import worker
from lisa_ros.runtime.requests import Request
from lisa_ros.runtime.status import State, Status


class Asking(Robot):
    def __init__(self, **parameters):
        super().__init__(**parameters)
        self.queue.handle(READY)
        self.own = []

    def ask_again(self):
        """(whether the worker was asked, id)"""
        self.count += 1
        key = f"own{self.count}"
        self.queue.submit(Request(key, Ask("the box"), self.own.append, background=True, published=False))
        return key in self.at_worker, key


@pytest.fixture
def robot():
    return Asking(queue_size=1, timeout_s=10.0, stuck_worker_s=5.0)


def test_an_answer_to_ourselves_is_not_published(robot):
    asked, key = robot.ask_again()
    assert asked
    robot.done(key, [region()])
    assert [answer.status for answer in robot.own] == [Status.SUCCESS]
    assert robot.own[0].frame is not None
    assert not robot.published
    assert robot.states[-1] == State.READY
    assert State.BUSY not in robot.states


def test_nothing_is_asked_while_a_command_runs(robot):
    robot.submit()
    assert not robot.ask_again()[0]
    assert [result.status for result in robot.own] == [Status.BUSY]
    assert not robot.published


def test_a_command_stops_our_question_and_takes_no_place_in_the_queue_for_it(robot):
    _, key = robot.ask_again()
    first, second, third = robot.submit(), robot.submit(), robot.submit()
    assert [answer.status for answer in robot.own] == [Status.CANCELED]
    assert isinstance(robot.sent[-1], worker.Cancel)
    assert robot.status(third) is Status.BUSY
    robot.queue.handle(worker.Failed(key, ImageError("stopped")))
    assert robot.at_worker == [key, first]
    robot.done(first)
    robot.done(second)
    assert [robot.status(one) for one in (first, second)] == [Status.NOT_FOUND, Status.NOT_FOUND]
    assert len(robot.own) == 1


def test_a_question_that_cannot_be_asked_or_takes_too_long_is_answered_all_the_same(robot):
    robot.camera = ImageError("bad image")
    robot.ask_again()
    robot.camera = None
    robot.ask_again()
    robot.advance(11.0)
    assert [answer.status for answer in robot.own] == [Status.INVALID_IMAGE, Status.TIMEOUT]
    assert not robot.published


def test_without_a_queue_a_command_still_comes_before_our_question():
    robot = Asking(queue_size=0)
    _, own = robot.ask_again()
    key = robot.submit()
    robot.done(own)
    robot.done(key)
    assert robot.status(key) is Status.NOT_FOUND


def test_a_dead_worker_ends_our_question(robot):
    robot.ask_again()
    robot.queue.handle(worker.Died("of SIGKILL", 1.0))
    assert [answer.status for answer in robot.own] == [Status.INTERNAL_ERROR]
    assert not robot.ask_again()[0]
