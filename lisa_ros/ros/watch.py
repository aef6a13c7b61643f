"""~/watch: a standing command, asked at its rate whenever the engine has nothing else to do."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.clock import Clock

from lisa_ros.engine.api import Ask
from lisa_ros.errors import CommandError
from lisa_ros.msg import Watch as WatchMessage
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.admission import clean_command
from lisa_ros.runtime.queue import RequestQueue
from lisa_ros.runtime.requests import Request, Result
from lisa_ros.runtime.status import Status

logger = logging.getLogger(__name__)

MIN_RATE_HZ, MAX_RATE_HZ = 0.001, 60.0
PASSING = (Status.BUSY, Status.CANCELED)  # a person's command came first; the next tick asks again


class TimerNode(Protocol):
    """What makes timers; a failing callback must not end it."""

    def create_timer(self, timer_period_sec: float, callback: Callable[[], None], *, clock: Clock) -> Any: ...
    def destroy_timer(self, timer: Any) -> bool: ...


@dataclass(eq=False)
class Standing:
    """A standing command. open: id of its request that has no result yet; empty: none. answers: how many there were."""

    command: str
    rate_hz: float
    camera: str
    timer: Any = field(default=None, repr=False)
    open: str = ""
    answers: int = 0


class Watch:
    """At most one standing command. Ticks are skipped while its last request is open or the engine is busy.

    Args:
        node: Makes the timer.
        queue: Takes the requests, each a background request that is published.
        parameters: The current ones.
        clock: Of the timer.

    Attributes:
        trouble: Why the standing command has no answers, or why the last message was refused; empty: all is well.
    """

    def __init__(
        self, node: TimerNode, queue: RequestQueue, parameters: Callable[[], Parameters], clock: Clock
    ) -> None:
        self._node = node
        self._queue = queue
        self._parameters = parameters
        self._clock = clock
        self._count = itertools.count(1)
        self._standing: Standing | None = None
        self.trouble = ""

    def take(self, message: WatchMessage) -> None:
        """~/watch. An empty command ends the standing one; one that cannot be asked leaves it as it was."""
        if not message.command.strip():
            self.end()
            return
        try:
            command = clean_command(message.command, self._parameters().max_command_length)
            rate_hz = checked_rate(message.rate)
            self._check_camera(message.camera)
        except CommandError as error:
            self._note(f"~/watch: {error}")
            return
        self.end()
        logger.info("watch %r at %g Hz", command, rate_hz)
        self._standing = Standing(command, rate_hz, message.camera)
        self._standing.timer = self._node.create_timer(1.0 / rate_hz, self.tick, clock=self._clock)
        self.tick()

    def end(self) -> None:
        """There is no standing command any more; its open request is canceled."""
        standing, self._standing, self.trouble = self._standing, None, ""
        if standing is None:
            return
        self._node.destroy_timer(standing.timer)
        if standing.open:
            self._queue.cancel(standing.open)
        logger.info("watch %r ended after %d answers", standing.command, standing.answers)

    def tick(self) -> None:
        """Ask again, unless the last request is open; while commands are disabled nothing is asked."""
        standing = self._standing
        if standing is None or standing.open or not self._queue.enabled:
            return
        standing.open = f"watch-{next(self._count)}"

        def take_result(result: Result) -> None:
            standing.open = ""
            if standing is self._standing:
                self._take_result(standing, result)

        self._queue.submit(
            Request(
                standing.open,
                Ask(standing.command),
                take_result,
                source="watch",
                camera=standing.camera,
                background=True,
                standing=True,
            )
        )

    def values(self) -> dict[str, object]:
        """For diagnostics."""
        standing = self._standing
        if standing is None:
            return {"watch": "", "watch_rate_hz": 0, "watch_answers": 0}
        return {"watch": standing.command, "watch_rate_hz": standing.rate_hz, "watch_answers": standing.answers}

    def _take_result(self, standing: Standing, result: Result) -> None:
        if result.frame is not None:
            standing.answers += 1
            self.trouble = ""
        elif result.status not in PASSING:
            self._note(f"~/watch: {result.status.name}: {result.message}")

    def _check_camera(self, name: str) -> None:
        names = self._parameters().camera_names
        if name and name not in names:
            known = ", ".join(filter(None, names)) or "only one, without a name"
            raise CommandError(f"there is no camera {name[:40]!r}; there is {known}")

    def _note(self, trouble: str) -> None:
        """For diagnostics, and once for the log."""
        if trouble != self.trouble:
            logger.warning("%s", trouble)
        self.trouble = trouble


def checked_rate(rate_hz: float) -> float:
    """``rate_hz`` of a message. Raises CommandError for one that cannot be kept."""
    if not math.isfinite(rate_hz) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise CommandError(f"the rate is {rate_hz:g} Hz; give one from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}")
    return float(rate_hz)
