"""One request at the engine, some waiting, and exactly one result for each; time limits, cancels, worker events.

No rclpy in here: one thread calls it, with a clock, a worker and a source of frames that a test can make up.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lisa_ros.engine.api import Region
from lisa_ros.errors import Cancelled, LisaError
from lisa_ros.runtime import worker
from lisa_ros.runtime.admission import check_supported, clean_request
from lisa_ros.runtime.engine_life import EngineLife, WorkerLike
from lisa_ros.runtime.requests import UNCONFIGURED, Frame, Limits, Measured, NodeState, Progress, Request, Result
from lisa_ros.runtime.results import Results, call_safely
from lisa_ros.runtime.running import Running
from lisa_ros.runtime.status import Busy, NotReady, Stage, State, TimedOut
from lisa_ros.runtime.transport import Transport

logger = logging.getLogger(__name__)

DISABLED = "the node is disabled: commands are not taken; call ~/enable with data: true"

RequestEvent = worker.StageBegan | worker.PartialText | worker.NewRegions | worker.Done | worker.Failed | Measured


class FrameSource(Protocol):
    """Where frames come from: the node's cameras."""

    def check(self, image: Any, camera: str) -> None:
        """Raise ImageError or CommandError where the image or the camera's name cannot be used; looks at no pixel."""

    def take(self, image: Any, camera: str) -> Frame:
        """The frame of ``image``, or the newest one of ``camera``. Raises ImageError, NoImage or CommandError."""


class Outlet(Protocol):
    """Where frames, results and states go: publishers, and what follows the masks."""

    def frame_taken(self, frame: Frame) -> None:
        """The engine begins to work on this frame."""

    def publish_early(self, frame: Frame, regions: Sequence[Region]) -> None:
        """Regions of an answer that still grows."""

    def publish_progress(self, request: Request, progress: Progress) -> None:
        """What is known of a request before its result."""

    def publish_result(self, result: Result) -> None: ...
    def publish_state(self, state: NodeState) -> None: ...


def no_depth(request_id: str, frame: Frame, regions: Sequence[Region]) -> bool:
    """For a queue whose masks are not measured."""
    del request_id, frame, regions
    return False


