"""The memory through which a camera frame reaches the worker process without being sent.

An anonymous file (``memfd``) mapped by both processes: it has no name, so nothing is left behind when either process is
killed, it does not count against a container's small ``/dev/shm``, and a page costs memory only once it was written.
"""

from __future__ import annotations

import contextlib
import mmap
import os

import numpy as np
from numpy.typing import NDArray

CHANNELS = 3


class FrameMemory:
    """Room for one RGB frame of up to ``max_pixels`` pixels, shared with the process that gets ``fd``.

    One frame is enough: the worker copies it before it does anything else, and it is given one command at a time.
    """

    def __init__(self, max_pixels: int, fd: int | None = None) -> None:
        """Make the memory, or (``fd``: an inherited file descriptor) map the one that another process made."""
        self.max_pixels = max_pixels
        self.fd = os.memfd_create("lisa_ros_frame") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, max_pixels * CHANNELS)
        self._map = mmap.mmap(self.fd, max_pixels * CHANNELS)

    def pixels(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB view of the memory. size: (height, width), at most ``max_pixels`` pixels."""
        height, width = size
        return np.frombuffer(self._map, np.uint8, height * width * CHANNELS).reshape(height, width, CHANNELS)

    def close(self) -> None:
        """Give the descriptors back. The memory goes when the last view and the last process let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(BufferError):  # somebody still looks at it: then it goes with that view
            self._map.close()  # it has a descriptor of its own
