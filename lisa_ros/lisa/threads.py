"""CPU threads of a small model: its language model and mask decoder run on one.

Their matrices are so small that a second thread saves nothing on a quiet machine. Beside other work each layer waits
for the thread that has no core (docs/benchmarks.md, benchmarks/busy_cpu.py). The image encoder keeps all threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_HIDDEN_SIZE = 256
"""Largest hidden size of a language model that counts as small; measured: 192 is."""


def wants_one_thread(hidden_size: int, device: torch.device) -> bool:
    """Whether a model is small and on a CPU, and the user has not set the number of threads."""
    return device.type == "cpu" and hidden_size <= SMALL_HIDDEN_SIZE and "OMP_NUM_THREADS" not in os.environ


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Inside, torch uses one thread of the CPU; with ``wanted`` False, nothing changes."""
    threads = torch.get_num_threads()
    if not wanted or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
