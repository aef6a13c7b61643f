"""Settings of a process that runs a model on a CPU: threads that do not spin, memory that is not given back.

Both are set before or beside the libraries that read them, and never over a user's own setting.
"""

from __future__ import annotations

import ctypes
import os
import sys

SPIN_COUNT = "1000"
"""Rounds that an OpenMP thread of libgomp waits before it sleeps. The default is 300,000: with one other busy process
on the machine, threads that wait take the time slices of those that work (docs/benchmarks.md, benchmarks/busy_cpu.py).
"""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEEP_BYTES = 2**31 - 1  # mallopt takes an int


def limit_spinning() -> None:
    """Let waiting OpenMP threads sleep soon. Call before torch is imported: libgomp reads the setting once."""
    if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def keep_freed_buffers() -> None:
    """Have the C library keep large buffers that were freed, for the next layer that needs one.

    glibc gives each back to the kernel, which clears its pages when they are asked for again: of SAM ViT-B at 1024
    pixels a quarter of the time. Call after a model is loaded: while it loads, what is freed should go.
    """
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if sys.platform != "linux" or any(name in os.environ for name in own):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
