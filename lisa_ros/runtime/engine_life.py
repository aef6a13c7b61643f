"""What is known of the worker and its engine: not there, loading, ready, failed, or dead and started again."""

from __future__ import annotations

import logging
from typing import Protocol

from lisa_ros.engine.api import EngineInfo
from lisa_ros.runtime import worker
from lisa_ros.runtime.requests import UNCONFIGURED, NodeState
from lisa_ros.runtime.status import State

logger = logging.getLogger(__name__)


class WorkerLike(Protocol):
    """What the queue needs of :class:`lisa_ros.runtime.worker.Worker`."""

    @property
    def pid(self) -> int | None: ...
    def send(self, command: worker.Command | worker.Cancel | worker.ForgetSessions) -> None: ...
    def restart(self, reason: str) -> None: ...


class EngineLife:
    """Follows the worker's events.

    Attributes:
        state: The node's state while no engine is ready.
        ready: The worker's event of a loaded engine; None while there is none.
        restarts: Deaths of the worker since the node's start.
        gpu_bytes: Memory that the worker holds on the GPU.
    """

    def __init__(self) -> None:
        self._worker: WorkerLike | None = None
        self.state = UNCONFIGURED
        self.ready: worker.Ready | None = None
        self.restarts = 0
        self.gpu_bytes = 0

    @property
    def info(self) -> EngineInfo | None:
        """Of the engine; None while none is ready."""
        return self.ready.info if self.ready is not None else None

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker while it runs."""
        return self._worker.pid if self._worker is not None else None

    def begin(self, worker_: WorkerLike, model: str) -> None:
        """A worker begins to load ``model``."""
        self._worker = worker_
        self.state = NodeState(State.LOADING, "the model is being loaded", 0.0, model=model)

    def end(self, state: NodeState) -> None:
        """There is no worker any more."""
        self._worker, self.ready, self.gpu_bytes, self.state = None, None, 0, state

    def send(self, message: worker.Command | worker.Cancel | worker.ForgetSessions) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def restart(self, reason: str) -> None:
        if self._worker is not None:
            self._worker.restart(reason)

    def handle(self, event: worker.Event, model: str) -> None:
        """Take in what happened to the worker. Afterwards ``ready`` is None where its engine is gone."""
        if isinstance(event, worker.Ready):
            self.ready, self.gpu_bytes = event, event.gpu_bytes
            info = event.info
            logger.info("ready: %s on %s in %s, loaded in %.1f s", info.name, info.device, info.precision, event.load_s)
            return
        self.ready = None
        if isinstance(event, worker.Loading):
            self.state = NodeState(State.LOADING, "the model is being loaded", event.progress, model=model)
        elif isinstance(event, worker.LoadFailed):
            text = f"the model cannot be loaded: {event.error}"
            logger.error("%s", f"{text}\n{event.traceback}" if event.traceback else text)
            self.state = NodeState(State.ERROR, text, 0.0, model=model)
        elif isinstance(event, worker.Died):
            self.restarts += 1
            self.gpu_bytes = 0
            text = f"the worker process died {event.cause}; it is started again in {event.pause_s:g} s"
            logger.error("%s", text)
            self.state = NodeState(State.RESTARTING, text, 0.0, model=model)
