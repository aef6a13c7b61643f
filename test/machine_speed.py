"""How slow the machine is now, and the time limits of tests that follow from it.

A test here waits for other processes: a node that starts, its worker, a reply over DDS. The measure is the same in
small: three Python processes start at once, import numpy and answer lines, with some arithmetic for each. What it takes
now, divided by what it takes on a quiet machine, is the slowness.

Limits are multiplied by the slowness. A test runs into a limit only where something is broken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

QUIET_S = 0.6
"""What the measure takes on a quiet machine with two cores (0.56 s to 0.8 s measured)."""

MOST = 10.0
"""Largest slowness: a test that hangs must fail some time."""

VARIABLE = "LISA_TEST_SLOWNESS"
"""The slowness, for all processes of one test run. Set it yourself to skip the measurement."""

PROCESSES, TURNS = 3, 20

_ANSWERS_LINES = """
import sys
import numpy
for line in sys.stdin:
    sum(number * number for number in range(20_000))
    print(line, end="", flush=True)
"""


def measure_s() -> float:
    """Seconds from starting the processes until each has answered every line and ended."""
    begun = time.monotonic()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _ANSWERS_LINES]
    answering = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
    for turn in range(TURNS):
        for process in answering:
            process.stdin.write(f"{turn}\n")
            process.stdin.flush()
        for process in answering:
            assert process.stdout.readline() == f"{turn}\n"
    for process in answering:
        process.communicate()
    return time.monotonic() - begun


def slowness_of(seconds: float) -> float:
    """``seconds`` of the measure as a factor on time limits, from 1 to 10."""
    return min(max(seconds / QUIET_S, 1.0), MOST)


def settle() -> float:
    """Measure the slowness for this run and the processes that it starts, unless the variable is set. Return it."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = f"{slowness_of(measure_s()):.2f}"
    return slowness()


def slowness() -> float:
    """Factor on all time limits of this test run, from 1 to 10; 1 where none was measured."""
    return min(max(float(os.environ.get(VARIABLE, 1.0)), 1.0), MOST)


def limit(seconds: float) -> float:
    """``seconds`` of a quiet machine as seconds of this one. The same for the whole run, in all its processes."""
    return seconds * slowness()


class Deadline:
    """The end of a wait. It moves when the machine has become slower since the start of the run."""

    _slowness_later = 1.0

    def __init__(self, quiet_s: float) -> None:
        self.quiet_s = quiet_s
        self._begun = time.monotonic()

    @property
    def limit_s(self) -> float:
        """Seconds from the start of the wait."""
        return self.quiet_s * max(slowness(), Deadline._slowness_later)

    def passed(self) -> bool:
        """Whether the wait is over. Measures anew before it says so."""
        if time.monotonic() - self._begun < self.limit_s:
            return False
        Deadline._slowness_later = max(slowness_of(measure_s()), Deadline._slowness_later)
        return time.monotonic() - self._begun >= self.limit_s
