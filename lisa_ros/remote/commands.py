"""Commands that come by the network, and the one thread that has the engine answer them."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Event, Stage, Token
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Busy, Cancelled, CommandError, ImageError, LisaError, OutOfMemory, TimedOut
from lisa_ros.perception.image_codec import decode_compressed, open_compressed
from lisa_ros.plain_text import check_plain
from lisa_ros.remote import wire
from lisa_ros.runtime.answer_regions import AnswerRegions
from lisa_ros.runtime.encoded_frames import EncodedFrames
from lisa_ros.runtime.worker_process import as_lisa_error, whole_timings

logger = logging.getLogger(__name__)

END = b""
"""Sent after the last event."""

NOT_KEPT = {"event": "frame not kept"}
"""The last event where a command names a frame that is not kept: the client sends it again with the picture."""


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        waiting: Most commands that wait while one runs; a further one is Busy.
        timeout_s: Seconds from the arrival of a command to its answer.
        stuck_s: A command that goes on for so long after it was to stop makes the server unhealthy.
        kept_frames: Encoded frames that are kept for further commands.
        max_image_pixels: Largest picture.
        max_request_bytes: Largest request.
        upload_s: Seconds until a request must be there as a whole.
    """

    waiting: int = 8
    timeout_s: float = 300.0
    stuck_s: float = 60.0
    kept_frames: int = 8
    max_image_pixels: int = 50_000_000
    max_request_bytes: int = 64_000_000
    upload_s: float = 30.0


@dataclass(eq=False)
class Command:
    """One command.

    Args:
        answer: Does the work in the engine's thread: ``answer(command)`` sends events and returns the last one.
        send: Called with each event, packed; from the engine's thread.
        timeout_s: Until it must be answered.
    """

    answer: Callable[[Command], dict[str, Any]]
    send: Callable[[bytes], None]
    timeout_s: float
    arrived: float = field(default_factory=time.monotonic)
    given_up: float | None = None
    text: str = ""

    def should_stop(self) -> bool:
        return self.given_up is not None or self.late

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() > self.arrived + self.timeout_s

    def report(self, message: Mapping[str, Any]) -> None:
        self.send(wire.pack(message))

    def report_text(self, text: str) -> None:
        """Send what is new of the answer's text."""
        same = next((at for at, (old, new) in enumerate(zip(self.text, text, strict=False)) if old != new), None)
        same = min(len(self.text), len(text)) if same is None else same
        self.text = text
        self.report({"event": "token", "same": same, "text": text[same:]})


