"""~/watch: a standing command, asked again and again, behind the commands of people."""

from __future__ import annotations

import itertools
import logging
import math

from rclpy.clock import Clock
from rclpy.node import Node

from lisa_ros.engine.api import Ask
from lisa_ros.errors import CommandError
from lisa_ros.msg import Watch
from lisa_ros.runtime.queue import RequestQueue
from lisa_ros.runtime.requests import Request, Result
from lisa_ros.runtime.status import Status

logger = logging.getLogger(__name__)

LEAST_HZ, MOST_HZ = 0.001, 30.0  # a timer's period has an end: 2**63 ns


class StandingCommand:
    """The one standing command, if there is one. Its answers are results of the source ``watch``.

    It is asked while nothing else is to be done, and never waits: a tick at which the engine is busy is left out.

    Args:
        node: Has the timer.
        queue: Takes the requests.
        clock: Steady.
    """

    def __init__(self, node: Node, queue: RequestQueue, clock: Clock) -> None:
        self._queue = queue
        self._count = itertools.count(1)
        self._watch: Watch | None = None
        self._asked = ""  # id of the request that is not answered yet
        self._timer = node.create_timer(3600.0, self._tick, clock=clock)
        self._timer.cancel()

    @property
    def text(self) -> str:
        """For diagnostics: command and rate; empty without one."""
        return f"{self._watch.command} ({self._watch.rate:g} Hz)" if self._watch is not None else ""

    def take(self, watch: Watch) -> None:
        """A new standing command replaces the one before; an empty command ends it."""
        self._end()
        if not watch.command.strip():
            return
        if not LEAST_HZ <= watch.rate <= MOST_HZ:  # not a number, too
            error = CommandError(f"the rate is {watch.rate:g} Hz; give one from {LEAST_HZ:g} to {MOST_HZ:g}")
            self._queue.refuse(self._request(watch), error)
            return
        self._watch = watch
        self._timer.timer_period_ns = math.ceil(1e9 / watch.rate)
        self._timer.reset()
        self._tick()

    def _tick(self) -> None:
        if self._watch is not None and not self._asked and self._queue.is_idle:
            request = self._request(self._watch)
            self._asked = request.request_id
            self._queue.submit(request)

    def _request(self, watch: Watch) -> Request:
        request_id = f"watch-{next(self._count)}"
        ask = Ask(watch.command)
        return Request(request_id, ask, self._take_result, source="watch", camera=watch.camera, background=True)

    def _take_result(self, result: Result) -> None:
        if result.request_id != self._asked:
            return  # of a standing command that was replaced meanwhile
        self._asked = ""
        if result.status is Status.INVALID_COMMAND:  # it will not become a better one
            logger.warning("the standing command ends: %s", result.message)
            self._end()

    def _end(self) -> None:
        asked, self._asked, self._watch = self._asked, "", None
        self._timer.cancel()
        if asked:
            self._queue.cancel(asked)