class RequestQueue:
    """One request at the worker, a bounded number waiting, and exactly one result for each.

    It lives as long as the node; a worker comes with ``configure`` and goes with ``cleanup``, and commands are taken
    between ``activate`` and ``deactivate``. A command at any other time is answered NOT_READY.

    Args:
        frames: The cameras.
        outlet: The publishers.
        limits: The current parameters.
        wake_at: Asks for a call of ``tick`` at that time of ``clock``, or for none at all (None).
        clock: Seconds, steady.
        measure: Begins to measure the masks of a request in metres, which ends in ``Measured``; False where there is
            nothing to measure with.
    """

    def __init__(
        self,
        frames: FrameSource,
        outlet: Outlet,
        limits: Callable[[], Limits],
        wake_at: Callable[[float | None], None],
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[str, Frame, Sequence[Region]], bool] = no_depth,
    ) -> None:
        self._frames = frames
        self._outlet = outlet
        self._limits = limits
        self._wake_at = wake_at
        self._clock = clock
        self._measure = measure
        self._active = False
        self._enabled = True
        self._transport: Transport | None = None
        self._running: Running | None = None
        self._waiting: deque[Request | worker.ForgetSessions] = deque()
        self.engine = EngineLife()
        self.state = UNCONFIGURED
        self._results = Results(outlet.publish_result, self.engine, clock)

    @property
    def is_idle(self) -> bool:
        """Whether a question that came now would be asked at once."""
        return self.state.state is State.READY and self._running is None and not self._waiting

    @property
    def latencies(self) -> Sequence[float]:
        """Seconds from receiving to the answer, of the last commands that the engine answered."""
        return self._results.latencies

    # --- from the lifecycle

    def configure(self, worker_: WorkerLike, transport: Transport) -> None:
        """A worker begins to load; its events come by ``handle``, its frames go by ``transport``."""
        self._transport = transport
        self.engine.begin(worker_, self._limits().model)
        self._settle()

    def activate(self) -> None:
        """From now on commands are taken. Raises NotReady where the model could not be loaded."""
        if self.state.state is State.ERROR:
            raise NotReady(f"{self.state.message}; clean up, correct the parameters, configure again")
        self._active = True
        self._settle()

    def deactivate(self) -> None:
        """Answer every open command NOT_READY; the worker keeps its model and its conversations."""
        self._active = False
        for request in self._open():
            self._give_up(request, NotReady("the node was deactivated meanwhile; activate it and ask again"))
        self._settle()

    def enable(self, enabled: bool) -> None:
        """Disabled: open commands and those that come are answered NOT_READY; the worker keeps its model."""
        self._enabled = enabled
        if not enabled:
            for request in self._open():
                self._give_up(request, NotReady(DISABLED))
        self._settle()

    def cleanup(self, state: NodeState = UNCONFIGURED) -> None:
        """There is no worker any more: answer every open command NOT_READY. ``state`` is shown from now on."""
        self._active, self._transport = False, None
        self.engine.end(state)
        requests, self._running = self._open(), None
        self._waiting.clear()
        self._show(state)
        for request in requests:
            self._results.refuse(request, NotReady(state.message))
        self._settle()

    # --- from the endpoints

    def submit(self, request: Request) -> None:
        """Take a request; every way from here ends in its one result."""
        request.received = self._clock()
        try:
            self._admit(request)
        except Exception as error:
            self._results.refuse(request, error)
        self._settle()

    def refuse(self, request: Request, error: LisaError) -> None:
        """Give a request that its endpoint cannot use its one result."""
        request.received = self._clock()
        self._results.refuse(request, error)

    def cancel(self, request_id: str) -> None:
        """Answer CANCELED now; the worker stops at the next token. Nothing happens where the result is out already."""
        for request in self._open():
            if request.request_id == request_id:
                self._give_up(request, Cancelled("canceled by the caller"))
        self._settle()

    def forget_sessions(self) -> None:
        """Clear every conversation: after the commands that came before, before those that come later."""
        if not self._waiting:
            self.engine.send(worker.ForgetSessions())
        elif not isinstance(self._waiting[-1], worker.ForgetSessions):
            self._waiting.append(worker.ForgetSessions())

    # --- from the clock and the worker

    def tick(self) -> None:
        """Look at the time limits."""
        now, running = self._clock(), self._running
        for request in self._open():
            if now >= request.deadline:
                waited = request.deadline - request.received
                stage = running.stage.name.lower() if running and running.request is request else "queued"
                text = f"no answer within {waited:g} s (stage: {stage}); give it a longer timeout, or raise timeout_s"
                self._give_up(request, TimedOut(text))
        if running and running.given_up is not None and now >= self._stuck_at(running.given_up):
            self.engine.restart(f"it did not stop within {self._limits().stuck_worker_s:g} s")
            running.given_up = now
        self._settle()

    def handle(self, event: worker.Event | Measured) -> None:
        """Take in what the worker says, and what was measured."""
        if isinstance(event, RequestEvent):
            if self._running is not None and self._running.request.request_id == event.request_id:
                self._follow(self._running, event)
        else:
            self.engine.handle(event, self._limits().model)
            if isinstance(event, worker.LoadFailed | worker.Died):
                self._show(self.engine.state)
                self._drop_everything()
        self._settle()

    def _follow(self, running: Running, event: RequestEvent) -> None:
        if isinstance(event, worker.Done):
            self._take_answer(running, event)
        elif isinstance(event, worker.Failed):
            self._running = None
            self._results.refuse(running.request, event.error, running.frame)
        elif isinstance(event, Measured):
            if running.done is not None:
                self._running = None
                self._results.succeed(running, running.done, event.objects)
        else:
            self._report(running, running.take(event))

    def _report(self, running: Running, new: Sequence[Region]) -> None:
        """Pass on what is known of the answer so far."""
        if running.request.answered:
            return
        if new and self._limits().early_mask and running.request.published:
            call_safely(self._outlet.publish_early, running.frame, running.kept(running.announced))
        self._publish_progress(running.request, running.progress(new))

    def _publish_progress(self, request: Request, progress: Progress) -> None:
        """To the caller, and to everybody where it is a command of somebody."""
        call_safely(request.on_progress, progress)
        if request.published:
            call_safely(self._outlet.publish_progress, request, progress)

    # --- a request's life

    def _admit(self, request: Request) -> None:
        clean_request(request, self._limits())
        info = self.engine.info
        if info is None or not self._active or not self._enabled:
            raise NotReady(f"{self.state.message}; see ~/status")
        check_supported(request, info)
        self._frames.check(request.image, request.camera)
        running = self._running
        if running is not None and running.request.background and not request.background:
            if not running.request.answered:
                self._give_up(running.request, Cancelled("a person's command comes first"))
            places = self._limits().queue_size + 1  # the node's own question takes no place in the queue
        else:
            places = 0 if request.background else self._limits().queue_size
        if running is None and not (request.background and self._waiting):
            self._start(request)
        elif len(self._queued()) < places:
            self._waiting.append(request)
            self._publish_progress(request, Progress(Stage.QUEUED))
        else:
            raise Busy(
                f"one command is running and {len(self._queued())} are waiting; ask again later, or raise queue_size"
            )

    def _start(self, request: Request) -> None:
        frame = self._frames.take(request.image, request.camera)
        assert self._transport is not None
        ticket = self._transport.put(frame.rgb)
        self._running = Running(request, frame, self._limits().min_score)
        call_safely(self._outlet.frame_taken, frame)
        self.engine.send(worker.Command(request.request_id, request.ask, ticket, request.session, frame.proposals))
        self._publish_progress(request, self._running.progress())

    def _start_next(self) -> None:
        while self._running is None and self._waiting and self.engine.ready is not None:
            first = self._waiting.popleft()
            if isinstance(first, worker.ForgetSessions):
                self.engine.send(first)
                continue
            try:
                self._start(first)
            except Exception as error:
                self._results.refuse(first, error)

    def _take_answer(self, running: Running, done: worker.Done) -> None:
        """The engine is done; the request keeps its place until its masks are measured."""
        self.engine.gpu_bytes = done.gpu_bytes
        request = running.request
        regions = running.kept(running.regions(done))
        if regions and not request.answered and request.published and self._measures(running, regions):
            running.done = done
        else:
            self._running = None
            self._results.succeed(running, done, ())

    def _measures(self, running: Running, regions: Sequence[Region]) -> bool:
        """Begin to; whatever goes wrong with depth, the masks themselves are answered."""
        try:
            return self._measure(running.request.request_id, running.frame, regions)
        except Exception:
            logger.error("%s", traceback.format_exc())
            return False

    def _give_up(self, request: Request, error: LisaError) -> None:
        """Answer now; a worker that has the request is asked to stop, and keeps its place until it did.

        While its masks are measured the worker is done with it: there is nothing to stop.
        """
        running = self._running
        if running is not None and running.request is request:
            if running.done is not None:
                self._running = None
            else:
                self.engine.send(worker.Cancel(request.request_id))
                running.given_up = self._clock()
            self._results.refuse(request, error, running.frame)
        else:
            self._waiting.remove(request)
            self._results.refuse(request, error)

    def _drop_everything(self) -> None:
        """There is no engine: the running request fails, the waiting ones are not kept for one that may never come."""
        if self._running is not None and self._running.done is None:  # an engine that is done has left us its answer
            running, self._running = self._running, None
            self._results.refuse(running.request, LisaError(f"{self.state.message}; ask again then"), running.frame)
        queued = self._queued()
        self._waiting.clear()  # with what was to be forgotten: a new worker remembers nothing
        for request in queued:
            self._results.refuse(request, NotReady(self.state.message))

    # --- after every change

    def _settle(self) -> None:
        self._start_next()
        self._show(self._current_state())
        deadlines = [request.deadline for request in self._open()]
        if self._running is not None and self._running.given_up is not None:
            deadlines.append(self._stuck_at(self._running.given_up))
        self._wake_at(min(deadlines, default=None))

    def _current_state(self) -> NodeState:
        info = self.engine.info
        if info is None:
            return self.engine.state
        state, message = self._condition()
        return NodeState(state, message, 1.0, len(self._queued()), info.name, info.device, info.precision)

    def _condition(self) -> tuple[State, str]:
        """Of a node whose model is loaded."""
        if not self._active:
            return State.INACTIVE, "the node is inactive: the model is loaded, commands are not taken; activate it"
        if not self._enabled:
            return State.INACTIVE, DISABLED
        if self._running is not None and (self._waiting or not self._running.request.background):
            return State.BUSY, "working on a command"
        return State.READY, "waiting for a command"

    def _show(self, state: NodeState) -> None:
        if state != self.state:
            self.state = state
            call_safely(self._outlet.publish_state, state)

    def _open(self) -> list[Request]:
        """Requests without a result."""
        running = self._running
        return [running.request, *self._queued()] if running and not running.request.answered else self._queued()

    def _queued(self) -> list[Request]:
        return [waiting for waiting in self._waiting if isinstance(waiting, Request)]

    def _stuck_at(self, given_up: float) -> float:
        return given_up + self._limits().stuck_worker_s
