"""What runs in a tracker's own process: make the tracker, then one call after another.

``lisa_ros.runtime.tracker`` starts it: ``python -m lisa_ros.runtime.tracker_process PARENT_PID CONNECTION_FD``.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.perception.tracking import Tracker
from lisa_ros.process_tuning import keep_freed_buffers, limit_spinning
from lisa_ros.runtime.worker_process import ParentPipe, PipeHandler, as_lisa_error, die_with

logger = logging.getLogger("lisa_ros.runtime.tracker_process")  # __name__ is "__main__" here


def main() -> None:
    parent, connection_fd = map(int, sys.argv[1:])
    die_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides what it means
    limit_spinning()
    pipe = ParentPipe(Connection(connection_fd))
    logging.getLogger().addHandler(PipeHandler(pipe))
    logging.getLogger().setLevel(logging.INFO)
    logging.captureWarnings(True)
    name, options = pipe.receive()
    tracker: Tracker | None = None
    while True:
        try:
            method, arguments = pipe.receive()
        except EOFError:  # the parent is gone, or needs no tracker any more
            return
        try:
            if tracker is None:
                tracker = made(name, options)
            result = getattr(tracker, method)(*arguments)
        except Exception as error:
            if not isinstance(error, LisaError):
                logger.error("%s", traceback.format_exc())
            result = as_lisa_error(error, "the tracker failed")
        pipe.send((result, tracker is not None and tracker.wants_detection))


def made(name: str, options: Mapping[str, Any]) -> Tracker:
    """The tracker of ``module:callable``. Raises ConfigError, and what the callable raises."""
    module, _, attribute = name.partition(":")
    try:
        maker = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"tracker {name!r}: {error}; give module:callable") from error
    tracker: Tracker = maker(**options)
    keep_freed_buffers()
    return tracker


if __name__ == "__main__":
    main()
