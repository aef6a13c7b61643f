"""The node as a process, with a stand-in for the model, so that what is measured is the node's own cost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "demo")]

import domain  # noqa: E402 - found through the line above
import numpy as np  # noqa: E402

SIZE = (720, 1280)


PR_SET_PDEATHSIG = 1


def stand_apart() -> None:
    """In the child: Ctrl-C is for the parent, and the parent's end is the child's, too."""
    os.setpgrp()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextlib.contextmanager
def lisa_node(
    *,
    log: Path | None = None,
    log_level: str = "error",
    environment: dict[str, str] | None = None,
    **parameters: object,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running node ``/lisa`` in a DDS domain of its own; it ends with us, however we end.

    log: file for its console. environment: further variables.
    """
    settings = {"model": "standin:load", **parameters}
    arguments = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    paths = [str(REPOSITORY), str(REPOSITORY / "test"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("wb") if log is not None else contextlib.nullcontext() as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "lisa_ros.ros.node", "--ros-args", "--log-level", log_level, *arguments],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths), **(environment or {})),
            stdout=console,
            stderr=console,
            preexec_fn=stand_apart,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        finally:
            process.kill()


def claim_domain() -> object:
    """Keep the returned value: the domain is ours as long as it lives."""
    return domain.claim()


def scene(shift: int = 0) -> np.ndarray:
    """A 1280 x 720 frame with a bright box of 300 x 200 pixels; another ``shift``, another frame."""
    pixels = np.full((*SIZE, 3), 20, np.uint8)
    pixels[200:400, 400 + shift % 400 : 700 + shift % 400] = 250
    return pixels


def machine() -> str:
    """What the figures were taken on."""
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "unknown CPU")  # noqa: SIM115
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
