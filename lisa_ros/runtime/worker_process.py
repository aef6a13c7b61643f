"""What runs in the worker process: load the engine, answer one command after another, report what happens meanwhile.

``lisa_ros.runtime.worker`` starts it: ``python -m lisa_ros.runtime.worker_process PARENT_PID CONNECTION_FD``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros import errors
from lisa_ros.engine.api import Ask, Conversation, EngineInfo, Event, Proposals, Stage, Timings, Token
from lisa_ros.engine.registry import load_engine
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Cancelled, ConfigError, LisaError, OutOfMemory
from lisa_ros.perception.labels import PackedLabels
from lisa_ros.process_tuning import keep_freed_buffers
from lisa_ros.runtime import worker
from lisa_ros.runtime.answer_regions import AnswerRegions, unique
from lisa_ros.runtime.encoded_frames import EncodedFrames
from lisa_ros.runtime.transport import Receiver

logger = logging.getLogger("lisa_ros.runtime.worker_process")  # __name__ is "__main__" here

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, connection_fd = map(int, sys.argv[1:])
    die_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides what it means
    pipe = ParentPipe(Connection(connection_fd))
    settings, frames = pipe.receive()
    logging.getLogger().addHandler(PipeHandler(pipe))
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    inbox = Inbox(pipe)
    started = time.monotonic()
    try:
        engine = load_engine(
            settings.model, settings.device, settings.precision, settings.options, loading_reporter(pipe)
        )
        info = plain_info(engine.info)
    except BaseException as error:
        pipe.send(load_failed(error))
        return
    keep_freed_buffers()
    warm_up(engine)
    pipe.send(worker.Ready(info, time.monotonic() - started, gpu_bytes()))
    commands = CommandRunner(engine, frames, settings, pipe, inbox)
    while True:
        commands.handle(inbox.next())


def warm_up(engine: SupportedEngine) -> None:
    """Answer a question about a made-up frame: a first command's own costs (memory, kernels) are paid before READY.

    A failure is no reason not to serve: it is logged, and a command that meets it again fails with it.
    """
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    noise.flags.writeable = False
    try:
        engine.ask(engine.encode(noise), Ask("the object", max_new_tokens=8))
    except Exception as error:
        logger.warning("the model's warm-up failed; commands may, too: %s: %s", type(error).__name__, error)


def load_failed(error: BaseException) -> worker.LoadFailed:
    """Why there is no engine. A traceback goes along where the error is nobody's on purpose."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        return worker.LoadFailed(
            ConfigError(f"the engine needs the Python module '{name}', which is not installed; install its package")
        )
    text = "" if isinstance(error, LisaError) else traceback.format_exc()
    return worker.LoadFailed(as_lisa_error(error, ""), text)


def plain_info(info: EngineInfo) -> EngineInfo:
    """``info`` in types that the node's process knows."""
    return EngineInfo(str(info.name), str(info.device), str(info.precision), frozenset(map(str, info.capabilities)))


def loading_reporter(pipe: ParentPipe) -> Callable[[float], None]:
    """A progress callback that reports every twentieth once: a model has hundreds of tensors."""
    reported = -1

    def report(progress: float) -> None:
        nonlocal reported
        share = min(max(float(progress), 0.0), 1.0)  # an engine may report anything
        if int(20 * share) > reported:
            reported = int(20 * share)
            pipe.send(worker.Loading(share))

    return report


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone, also when no Python runs here to notice."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def gpu_bytes() -> int:
    """What torch holds of the GPU's memory; 0 where it has none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())


class ParentPipe:
    """The connection to the parent; any thread may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, event: object) -> None:
        """event: of a kind that the parent knows."""
        with self._lock:
            try:
                self._connection.send(event)
            except OSError:  # the parent is gone, and with it everybody who wanted an answer
                os._exit(0)

    def receive(self) -> Any:
        return self._connection.recv()


