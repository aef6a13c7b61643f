"""How a camera frame travels from the node to the process that has the engine.

The node keeps its own frame. It puts a copy into a :class:`Transport` and sends the returned :class:`Ticket` with the
question; the other process has the :class:`Receiver` and gets the pixels for the ticket.

:class:`SharedMemory` serves a worker on the same machine. It is an anonymous file (``memfd``) mapped by both processes:
it has no name, so nothing is left behind when either process is killed, it does not count against a container's small
``/dev/shm``, and a page costs memory only once it was written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CHANNELS = 3


@dataclass(frozen=True)
class Ticket:
    """Stands for one frame that was put into a transport. size: (height, width), pixels."""

    size: tuple[int, int]


class Receiver(Protocol):
    """The end of a transport that the engine's process has. It is sent there, so it can be pickled."""

    def get(self, ticket: Ticket) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) uint8 RGB, read-only. They change with the next frame: copy what must stay."""


class Transport(Protocol):
    """The end of a transport that the node has. One frame at a time is on its way."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Files that the engine's process must inherit."""

    def receiver(self) -> Receiver:
        """The other end."""

    def put(self, rgb: NDArray[np.uint8]) -> Ticket:
        """Send a frame (H, W, 3) uint8 RGB on its way. The frame before it is gone."""

    def close(self) -> None:
        """Free what the transport took."""


class SharedMemory:
    """A transport to a process on this machine, with room for one frame of up to ``max_pixels`` pixels.

    One frame is enough: the worker is given one command at a time.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._fd = os.memfd_create("lisa_ros_frame")
        os.ftruncate(self._fd, max_pixels * CHANNELS)
        self._map = mmap.mmap(self._fd, max_pixels * CHANNELS)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._fd,)

    def receiver(self) -> SharedMemoryReceiver:
        return SharedMemoryReceiver(self._fd, self.max_pixels)

    def put(self, rgb: NDArray[np.uint8]) -> Ticket:
        """As :meth:`Transport.put`; a frame of more than ``max_pixels`` is a ValueError of numpy's."""
        size = (rgb.shape[0], rgb.shape[1])
        np.copyto(_pixels(self._map, size), rgb)
        return Ticket(size)

    def close(self) -> None:
        """The memory itself goes when the other process has closed it, too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(BufferError):  # somebody still looks at it: then it goes with that view
            self._map.close()  # it has a descriptor of its own


@dataclass
class SharedMemoryReceiver:
    """The worker's end of :class:`SharedMemory`. fd: the inherited file."""

    fd: int
    max_pixels: int

    def __post_init__(self) -> None:
        self._map: mmap.mmap | None = None

    def get(self, ticket: Ticket) -> NDArray[np.uint8]:
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.max_pixels * CHANNELS, prot=mmap.PROT_READ)
        return _pixels(self._map, ticket.size)


def _pixels(memory: mmap.mmap, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 view of the memory. size: (height, width)."""
    height, width = size
    return np.frombuffer(memory, np.uint8, height * width * CHANNELS).reshape(height, width, CHANNELS)
