"""What runs in the worker process: load the model, answer one command after another, say what happens meanwhile.

``lisa_ros.runtime.worker`` starts it:
``python -m lisa_ros.runtime.worker_process PARENT_PID CONNECTION_FD FRAMES_FD``.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import importlib
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
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from lisa_ros import errors
from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.errors import Cancelled, LisaError, OutOfMemory
from lisa_ros.runtime import worker
from lisa_ros.runtime.frame_memory import FrameMemory

logger = logging.getLogger("lisa_ros.runtime.worker_process")  # __name__ is "__main__" here

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, connection_fd, frames_fd = map(int, sys.argv[1:])
    die_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides what it means
    wire = Wire(Connection(connection_fd))
    settings, max_pixels = wire.receive()
    logging.getLogger().addHandler(WireHandler(wire))
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    inbox = Inbox(wire)
    started = time.monotonic()
    try:
        segmenter = load_segmenter(settings, loading_reporter(wire))
        warm_up(segmenter)
    except BaseException as error:
        if not isinstance(error, LisaError):
            logger.error("%s", traceback.format_exc())
        wire.send(worker.LoadFailed(as_lisa_error(error, "the model cannot be loaded")))
        return
    load_s = time.monotonic() - started
    wire.send(worker.Ready(segmenter.name, str(segmenter.device), segmenter.precision, load_s, gpu_bytes()))
    desk = Desk(segmenter, FrameMemory(max_pixels, frames_fd), settings, wire, inbox)
    while True:
        desk.handle(inbox.next())


def warm_up(segmenter: Any) -> None:
    """Answer a command about a made-up frame: a first command's own costs (memory, kernels) are paid before READY.

    A failure is no reason not to serve: it is logged, and a command that meets it again says so.
    """
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    try:
        encoded = segmenter.encode(noise)
        segmenter.segment(
            encoded, "the object", max_new_tokens=8, should_stop=lambda: False, on_event=lambda event: None
        )
    except Exception as error:
        logger.warning("the model's warm-up failed; commands may, too: %s: %s", type(error).__name__, error)


def loading_reporter(wire: Wire) -> Callable[[float], None]:
    """A progress callback that says every twentieth once: a model has hundreds of tensors, and nobody reads so fast."""
    told = -1

    def report(progress: float) -> None:
        nonlocal told
        if int(20 * progress) > told:
            told = int(20 * progress)
            wire.send(worker.Loading(float(progress)))

    return report


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is gone, also when no Python runs here to notice."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def load_segmenter(settings: worker.WorkerSettings, progress: Callable[[float], None]) -> Any:
    """Call ``settings.segmenter`` ("module:callable") as ``Segmenter.from_checkpoint`` is called."""
    module, _, attribute = settings.segmenter.partition(":")
    factory: Any = importlib.import_module(module)
    for name in attribute.split("."):
        factory = getattr(factory, name)
    return factory(
        Path(settings.checkpoint),
        vision_tower=settings.vision_tower,
        conversation=settings.conversation,
        device=settings.device,
        precision=settings.precision,
        progress=progress,
    )


def gpu_bytes() -> int:
    """What torch holds of the GPU's memory; 0 where it has none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())


class Wire:
    """The connection to the parent; any thread may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, event: worker.Event | worker.Log) -> None:
        with self._lock:
            try:
                self._connection.send(event)
            except OSError:  # the parent is gone, and with it everybody who wanted an answer
                os._exit(0)

    def receive(self) -> Any:
        return self._connection.recv()


class WireHandler(logging.Handler):
    """Sends log records to the parent, which logs them as its own."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        self._wire.send(worker.Log(record.levelno, record.name, self.format(record)))


