"""Processes that keep a machine busy, to run tests beside them: ``pytest test/ros --busy 6``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_COUNTS = """# the load of a test run (pytest --busy); it ends with the run
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """``count`` processes that each use a whole core; ended on leaving."""
    processes = [subprocess.Popen([sys.executable, "-c", _COUNTS]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
