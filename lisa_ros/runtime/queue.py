"""From a command to its one final answer: checks, the queue, time limits, cancels and what the worker says.

No rclpy in here: one thread calls it, with a clock, a worker and a source of frames that a test can make up.
"""

from __future__ import annotations

import logging
import time
import traceback
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lisa_ros.engine.api import MaskCrop, Timings
from lisa_ros.errors import Cancelled, CommandError, LisaError
from lisa_ros.perception.geometry import Object3D
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime import worker
from lisa_ros.runtime.status import NOTHING_FOUND, Busy, NotReady, Stage, State, Status, TimedOut, status_of

logger = logging.getLogger(__name__)

MAX_SESSION_LENGTH = 256
SHOWN_LENGTH = 80
REMEMBERED_LATENCIES = 100


@dataclass(frozen=True)
class Frame:
    """The image a command is about; its pixels are in the memory shared with the worker.

    header: the source image's, untouched. size: (height, width). age_s: from its stamp to when it was taken up.
    camera: name of the one that it is from, or that calibration and depth of a caller's own image are taken from.
    """

    header: Any
    size: tuple[int, int]
    age_s: float
    camera: str = ""


@dataclass(frozen=True)
class Progress:
    """What is known of a command before its answer. crops: all masks so far."""

    stage: Stage
    partial_answer: str = ""
    crops: list[MaskCrop] = field(default_factory=list)
    frame: Frame | None = None


@dataclass(frozen=True)
class Answer:
    """The final answer to one command.

    header: of the image; None where the command never got to one. frame: None unless the model answered. objects: the
    crops in metres, in the same order, or none of them.
    """

    status: Status
    message: str
    request_id: str
    command: str
    header: Any = None
    frame: Frame | None = None
    session: str = ""
    text: str = ""
    crops: list[MaskCrop] = field(default_factory=list)
    objects: list[Object3D] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    precision: str = ""


def _ignore(_: Progress) -> None:
    pass


def _without_depth(_: str, __: Frame, ___: list[MaskCrop]) -> bool:
    return False


@dataclass(frozen=True)
class Measured:
    """objects: the masks of a command in metres, in the same order, or none of them."""

    request_id: str
    objects: list[Object3D]


@dataclass(eq=False)
class Request:
    """One command, by whichever door it came.

    image: the caller's own sensor_msgs/Image; None: the newest frame of ``camera``, empty: of the first one.
    timeout_s: 0 takes the node's limit. on_answer is called exactly once. own: the node's own question, not a person's
    command (see ``look_again``).
    """

    request_id: str
    command: str
    on_answer: Callable[[Answer], None]
    on_progress: Callable[[Progress], None] = _ignore
    explain: bool = False
    session: str = ""
    image: Any = None
    camera: str = ""
    timeout_s: float = 0.0
    own: bool = False
    received: float = 0.0
    deadline: float = 0.0
    answered: bool = False


@dataclass(eq=False)
class Work:
    """A request that the worker has. It may be answered (canceled, timed out) before the worker lets go of it."""

    request: Request
    frame: Frame
    stage: Stage = Stage.ENCODING
    partial_answer: str = ""
    crops: list[MaskCrop] = field(default_factory=list)
    given_up: float | None = None
    done: worker.Done | None = None  # while the masks are measured

    def progress(self) -> Progress:
        return Progress(self.stage, self.partial_answer, self.crops, self.frame)


@dataclass(frozen=True)
class NodeState:
    """What ~/status shows. progress: of loading, 0..1."""

    state: State
    message: str
    progress: float = 1.0
    queued: int = 0
    model: str = ""
    device: str = ""
    precision: str = ""


UNCONFIGURED = NodeState(
    State.UNCONFIGURED, "the node is not configured: it has no model; configure and activate it", 0.0
)
FINALIZED = NodeState(State.FINALIZED, "the node was shut down; start it again", 0.0)