class Inbox:
    """Commands in order. A thread reads the connection, so that a cancel is seen while a command runs."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
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
                message = self._wire.receive()
                if isinstance(message, worker.Stop):
                    break
                if isinstance(message, worker.Cancel):
                    self._canceled = message.request_id
                else:
                    self._waiting.put(message)
        except (EOFError, OSError):
            pass
        os._exit(0)  # not sys.exit: it would only end this thread, and a model must not outlive its node


class Desk:
    """Answers commands with the segmenter; keeps encoded frames and conversations, a bounded number of each."""

    def __init__(
        self, segmenter: Any, frames: FrameMemory, settings: worker.WorkerSettings, wire: Wire, inbox: Inbox
    ) -> None:
        self._segmenter = segmenter
        self._frames = frames
        self._wire = wire
        self._inbox = inbox
        self._settings = settings
        self._encoded: OrderedDict[bytes, Any] = OrderedDict()
        self._sessions: OrderedDict[str, Any] = OrderedDict()

    def handle(self, message: worker.Command | worker.ForgetSessions) -> None:
        if isinstance(message, worker.ForgetSessions):
            self._sessions.clear()
            return
        try:
            event: worker.Done | worker.Failed = self._answer(message)
        except Exception as error:
            if not isinstance(error, LisaError):
                logger.error("%s", traceback.format_exc())
            event = worker.Failed(message.request_id, as_lisa_error(error, "the model failed"))
            if isinstance(event.error, OutOfMemory):
                self._free_memory()
        self._wire.send(event)

    def _answer(self, command: worker.Command) -> worker.Done:
        watcher = Watcher(command, self._wire, self._inbox)
        if watcher.should_stop():
            raise Cancelled("canceled before the work began")
        encoded, encode_s = self._encode(command, watcher)
        if watcher.should_stop():
            raise Cancelled("canceled while the image was encoded")
        result = self._segmenter.segment(
            encoded,
            command.text,
            explain=command.explain,
            history=self._history(command.session),
            max_new_tokens=command.max_new_tokens,
            should_stop=watcher.should_stop,
            on_event=watcher.on_event,
        )
        new = [
            crop_mask(mask, index + 1, float(result.scores[index]))
            for index, mask in enumerate(result.masks)
            if index >= watcher.found
        ]
        timings = replace(
            result.timings,
            encode_s=encode_s + result.timings.encode_s,
            first_mask_s=encode_s + result.timings.first_mask_s if result.timings.first_mask_s else 0.0,
        )
        return worker.Done(command.request_id, result.answer, new, timings, gpu_bytes())

    def _encode(self, command: worker.Command, watcher: Watcher) -> tuple[Any, float]:
        """The encoded frame and the seconds it took: 0 where this frame was encoded before."""
        rgb = self._frames.pixels(command.size)
        # Frames are told apart by what is in them: a frame that a client sends twice is found again too.
        key = hashlib.sha1(rgb.data, usedforsecurity=False).digest() + repr(command.size).encode()
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return self._encoded[key], 0.0
        watcher.stage("encoding")
        while len(self._encoded) >= max(self._settings.kept_frames, 1):
            self._encoded.popitem(last=False)  # before the new one is made: the peak is kept_frames, not one more
        started = time.monotonic()
        # A copy, since the encoded value may keep the pixels for later, and the memory is the next frame's then.
        encoded = self._segmenter.encode(rgb.copy())
        if self._settings.kept_frames:
            self._encoded[key] = encoded
        return encoded, time.monotonic() - started

    def _history(self, session: str) -> Any:
        if not session:
            return None
        from lisa_ros.engine.api import Conversation

        if session not in self._sessions:
            self._sessions[session] = Conversation(max_turns=self._settings.max_turns)
            if len(self._sessions) > self._settings.max_sessions:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        return self._sessions[session]

    def _free_memory(self) -> None:
        """After an out-of-memory: let go of everything that can be made again."""
        self._encoded.clear()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


class Watcher:
    """What the segmenter sees of a command's owner: where events go and whether to stop."""

    def __init__(self, command: worker.Command, wire: Wire, inbox: Inbox) -> None:
        self._request_id = command.request_id
        self._wire = wire
        self._inbox = inbox
        self.found = 0

    def should_stop(self) -> bool:
        return self._inbox.is_canceled(self._request_id)

    def stage(self, name: str) -> None:
        self._wire.send(worker.Staged(self._request_id, name))

    def on_event(self, event: Any) -> None:
        """Pass on a ``Stage``, ``Token`` or ``Masks`` of lisa_ros.lisa.segmenter, told apart by what they carry."""
        if hasattr(event, "crops"):
            new: list[MaskCrop] = list(event.crops[self.found :])
            self.found += len(new)
            if new:
                self._wire.send(worker.Found(self._request_id, new))
        elif hasattr(event, "text"):
            self._wire.send(worker.Answering(self._request_id, event.text))
        else:
            self.stage(event.name)


def as_lisa_error(error: BaseException, what: str) -> LisaError:
    """``error`` as one that can be sent and understood: our own types as they are, out of memory by any name."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory(f"{what}: out of memory; use a smaller image, a lower precision or another device ({error})")
    if isinstance(error, LisaError):
        # The nearest type of lisa_ros.errors: a subclass may need arguments that unpickling does not have.
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return known(str(error))
    return LisaError(f"{what}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
