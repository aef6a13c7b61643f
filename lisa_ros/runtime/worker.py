"""The process that owns the model, seen from the process that does not: commands in, events out.

A crash, a ``kill -9`` or an out-of-memory kill of that process costs one command: it is started again, and the model is
loaded again. Neither torch nor ROS is imported here.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

from lisa_ros.engine.api import Ask, EngineInfo, Region, Span, Timings
from lisa_ros.errors import LisaError
from lisa_ros.perception.labels import PackedLabels
from lisa_ros.runtime.child import cause_of_death, spawn
from lisa_ros.runtime.transport import Ticket, Transport

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 4.0  # unless the first is longer: a robot waits, and a model that cannot be loaded is given up
LONG_LIFE_S = 60.0  # a worker that lived longer died of something new
MAX_DEATHS_LOADING = 5


@dataclass(frozen=True)
class WorkerSettings:
    """What the worker process needs to know before it loads the engine.

    Args:
        model: Folder, URL, ``package.module:callable``, or empty for the bundled demo model.
        options: Of the engine.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, or a number format.
        threads: CPU threads of the engine; 0 leaves it to torch.
        kept_frames: Encoded frames kept for follow-up commands.
        max_sessions: Conversations that are remembered.
        max_turns: Commands that are remembered of each.
        first_pause_s: Seconds before a dead worker is started again; doubles with every further death up to
            LONGEST_PAUSE_S.
    """

    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    kept_frames: int = 2
    max_sessions: int = 16
    max_turns: int = 8
    first_pause_s: float = 1.0


# --- to the worker


@dataclass(frozen=True)
class Command:
    """One question.

    Args:
        request_id: Unique while the node lives.
        ask: Without its history, which the worker keeps by ``session``, and without proposals.
        ticket: Of its frame.
        session: Name of the conversation; empty: none.
        proposals: Masks of the frame to choose from; None: the engine has its own.
    """

    request_id: str
    ask: Ask
    ticket: Ticket
    session: str = ""
    proposals: PackedLabels | None = None


@dataclass(frozen=True)
class Cancel:
    """Stop working on a command."""

    request_id: str


@dataclass(frozen=True)
class ForgetSessions:
    """Clear every conversation."""


@dataclass(frozen=True)
class Stop:
    """End the process."""


# --- from the worker


@dataclass(frozen=True)
class Loading:
    """progress: in [0, 1]."""

    progress: float


@dataclass(frozen=True)
class Ready:
    """The engine is loaded. gpu_bytes: memory that the process holds on the GPU."""

    info: EngineInfo
    load_s: float
    gpu_bytes: int = 0


@dataclass(frozen=True)
class LoadFailed:
    """The engine cannot be loaded; the worker is not started again, since trying again would fail again.

    traceback: of an error that is nobody's on purpose; else empty.
    """

    error: LisaError
    traceback: str = ""


@dataclass(frozen=True)
class Died:
    """The process ended by itself. cause: for people. pause_s: until it is started again."""

    cause: str
    pause_s: float


@dataclass(frozen=True)
class StageBegan:
    """name: encoding, reading, generating or decoding."""

    request_id: str
    name: str


@dataclass(frozen=True)
class PartialText:
    """text: the whole answer so far."""

    request_id: str
    text: str


@dataclass(frozen=True)
class NewRegions:
    """Regions that no earlier event of this command carried."""

    request_id: str
    regions: Sequence[Region]


@dataclass(frozen=True)
class Done:
    """The complete answer.

    Args:
        request_id: Of the command.
        text: What the engine says.
        new: Regions that no ``NewRegions`` carried: a mask crosses the pipe once.
        order: The answer's regions, as indexes into all that were carried, ``new`` last. One that was announced and is
            not named here is not part of the answer.
        absent: Targets that are not in the image.
        timings: Seconds.
        gpu_bytes: Memory that the process holds on the GPU now.
        spans: All mentions of each region, as in ``order``. One that was announced had only those until then. Empty:
            as they were announced.
    """

    request_id: str
    text: str
    new: Sequence[Region] = ()
    order: Sequence[int] = ()
    absent: Sequence[str] = ()
    timings: Timings = field(default_factory=Timings)
    gpu_bytes: int = 0
    spans: Sequence[Sequence[Span]] = ()


@dataclass(frozen=True)
class Failed:
    """The command could not be answered."""

    request_id: str
    error: LisaError


@dataclass(frozen=True)
class Log:
    """A log record of the worker's."""

    level: int
    name: str
    message: str


