"""Waiting for a server that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lisa_ros.errors import Busy

BUSY_S = 0.2
"""Seconds until a server that is BUSY is asked again."""

T = TypeVar("T")


def patiently(work: Callable[[], T]) -> T:
    """The result of ``work``, tried again while it raises Busy. For work that nobody waits for."""
    while True:
        try:
            return work()
        except Busy:
            time.sleep(BUSY_S)