class WorkerLike(Protocol):
    @property
    def pid(self) -> int | None: ...
    def send(self, command: worker.Command | worker.Cancel | worker.ForgetSessions) -> None: ...
    def restart(self, reason: str) -> None: ...


class Outlet(Protocol):
    """Where answers and states go: the node's topics."""

    def publish_answer(self, answer: Answer) -> None: ...
    def publish_early(self, frame: Frame, crops: list[MaskCrop]) -> None: ...
    def publish_state(self, state: NodeState) -> None: ...


class RequestQueue:
    """One command at the worker, a bounded number waiting, and exactly one answer for each.

    It lives as long as the node; a worker comes with ``configure`` and goes with ``cleanup``, and commands are taken
    between ``activate`` and ``deactivate``. A command at any other time is answered NOT_READY.

    take_frame: puts the pixels of a request's image, or of its camera's newest frame, into the shared memory; raises
    ImageError or NoImage. check_image: of an image that a caller sent and of the camera's name, what can be said
    without pixels; raises ImageError or CommandError. wake_at: asks to be called
    (``tick``) at that time of ``clock``, or not at all (None). measure: begins to
    measure a command's masks in metres, which end in ``Measured``; False where there is nothing to measure with.
    """

    def __init__(
        self,
        take_frame: Callable[[Any, str], Frame],
        check_image: Callable[[Any, str], object],
        outlet: Outlet,
        parameters: Callable[[], Parameters],
        wake_at: Callable[[float | None], None],
        clock: Callable[[], float] = time.monotonic,
        measure: Callable[[str, Frame, list[MaskCrop]], bool] = _without_depth,
    ) -> None:
        self._worker: WorkerLike | None = None
        self._active = False
        self._take_frame = take_frame
        self._check_image = check_image
        self._outlet = outlet
        self._parameters = parameters
        self._wake_at = wake_at
        self._clock = clock
        self._measure = measure
        self._work: Work | None = None
        self._waiting: deque[Request | worker.ForgetSessions] = deque()
        self._ready: worker.Ready | None = None
        self.state = UNCONFIGURED
        self.latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)  # [s] of the last commands with an answer
        self.restarts = 0
        self.gpu_bytes = 0

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while it runs."""
        return self._worker.pid if self._worker is not None else None

    # --- from the lifecycle

    def configure(self, worker_: WorkerLike) -> None:
        """A worker has begun to load; what it says comes by ``handle``."""
        self._worker = worker_
        self._show(NodeState(State.LOADING, "the model is being loaded", 0.0, model=self._parameters().model))

    def activate(self) -> None:
        """From now on commands are taken. Raises NotReady where the model could not be loaded."""
        if self.state.state is State.ERROR:
            raise NotReady(f"{self.state.message}; clean up, correct the parameters, configure again")
        self._active = True
        self._settle()

    def deactivate(self) -> None:
        """Answer every open command NOT_READY; the worker keeps its model and what it was told."""
        self._active = False
        for request in self._open():
            self._give_up(request, NotReady("the node was deactivated meanwhile; activate it and ask again"))
        self._settle()

    def cleanup(self, state: NodeState = UNCONFIGURED) -> None:
        """There is no worker any more: answer every open command NOT_READY. ``state`` is shown from now on."""
        self._worker, self._ready, self._active = None, None, False
        self.gpu_bytes = 0
        requests, self._work = self._open(), None
        self._waiting.clear()
        self._show(state)
        for request in requests:
            self._refuse(request, NotReady(state.message))
        self._settle()

    # --- from the doors

    def submit(self, request: Request) -> None:
        """Take a command; every way from here ends in its one answer."""
        request.received = self._clock()
        try:
            self._admit(request)
        except Exception as error:
            self._refuse(request, error)
        self._settle()

    def look_again(self, request: Request) -> bool:
        """Put a question of the node's own to a worker that has nothing to do; False where it is not so.

        Nobody hears of it but ``request.on_answer``. It is given up as soon as a person's command comes.
        """
        if self._ready is None or not self._active or self._work is not None or self._waiting:
            return False
        request.own, request.received = True, self._clock()
        request.deadline = request.received + self._parameters().timeout_s
        try:
            self._start(request)
        except Exception as error:
            self._refuse(request, error)
        self._settle()
        return True

    def cancel(self, request_id: str) -> None:
        """Answer CANCELED now; the worker stops at the next token. Nothing happens where the answer is out already."""
        for request in self._open():
            if request.request_id == request_id:
                self._give_up(request, Cancelled("canceled by the caller"))
        self._settle()

    def forget_sessions(self) -> None:
        """Clear every conversation: after the commands that came before, before those that come later."""
        if not self._waiting:
            self._tell(worker.ForgetSessions())
        elif not isinstance(self._waiting[-1], worker.ForgetSessions):
            self._waiting.append(worker.ForgetSessions())

    # --- from the clock and the worker

    def tick(self) -> None:
        """Look at the time limits."""
        now = self._clock()
        for request in self._open():
            if now >= request.deadline:
                waited = request.deadline - request.received
                stage = self._work.stage.name.lower() if self._work and self._work.request is request else "queued"
                text = f"no answer within {waited:g} s (stage: {stage}); give it a longer timeout, or raise timeout_s"
                self._give_up(request, TimedOut(text))
        if self._work and self._work.given_up is not None and now >= self._stuck_at(self._work.given_up):
            self._restart(f"it did not stop within {self._parameters().stuck_worker_s:g} s")
            self._work.given_up = now
        self._settle()

    def handle(self, event: worker.Event | Measured) -> None:
        """Take in what the worker says, and what was measured."""
        if isinstance(event, worker.Staged | worker.Answering | worker.Found | worker.Done | worker.Failed | Measured):
            if self._work is not None and self._work.request.request_id == event.request_id:
                self._follow(self._work, event)
        else:
            self._follow_life(event)
        self._settle()

    def _follow(self, work: Work, event: worker.Event | Measured) -> None:
        if isinstance(event, worker.Done):
            self._take_answer(work, event)
            return
        if isinstance(event, Measured | worker.Failed):
            self._work = None
            if isinstance(event, worker.Failed):
                self._refuse(work.request, event.error, work.frame)
            elif work.done is not None:
                self._succeed(work, work.done, event.objects)
            return
        if isinstance(event, worker.Staged):
            work.stage = Stage.__members__.get(event.name.upper(), work.stage)
        elif isinstance(event, worker.Answering):
            work.partial_answer = event.text
        elif isinstance(event, worker.Found):
            work.crops = work.crops + [crop for crop in event.crops if crop.area]
        if work.request.answered:
            return
        if isinstance(event, worker.Found) and self._parameters().early_mask and not work.request.own:
            _safely(self._outlet.publish_early, work.frame, work.crops)
        _safely(work.request.on_progress, work.progress())

    def _follow_life(self, event: worker.Event) -> None:
        path = self._parameters().model
        if isinstance(event, worker.Loading):
            self._ready = None
            self._show(NodeState(State.LOADING, "the model is being loaded", event.progress, model=path))
        elif isinstance(event, worker.Ready):
            self._ready = event
            self.gpu_bytes = event.gpu_bytes
            what = f"{event.name} on {event.device} in {event.precision}"
            logger.info("ready: %s, loaded in %.1f s", what, event.load_s)
        elif isinstance(event, worker.LoadFailed):
            text = f"the model cannot be loaded: {event.error}"
            logger.error("%s", text)
            self._show(NodeState(State.ERROR, text, 0.0, model=path))
            self._drop_everything()
        elif isinstance(event, worker.Died):
            self.restarts += 1
            self.gpu_bytes = 0
            text = f"the worker process died {event.cause}; it is started again in {event.pause_s:g} s"
            logger.error("%s", text)
            self._show(NodeState(State.RESTARTING, text, 0.0, model=path))
            self._drop_everything()

    # --- a command's life

    def _admit(self, request: Request) -> None:
        parameters = self._parameters()
        request.deadline = request.received + (request.timeout_s or parameters.timeout_s)
        request.command = clean_command(request.command, parameters.max_command_length)
        check_session(request.session)
        if request.timeout_s < 0:
            raise CommandError(
                f"the timeout is {request.timeout_s:g} s; give a positive one, or 0 for the node's limit"
            )
        if self._ready is None or not self._active:
            raise NotReady(f"{self.state.message}; see ~/status")
        self._check_image(request.image, request.camera)
        own = self._work is not None and self._work.request.own  # takes no place in the queue
        if self._work is not None and own and not self._work.request.answered:
            self._give_up(self._work.request, Cancelled("a person's command comes first"))
        if self._work is None:
            self._start(request)
        elif len(self._queued()) < parameters.queue_size + own:
            self._waiting.append(request)
            _safely(request.on_progress, Progress(Stage.QUEUED))
        else:
            raise Busy(
                f"one command is running and {len(self._queued())} are waiting; ask again later, or raise queue_size"
            )

    def _start(self, request: Request) -> None:
        frame = self._take_frame(request.image, request.camera)
        self._work = Work(request, frame)
        self._tell(
            worker.Command(
                request.request_id,
                request.command,
                frame.size,
                request.explain,
                request.session,
                self._parameters().max_new_tokens,
            )
        )
        _safely(request.on_progress, self._work.progress())

    def _start_next(self) -> None:
        while self._work is None and self._waiting and self._ready is not None:
            first = self._waiting.popleft()
            if isinstance(first, worker.ForgetSessions):
                self._tell(first)
                continue
            try:
                self._start(first)
            except Exception as error:
                self._refuse(first, error)

    def _take_answer(self, work: Work, done: worker.Done) -> None:
        """The model is done; the command keeps its place, and the frame its memory, until the masks are measured."""
        self.gpu_bytes = done.gpu_bytes
        work.crops = work.crops + [crop for crop in done.crops if crop.area]
        if work.crops and not work.request.answered and not work.request.own and self._measures(work):
            work.done = done
        else:
            self._work = None
            self._succeed(work, done, [])

    def _measures(self, work: Work) -> bool:
        """Begin to; whatever goes wrong with depth, the masks themselves are answered."""
        try:
            return self._measure(work.request.request_id, work.frame, work.crops)
        except Exception:
            logger.error("%s", traceback.format_exc())
            return False

    def _succeed(self, work: Work, done: worker.Done, objects: list[Object3D]) -> None:
        crops = work.crops
        status = Status.SUCCESS if crops else Status.NOT_FOUND
        message = "" if crops else NOTHING_FOUND
        self._finish(work.request, status, message, work.frame, done.answer, crops, objects, done.timings)

    def _refuse(self, request: Request, error: Exception, frame: Frame | None = None) -> None:
        status = status_of(error)
        if not isinstance(error, LisaError | MemoryError):
            logger.error("%s", "".join(traceback.format_exception(type(error), error, error.__traceback__)))
        text = str(error) if isinstance(error, LisaError) else f"{type(error).__name__}: {error}; see the node's log"
        self._finish(request, status, text, frame)

    def _give_up(self, request: Request, error: LisaError) -> None:
        """Answer now; where the worker has the command, it is told to stop and keeps its place until it did."""
        if self._work is not None and self._work.request is request:
            self._tell(worker.Cancel(request.request_id))
            self._work.given_up = self._clock()
            self._refuse(request, error, self._work.frame)
        else:
            self._waiting.remove(request)
            self._refuse(request, error)

    def _drop_everything(self) -> None:
        """There is no worker: the running command fails, the waiting ones are not kept for one that may never come."""
        self._ready = None
        if self._work is not None and self._work.done is None:  # a model that is done has left us its answer
            work, self._work = self._work, None
            self._refuse(work.request, LisaError(f"{self.state.message}; ask again then"), work.frame)
        queued = self._queued()
        self._waiting.clear()  # with what was to be forgotten: a new worker remembers nothing
        for request in queued:
            self._refuse(request, NotReady(self.state.message))

    def _finish(
        self,
        request: Request,
        status: Status,
        message: str,
        frame: Frame | None,
        text: str = "",
        crops: list[MaskCrop] | None = None,
        objects: list[Object3D] | None = None,
        timings: Timings | None = None,
    ) -> None:
        if request.answered:
            return
        request.answered = True
        answered = status in (Status.SUCCESS, Status.NOT_FOUND)
        answer = Answer(
            status,
            message,
            request.request_id,
            request.command,
            header=frame.header if frame is not None else getattr(request.image, "header", None),
            frame=frame if answered else None,
            session=request.session,
            text=text,
            crops=crops or [],
            objects=objects or [],
            timings=replace(timings or Timings(), total_s=self._clock() - request.received),
            model=self._ready.name if self._ready is not None else "",
            precision=self._ready.precision if self._ready is not None else "",
        )
        if not request.own:
            if answered:
                self.latencies.append(answer.timings.total_s)
            log = logger.info if answered else logger.warning
            log("%s %r: %s %s", request.request_id, shorten(request.command), status.name, message or text)
            _safely(self._outlet.publish_answer, answer)
        _safely(request.on_answer, answer)

    # --- after every change

    def _settle(self) -> None:
        self._start_next()
        if self._ready is not None:
            state, message = self._condition()
            ready = self._ready
            self._show(
                NodeState(state, message, 1.0, len(self._queued()), ready.name, ready.device, ready.precision),
            )
        deadlines = [request.deadline for request in self._open()]
        if self._work is not None and self._work.given_up is not None:
            deadlines.append(self._stuck_at(self._work.given_up))
        self._wake_at(min(deadlines, default=None))

    def _condition(self) -> tuple[State, str]:
        """Of a node whose model is loaded."""
        if not self._active:
            return State.INACTIVE, "the node is inactive: the model is loaded, commands are not taken; activate it"
        if self._work is not None and (self._waiting or not self._work.request.own):
            return State.BUSY, "working on a command"
        return State.READY, "waiting for a command"

    def _show(self, state: NodeState) -> None:
        if state != self.state:
            self.state = state
            _safely(self._outlet.publish_state, state)

    def _open(self) -> list[Request]:
        """Requests without an answer."""
        running = [self._work.request] if self._work is not None and not self._work.request.answered else []
        return running + self._queued()

    def _queued(self) -> list[Request]:
        return [waiting for waiting in self._waiting if isinstance(waiting, Request)]

    def _tell(self, message: worker.Command | worker.Cancel | worker.ForgetSessions) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _restart(self, reason: str) -> None:
        if self._worker is not None:
            self._worker.restart(reason)

    def _stuck_at(self, given_up: float) -> float:
        return given_up + self._parameters().stuck_worker_s


def _safely(publish: Callable[..., None], *values: Any) -> None:
    """Call ``publish``; what goes wrong there is logged, and keeps no one else from the answer."""
    try:
        publish(*values)
    except Exception:
        logger.error("%s", traceback.format_exc())


def clean_command(text: str, max_length: int) -> str:
    """The command as one line. Raises CommandError for an empty or too long one, or one with control characters.

    Line breaks and tabs become spaces, since people paste; special tokens of the model are left: to it they are text.
    """
    if len(text) > max_length:
        raise CommandError(
            f"the command has {len(text)} characters; at most {max_length} are taken (max_command_length)"
        )
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise CommandError(
                f"the command has the control character U+{ord(character):04X} at position {position}; send plain text"
            )
    line = " ".join(text.split())
    if not line:
        raise CommandError("the command is empty; say what to look for, as to a person")
    return line


def check_session(session: str) -> None:
    """Raise CommandError for a session id that nobody would choose on purpose."""
    if len(session) > MAX_SESSION_LENGTH:
        raise CommandError(f"the session id has {len(session)} characters; at most {MAX_SESSION_LENGTH} are taken")


def shorten(text: str) -> str:
    """For a log line."""
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}... ({len(text)} characters)"
