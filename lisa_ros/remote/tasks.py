"""The same work on many things at once, by tasks of Ray: on all GPUs (or CPUs) of this machine, or of a cluster.

Every process of Ray that runs a task loads the engine once. What a task works on is sent to it, so only the model must
be on the machines of the cluster. Ray runs a task again whose process or machine is gone.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import ray

from lisa_ros.engine.registry import load_engine
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.process_tuning import keep_freed_buffers

LOCAL = "ray"
SCHEME = "ray://"
AHEAD = 2
"""Tasks that wait for each one that runs: a process never waits for its next one."""
TRIES_AGAIN = 3

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class EngineSettings:
    """Arguments of ``load_engine``. model: a folder must exist on every machine of the cluster."""

    model: str = ""
    device: str = "auto"
    precision: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


class Tasks:
    """A connection to Ray, as a context.

    Args:
        address: ``ray`` starts Ray on this machine, ``ray://HOST:PORT`` uses a cluster.
        engine: What each process loads.

    Raises:
        ConfigError: The cluster cannot be reached.
    """

    def __init__(self, address: str, engine: EngineSettings) -> None:
        self._engine = engine
        local = address == LOCAL
        try:
            # A dashboard of a cluster that lives as long as this process is of no use, and one more open port.
            options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False} if local else {}
            ray.init("local" if local else address, **options)
        except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--workers {address}: {reason}; give ray://HOST:PORT of a cluster, or ray") from error
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if engine.device != "cpu" else 0
        self.at_once = max(gpus or int(resources.get("CPU", 1)), 1)
        """Number of tasks that run at once."""
        self._needs = {"num_gpus": 1.0 if gpus else 0.0, "num_cpus": 1.0, "max_retries": TRIES_AGAIN}

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, or end the one of this machine; tasks that run are ended."""
        ray.shutdown()

    def map(
        self, work: Callable[[SupportedEngine, Item], Result], items: Iterable[tuple[Key, Item]]
    ) -> Iterator[tuple[Key, Result]]:
        """Run ``work`` on many items.

        Args:
            work: What is done, with the engine of the process. It can be pickled, and so can items and results.
            items: Each with a key, which stays here. A bounded number of them is read ahead.

        Yields:
            Each key with the result, in the order of ``items``.

        Raises:
            LisaError: What ``work`` raises; or a process died again and again.
        """
        remote: Any = ray.remote(_run).options(**self._needs)
        begun: deque[tuple[Key, Any]] = deque()
        try:
            for key, item in items:
                begun.append((key, remote.remote(self._engine, work, item)))
                if len(begun) > AHEAD * self.at_once:
                    yield _result(*begun.popleft())
            while begun:
                yield _result(*begun.popleft())
        finally:
            for _, reference in begun:
                ray.cancel(reference, force=True)


def _result(key: Key, reference: Any) -> tuple[Key, Any]:
    try:
        return key, ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, LisaError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise LisaError(f"a task of Ray failed {1 + TRIES_AGAIN} times: {reason}; run again to continue") from error


# --- in the processes of Ray

_engines: dict[str, SupportedEngine] = {}


def _run(settings: EngineSettings, work: Callable[[SupportedEngine, Item], Result], item: Item) -> Result:
    return work(_engine(settings), item)


def _engine(settings: EngineSettings) -> SupportedEngine:
    key = json.dumps(asdict(settings), sort_keys=True)
    if key not in _engines:
        _engines.clear()  # one engine fits
        _engines[key] = load_engine(settings.model, settings.device, settings.precision, settings.options)
        keep_freed_buffers()
    return _engines[key]