class PipeHandler(logging.Handler):
    """Sends log records to the parent, which logs them as its own."""

    def __init__(self, pipe: ParentPipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send(worker.Log(record.levelno, record.name, self.format(record)))


class Inbox:
    """Commands in order. A thread reads the connection, so that a cancel is seen while a command runs."""

    def __init__(self, pipe: ParentPipe) -> None:
        self._pipe = pipe
        self._waiting: queue.SimpleQueue[worker.Command | worker.ForgetSessions] = queue.SimpleQueue()
        self._canceled = ""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> worker.Command | worker.ForgetSessions:
        return self._waiting.get()

    def is_canceled(self, request_id: str) -> bool:
        """Only the newest cancel is kept: there is one command at a time."""
        return self._canceled == request_id

    def _read(self) -> None:
        try:
            while True:
                message = self._pipe.receive()
                if isinstance(message, worker.Stop):
                    break
                if isinstance(message, worker.Cancel):
                    self._canceled = message.request_id
                else:
                    self._waiting.put(message)
        except (EOFError, OSError):
            pass
        os._exit(0)  # not sys.exit: it would only end this thread, and a model must not outlive its node


class CommandRunner:
    """Answers commands with the engine; keeps encoded frames and conversations, a bounded number of each."""

    def __init__(
        self,
        engine: SupportedEngine,
        frames: Receiver,
        settings: worker.WorkerSettings,
        pipe: ParentPipe,
        inbox: Inbox,
    ) -> None:
        self._engine = engine
        self._frames = frames
        self._pipe = pipe
        self._inbox = inbox
        self._settings = settings
        self._encoded = EncodedFrames(engine, settings.kept_frames)
        self._sessions: OrderedDict[str, Conversation] = OrderedDict()
        self._given: tuple[PackedLabels, Proposals] | None = None

    def handle(self, message: worker.Command | worker.ForgetSessions) -> None:
        if isinstance(message, worker.ForgetSessions):
            self._sessions.clear()
            return
        try:
            event: worker.Done | worker.Failed = self._answer(message)
        except BaseException as error:  # an engine may raise anything, SystemExit too
            if not isinstance(error, LisaError):
                logger.error("%s", traceback.format_exc())
            event = worker.Failed(message.request_id, as_lisa_error(error, "the model failed"))
            if isinstance(event.error, OutOfMemory):
                self._encoded.free_memory()
        self._pipe.send(event)

    def _answer(self, command: worker.Command) -> worker.Done:
        events = CommandEvents(command, self._pipe, self._inbox)
        if events.should_stop():
            raise Cancelled("canceled before the work began")
        encoded, encode_s = self._encode(command, events)
        if events.should_stop():
            raise Cancelled("canceled while the image was encoded")
        ask = replace(command.ask, history=self._history(command.session))
        if command.proposals is not None:
            ask = replace(ask, proposals=self._unpacked(command.proposals))
        answer = self._engine.ask(encoded, ask, events.on_event, events.should_stop)
        new, order = events.regions.complete(answer.regions)
        return worker.Done(
            command.request_id,
            answer.text,
            new,
            order,
            answer.absent,
            whole_timings(answer.timings, encode_s),
            gpu_bytes(),
            [region.spans for region in unique(answer.regions)],
        )

    def _encode(self, command: worker.Command, events: CommandEvents) -> tuple[Any, float]:
        """The encoded frame and the seconds it took: 0 where this frame was encoded before."""
        rgb = self._frames.get(command.ticket)
        # The pixels are the key: a frame that a client sends twice is recognised, too.
        key = hashlib.sha1(rgb.data, usedforsecurity=False).digest() + repr(rgb.shape).encode()
        if key in self._encoded:
            return self._encoded.get(key), 0.0
        events.on_event(Stage("encoding"))
        return self._encoded.encode(key, lambda: own_pixels(rgb))

    def _unpacked(self, labels: PackedLabels) -> Proposals:
        """The masks; those of the last command once more, where they are the same, so that engines know them again."""
        if self._given is None or self._given[0] != labels:
            self._given = labels, labels.proposals()
        return self._given[1]

    def _history(self, session: str) -> Conversation | None:
        if not session:
            return None
        if session not in self._sessions:
            self._sessions[session] = Conversation(max_turns=self._settings.max_turns)
            if len(self._sessions) > self._settings.max_sessions:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        return self._sessions[session]


def own_pixels(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy that nobody changes, since the engine may keep it: it is read-only and owns its memory."""
    pixels = rgb.copy()
    pixels.flags.writeable = False
    return pixels


def whole_timings(timings: Timings, encode_s: float) -> Timings:
    """``timings`` of an answer with the seconds that its frame took before, as plain numbers."""
    seconds = {name.name: float(getattr(timings, name.name)) for name in fields(Timings)}
    seconds["encode_s"] += encode_s
    if seconds["first_mask_s"]:
        seconds["first_mask_s"] += encode_s
    return Timings(**seconds)


class CommandEvents:
    """One command's way back to the node: what the engine reports, and whether it shall stop."""

    def __init__(self, command: worker.Command, pipe: ParentPipe, inbox: Inbox) -> None:
        self._request_id = command.request_id
        self._pipe = pipe
        self._inbox = inbox
        self.regions = AnswerRegions()

    def should_stop(self) -> bool:
        return self._inbox.is_canceled(self._request_id)

    def on_event(self, event: Event) -> None:
        """Pass an event on."""
        if isinstance(event, Stage):
            self._pipe.send(worker.StageBegan(self._request_id, event.name))
        elif isinstance(event, Token):
            self._pipe.send(worker.PartialText(self._request_id, event.text))
        elif new := self.regions.announce(event.regions):
            self._pipe.send(worker.NewRegions(self._request_id, new))


def as_lisa_error(error: BaseException, what: str) -> LisaError:
    """``error`` as one that can be sent and understood: our own types as they are, out of memory by any name.

    what: begins the text of an error that does not say what failed; may be empty.
    """
    begin, reason = f"{what}: " if what else "", text_of(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(f"{begin}out of memory; use a smaller image, a lower precision or another device ({reason})")
    if isinstance(error, LisaError):
        # The nearest type of lisa_ros.errors: a subclass may need arguments that unpickling does not have.
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return known(reason)
    return LisaError(f"{begin}{type(error).__name__}: {reason}")


def text_of(error: BaseException) -> str:
    """The error's text, also of one whose text cannot be made."""
    try:
        return str(error).encode("utf-8", "replace").decode("utf-8")
    except Exception:
        return "(no text)"


if __name__ == "__main__":
    main()
