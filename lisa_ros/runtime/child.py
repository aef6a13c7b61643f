"""A child process that runs a module of this package, seen from its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection


def spawn(
    module: str, connection: Connection, descriptors: Sequence[int] = (), threads: int = 0
) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter: never a fork of a process that has threads, DDS or CUDA in it.

    The kernel ends the child with the THREAD that calls this, if the child asks for it (``worker_process.die_with``).

    Args:
        module: What it runs, with the parent's process id and the connection's number as arguments.
        connection: The child's end.
        descriptors: Further files that it inherits.
        threads: CPU threads; 0 leaves it to torch.

    Raises:
        OSError: Memory or files are short.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    # A subprocess and not multiprocessing.Process: the parent's __main__ (and with it rclpy) is not imported again, no
    # resource tracker runs beside it, and `ps` shows what it is.
    return subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid()), str(connection.fileno())],
        pass_fds=(connection.fileno(), *descriptors),
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def cause_of_death(process: subprocess.Popen[bytes] | None) -> str:
    """How a process ended, for people, as in "of SIGKILL"."""
    code = process.returncode if process is not None else None
    if code is None or code >= 0:
        return f"with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (killed by the system for want of memory, or by a person)" if name == "SIGKILL" else ""
    return f"of {name}{hint}"
