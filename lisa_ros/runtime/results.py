"""The one result of each request: made, logged and handed to its caller and the publishers."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lisa_ros.engine.api import Region
from lisa_ros.errors import LisaError
from lisa_ros.perception.geometry import Object3D
from lisa_ros.runtime import worker
from lisa_ros.runtime.engine_life import EngineLife
from lisa_ros.runtime.requests import Frame, Request, Result
from lisa_ros.runtime.running import Running
from lisa_ros.runtime.status import Status, message_of, status_of

logger = logging.getLogger(__name__)

SHOWN_LENGTH = 80
REMEMBERED_LATENCIES = 100


class Results:
    """Gives every request exactly one result. Those that are not published go to their caller only.

    Args:
        publish: Publishes a result.
        engine: Names the model.
        clock: Seconds, steady.

    Attributes:
        latencies: Seconds from receiving to the answer, of the last commands that the engine answered.
    """

    def __init__(self, publish: Callable[[Result], None], engine: EngineLife, clock: Callable[[], float]) -> None:
        self._publish = publish
        self._engine = engine
        self._clock = clock
        self.latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)

    def succeed(self, running: Running, done: worker.Done, objects: Sequence[Object3D]) -> None:
        """The engine answered: SUCCESS, or NOT_FOUND without a mask."""
        request, every = running.request, running.regions(done)
        regions = running.kept(every)
        result = Result(
            Status.SUCCESS if regions else Status.NOT_FOUND,
            message_of(every, done.absent, request.ask.targets) or below(running.min_score, every, regions),
            request.request_id,
            request.ask,
            frame=running.frame,
            text=done.text,
            regions=regions,
            absent=done.absent,
            objects=objects,
            timings=done.timings,
        )
        self._finish(request, result, running.frame)

    def refuse(self, request: Request, error: Exception, frame: Frame | None = None) -> None:
        """There is no answer. A fault of ours is logged with its traceback."""
        if not isinstance(error, LisaError | MemoryError):
            logger.error("%s", "".join(traceback.format_exception(type(error), error, error.__traceback__)))
        text = str(error) if isinstance(error, LisaError) else f"{type(error).__name__}: {error}; see the node's log"
        self._finish(request, Result(status_of(error), text, request.request_id, request.ask), frame)

    def _finish(self, request: Request, result: Result, frame: Frame | None) -> None:
        if request.answered:
            return
        request.answered = True
        info = self._engine.info
        result = replace(
            result,
            header=frame.header if frame is not None else getattr(request.image, "header", None),
            camera=camera_of(request, frame),
            session=request.session,
            source=request.source,
            timings=replace(result.timings, total_s=self._clock() - request.received),
            model=info.name if info is not None else "",
            precision=info.precision if info is not None else "",
        )
        if request.published:
            self._log(request, result)
            call_safely(self._publish, result)
        call_safely(request.on_result, result)

    def _log(self, request: Request, result: Result) -> None:
        answered = result.frame is not None
        if answered:
            self.latencies.append(result.timings.total_s)
        # A standing command is asked again and again.
        log = logger.debug if request.background else logger.info if answered else logger.warning
        command = shorten(request.ask.text or ", ".join(request.ask.targets))
        log("%s %r: %s %s", request.request_id, command, result.status.name, result.message or result.text)


def below(min_score: float, every: Sequence[Region], kept: Sequence[Region]) -> str:
    """Why an answer with masks has none; empty where it has some."""
    if kept or not every:
        return ""
    best = max(region.score for region in every)
    return f"every mask is below min_score: the best has {best:.2f}, {min_score:g} is needed"


def camera_of(request: Request, frame: Frame | None) -> str:
    """Name of the camera that a request is about; empty for an image of the caller's own."""
    if request.image is not None:
        return ""
    return frame.camera if frame is not None else request.camera


def call_safely(callback: Callable[..., None], *values: Any) -> None:
    """Call ``callback``; what goes wrong there is logged, and keeps no one else from their result."""
    try:
        callback(*values)
    except Exception:
        logger.error("%s", traceback.format_exc())


def shorten(text: str) -> str:
    """For a log line."""
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}... ({len(text)} characters)"