class EngineThread:
    """Answers one command after another with an engine; a bounded number waits.

    Args:
        engine: Answers.
        limits: Of the server.
        on_end: Called with each command that ended and the name of its outcome: success, not_found, or of an error.
    """

    def __init__(
        self, engine: SupportedEngine, limits: Limits, on_end: Callable[[Command, str], None] = lambda *_: None
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.frames = EncodedFrames(engine, limits.kept_frames)
        self._on_end = on_end
        self._changed = threading.Condition()
        self._waiting: deque[Command] = deque()
        self.running: Command | None = None
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Number of commands that wait."""
        return len(self._waiting)

    @property
    def stuck_s(self) -> float:
        """Seconds since the running command was to stop; 0 where it was not."""
        running = self.running
        if running is None:
            return 0.0
        end = running.arrived + running.timeout_s
        return max(time.monotonic() - min(running.given_up or end, end), 0.0)

    def submit(self, command: Command) -> None:
        """Queue a command. Raises Busy."""
        with self._changed:
            if (self.running is not None) + len(self._waiting) > self.limits.waiting:
                raise Busy(
                    f"one command runs and {self.limits.waiting} wait, the most that this server takes; ask later"
                )
            self._waiting.append(command)
            self._changed.notify()

    def give_up(self, command: Command) -> None:
        """Nobody waits for this command any more."""
        with self._changed:
            command.given_up = time.monotonic()
            if command in self._waiting:
                self._waiting.remove(command)
                self._on_end(command, "Cancelled")

    def _work(self) -> None:
        while True:
            with self._changed:
                self.running = None
                self._changed.wait_for(lambda: self._waiting)
                self.running = command = self._waiting.popleft()
            self._on_end(command, self._run(command))
            command.send(END)

    def _run(self, command: Command) -> str:
        """Answer one command; whatever happens, its last event is sent. Returns the outcome."""
        try:
            if command.late:
                raise TimedOut(f"the command waited for more than {command.timeout_s:g} s; ask later")
            last = command.answer(command)
            command.report(last)
            return "not_found" if not last.get("order", True) else "success"
        except BaseException as error:  # an engine may raise anything
            if not isinstance(error, LisaError):
                logger.error("%s", traceback.format_exc())
            known = as_lisa_error(error, "the model failed")
            if isinstance(known, Cancelled) and command.given_up is None and command.late:
                known = TimedOut(f"the answer took more than {command.timeout_s:g} s, the limit of this server")
            if isinstance(known, OutOfMemory):
                self.frames.free_memory()
            command.report(wire.error_message(known))
            return type(known).__name__


# --- the two things that an engine is asked for


class Question:
    """What a request asks for. It is read at once and answered later, in the engine's thread.

    Args:
        request: The message: ``asks``, a list of commands; ``answers``, for teacher-forced masks, or None; ``details``;
            ``picture``, a JPEG or PNG, or None where it was sent before; ``digest``, its sha256.
        thread: Answers it.

    Raises:
        WireError: The request cannot be read.
        CommandError: The engine cannot answer it.
    """

    def __init__(self, request: Mapping[str, Any], thread: EngineThread) -> None:
        engine = thread.engine
        self._thread = thread
        self._asks = wire.get_list(request, "asks", lambda ask: wire.ask_of(ask, engine.info))
        if not self._asks:
            raise wire.WireError("there is no command")
        for ask in self._asks:
            for text in (ask.text, *ask.targets):
                check_plain(text, "the command")
            engine.check(ask)
        self._answers = None if request.get("answers") is None else wire.texts(request, "answers")
        if self._answers is not None and len(self._answers) != len(self._asks):
            raise wire.WireError(f"{len(self._answers)} answers for {len(self._asks)} commands")
        if self._answers is None and len(self._asks) != 1:
            raise CommandError(f"{len(self._asks)} commands in one request; send one")
        self._details = wire.get(request, "details", bool)
        self._key = wire.get(request, "digest", bytes)
        self._picture = None if request.get("picture") is None else wire.get(request, "picture", bytes)
        if self._picture is not None and hashlib.sha256(self._picture).digest() != self._key:
            raise wire.WireError("the picture has another digest")

    @property
    def can_be_asked(self) -> bool:
        """Whether its frame is here, as a picture or encoded."""
        return self._picture is not None or self._key in self._thread.frames

    def answer(self, command: Command) -> dict[str, Any]:
        """The last event; the others are sent. Raises LisaError."""
        if not self.can_be_asked:
            return NOT_KEPT
        encoded, encode_s = self._encode(command)
        if command.should_stop():
            raise Cancelled("canceled while the image was encoded")
        if self._answers is not None:
            mask = self._thread.engine.teacher_forced(encoded, self._asks, self._answers)
            return {"event": "mask", "bits": wire.bits_of(mask)}
        return self._ask(command, encoded, encode_s)

    def _encode(self, command: Command) -> tuple[Any, float]:
        if self._key in self._thread.frames:
            return self._thread.frames.get(self._key), 0.0
        command.report({"event": "stage", "name": "encoding"})
        return self._thread.frames.encode(self._key, self._pixels)

    def _pixels(self) -> NDArray[np.uint8]:
        image = SimpleNamespace(data=self._picture, format="of the command")
        picture = open_compressed(image, self._thread.limits.max_image_pixels)
        if picture.format == "JPEG" and picture.mode == "RGB":
            rgb = _decode_jpeg(image.data)
        else:
            rgb = decode_compressed(image, self._thread.limits.max_image_pixels)
        rgb.flags.writeable = False
        return rgb

    def _ask(self, command: Command, encoded: Any, encode_s: float) -> dict[str, Any]:
        ask, regions = self._asks[0], AnswerRegions()

        def on_event(event: Event) -> None:
            if isinstance(event, Stage):
                command.report({"event": "stage", "name": event.name})
            elif isinstance(event, Token):
                command.report_text(event.text)
            elif new := regions.announce(event.regions):
                command.report({"event": "regions", "regions": [wire.region_message(region) for region in new]})

        answer = self._thread.engine.ask(encoded, ask, on_event, command.should_stop, self._details)
        new, order = regions.complete(answer.regions)
        timings = whole_timings(answer.timings, encode_s)
        return wire.answer_message(answer.text, new, order, answer.absent, timings, ask.history, answer.details)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels of a colour JPEG whose header was checked, in two thirds of Pillow's time. Raises ImageError.

    OpenCV accepts one that is cut off, but this one has its digest.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise ImageError(f"the JPEG of the command ({len(data)} bytes) is damaged; send it again")
    rgb = np.empty(bgr.shape, np.uint8)
    cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=rgb)
    return rgb
