"""Processes around the node that take and give lines of JSON, and that end with us, however we end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1


class Child:
    """A script beside this one. on_line is called with everything that it says, on a thread of the child's own.

    The script ends when its standard input does.
    """

    def __init__(self, script: str, *arguments: object, on_line: Callable[[dict[str, Any]], None]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=os.setpgrp,  # Ctrl-C is for us; we tell it
        )
        self._on_line = on_line
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, **values: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(values) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Close its input and wait; after a while, kill it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        self.kill()

    def kill(self) -> None:
        """``kill -9``, and everything that it said until then is heard."""
        self.process.kill()
        self.process.wait()
        self._listener.join(GRACE_S)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith("{"):  # Fast DDS complains on standard output
                print(line.rstrip(), file=sys.stderr)
            elif line.endswith("\n"):  # not the half line of a process that was killed
                self._on_line(json.loads(line))


# --- in the child


def say(**values: object) -> None:
    """One line to the parent. time: of time.monotonic."""
    print(json.dumps({"time": time.monotonic(), **values}), flush=True)


def messages() -> Iterator[dict[str, Any]]:
    """What the parent says, until it says no more."""
    for line in sys.stdin:
        yield json.loads(line)


def die_with_parent() -> None:
    """For a child that may be stopped (SIGSTOP) and would not notice the end of its input."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
