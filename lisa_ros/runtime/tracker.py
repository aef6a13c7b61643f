"""A tracker that needs torch, in a process of its own: the node's process never imports torch.

A frame and its masks go to the process, the tracked masks come back. The call waits, on the follower's thread. If the
process dies, following ends with the reason, and the next masks start it again.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import LisaError
from lisa_ros.perception.tracking import Tracked
from lisa_ros.runtime.child import cause_of_death, spawn
from lisa_ros.runtime.worker import Log

logger = logging.getLogger(__name__)

SAM2_VIDEO = "lisa_ros.grounded.video:Sam2VideoTracker"


class TrackerProcess:
    """A tracker elsewhere. See :class:`lisa_ros.perception.tracking.Tracker`.

    Args:
        tracker: ``module:callable`` that makes it, in its own process.
        options: Arguments of the callable.
    """

    def __init__(self, tracker: str, **options: Any) -> None:
        self._maker = (tracker, options)
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Lock()  # of the process: at any time, by another thread
        self._closed = False
        self._wants_detection = False

    @property
    def pid(self) -> int | None:
        """Process id while the process runs."""
        return self._process.pid if self._process is not None else None

    def start(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """See :meth:`Tracker.start`. The first one waits until the tracker is made."""
        self._call("start", rgb, list(crops), time_s)

    def redetect(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """See :meth:`Tracker.redetect`."""
        self._call("redetect", rgb, list(crops), time_s)

    def update(self, rgb: NDArray[np.uint8], time_s: float) -> list[Tracked]:
        """See :meth:`Tracker.update`."""
        tracked: list[Tracked] = self._call("update", rgb, time_s)
        return tracked

    def clear(self) -> None:
        """See :meth:`Tracker.clear`."""
        if self._process is not None:  # else there is nothing to drop
            self._call("clear")

    @property
    def wants_detection(self) -> bool:
        """See :attr:`Tracker.wants_detection`."""
        return self._wants_detection

    def close(self) -> None:
        """End the process. A call that waits for it raises."""
        self._closed = True
        self._end()

    def _call(self, method: str, *arguments: Any) -> Any:
        """What a method of the tracker returns.

        Raises:
            LisaError: It raised, or the process ended. It is started again by the next call.
        """
        try:
            connection = self._running()
        except OSError as error:  # no process or pipe is to be had
            raise LisaError(f"the tracker's process cannot be started: {error}") from error
        try:
            connection.send((method, arguments))
            while isinstance(reply := connection.recv(), Log):
                logging.getLogger(reply.name).log(reply.level, "%s", reply.message)
        except (EOFError, OSError) as error:
            raise LisaError(self._ended()) from error
        result, self._wants_detection = reply
        if isinstance(result, LisaError):
            raise result
        return result

    def _running(self) -> Connection:
        """The connection to the process, which is started where there is none."""
        if self._connection is not None:
            return self._connection
        ours, theirs = Pipe()
        with self._ending, theirs:
            if self._closed:
                raise LisaError("the tracker was closed; configure the node again")
            self._process = spawn("lisa_ros.runtime.tracker_process", theirs)
        self._connection = ours
        with contextlib.suppress(OSError):  # it is gone already: the call finds out
            ours.send(self._maker)
        return ours

    def _ended(self) -> str:
        """Why the process is gone; the next call starts another one."""
        process = self._process
        if process is None:
            return "the tracker was closed; configure the node again"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)  # its connection closes a moment before it ends
        self._end()
        return f"the tracker's process ended {cause_of_death(process)}; the log may say why"

    def _end(self) -> None:
        """Kill the process; a call that waits sees the end of the connection."""
        with self._ending:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.wait()
            self._connection = None


def sam2_video(model: str, device: str = "auto", precision: str = "auto") -> TrackerProcess:
    """SAM 2 for videos: a learned tracker (experimental: it was not run with released weights).

    Args:
        model: Folder of a SAM 2.1, or of an engine that has one.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, bf16, fp16 or fp32.
    """
    return TrackerProcess(SAM2_VIDEO, model=model, device=device, precision=precision)