Event = Loading | Ready | LoadFailed | Died | StageBegan | PartialText | NewRegions | Done | Failed
OnEvent = Callable[[Event], None]


class Worker:
    """Starts the worker process, keeps it alive, and passes commands and events.

    on_event is called with every event, in order, on a thread of the worker's own; it must return soon.
    One command at a time: the next one may be sent after ``Done``, ``Failed`` or ``Died``.
    """

    def __init__(self, settings: WorkerSettings, transport: Transport, on_event: OnEvent) -> None:
        self._settings = settings
        self._transport = transport
        self._on_event = on_event
        self._closing = threading.Event()
        self._sending = threading.Lock()
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel ends the child with the THREAD that made it (see worker_process), so this one lives as long as us.
        self._thread = threading.Thread(target=self._keep_alive, name="lisa-worker", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id while a worker process runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start loading and return at once."""
        self._thread.start()

    def send(self, command: Command | Cancel | ForgetSessions | Stop) -> None:
        """Pass a command on. A worker that just died does not raise here: its ``Died`` event is on the way."""
        with self._sending:
            if self._connection is None:
                return
            try:
                self._connection.send(command)
            except OSError:
                logger.debug("the worker is gone; %s was not sent", type(command).__name__)

    def restart(self, reason: str) -> None:
        """Kill the process; it is started again like after any other death."""
        logger.warning("the worker is restarted: %s", reason)
        process = self._process
        if process is not None:
            process.kill()

    def close(self, patience_s: float = 2.0) -> None:
        """End the process and the thread. The process goes by itself when its connection closes, else it is killed."""
        self._closing.set()
        self.send(Stop())
        if self._thread.is_alive():
            self._thread.join(patience_s)
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_alive(self) -> None:
        """However this ends, it ends in an event: a node without a worker must not look as if it had one."""
        try:
            self._start_again_and_again()
        except Exception as error:
            text = f"nothing looks after the worker any more ({type(error).__name__}: {error}); start the node again"
            self._on_event(LoadFailed(LisaError(text), traceback.format_exc()))

    def _start_again_and_again(self) -> None:
        first_s, deaths_loading = self._settings.first_pause_s, 0
        pause_s, longest_s = first_s, max(first_s, LONGEST_PAUSE_S)
        while not self._closing.is_set():
            born = time.monotonic()
            was_ready = load_failed = False
            self._on_event(Loading(0.0))
            try:
                connection, process = self._start_process()
            except OSError as error:
                cause = f"before it ran: {error}"
            else:
                was_ready, load_failed = self._follow(connection, process)
                cause = cause_of_death(process)
            if self._closing.is_set() or load_failed:
                return
            deaths_loading = 0 if was_ready else deaths_loading + 1
            if time.monotonic() - born > LONG_LIFE_S:
                pause_s = first_s
            if deaths_loading == MAX_DEATHS_LOADING:
                message = f"the worker died {deaths_loading} times while it loaded the model, the last time {cause}"
                self._on_event(LoadFailed(LisaError(message)))
                return
            self._on_event(Died(cause, pause_s))
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _start_process(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        """A process that has its settings. Raises OSError: memory or files are short, or it died at once."""
        ours, theirs = Pipe()
        with self._sending:
            self._process = process = None
            try:
                with theirs:
                    self._process = process = _spawn(theirs, self._transport, self._settings)
                ours.send((self._settings, self._transport.receiver()))
            except OSError:
                ours.close()
                if process is not None:
                    process.kill()
                    process.wait()
                raise
            self._connection = ours
        return ours, process

    def _follow(self, connection: Connection, process: subprocess.Popen[bytes]) -> tuple[bool, bool]:
        """One life of the process: (whether it was ever ready, whether its engine cannot be loaded)."""
        was_ready = load_failed = False
        try:
            while True:
                event = connection.recv()
                if isinstance(event, Log):
                    logging.getLogger(event.name).log(event.level, "%s", event.message)
                    continue
                was_ready |= isinstance(event, Ready)
                load_failed |= isinstance(event, LoadFailed)
                self._on_event(event)
        except (EOFError, OSError):
            pass
        except Exception:
            process.kill()  # it is alive, and nobody will listen to it
            raise
        finally:
            with self._sending:
                self._connection = None
            connection.close()
            process.wait()
        return was_ready, load_failed


def _spawn(connection: Connection, transport: Transport, settings: WorkerSettings) -> subprocess.Popen[bytes]:
    return spawn("lisa_ros.runtime.worker_process", connection, transport.descriptors, settings.threads)
