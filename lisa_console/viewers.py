"""The pages that watch: each has its own queue, so that a slow one loses pictures and delays nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

MOST_UNSEEN = 2  # pictures sent and not yet drawn
MOST_WAITING = 2000  # texts and masks that wait; a page this far behind is closed


class Viewer:
    """One page.

    Args:
        send: Sends one frame, text or bytes; returns when there is room for the next one.
        close: Ends the connection of a page that does not read.

    Attributes:
        camera: That it shows.
        visible: Whether a person can see it.
        frames_sent: Live pictures so far.
    """

    def __init__(self, send: Callable[[str | bytes], Awaitable[None]], close: Callable[[], None]) -> None:
        self._send, self.close = send, close
        self._waiting: deque[str | bytes] = deque()
        self._frame: bytes | None = None
        self._unseen = 0
        self._wake = asyncio.Event()
        self.camera, self.visible = "", False
        self.frames_sent = 0

    def say(self, frame: str | bytes) -> None:
        """Sends text or a mask: in order, none is lost."""
        self._waiting.append(frame)
        self._wake.set()
        if len(self._waiting) > MOST_WAITING:
            self.close()

    def show(self, frame: bytes) -> None:
        """Sends a live picture: the newest one only, as soon as the page has drawn the others."""
        self._frame = frame
        self._wake.set()

    def take_drawn(self) -> None:
        """The page has drawn a picture."""
        self._unseen = max(self._unseen - 1, 0)
        self._wake.set()

    @property
    def wants_frame(self) -> bool:
        """Whether a picture that is made now would be sent at once."""
        return self.visible and self._frame is None and self._unseen < MOST_UNSEEN

    async def write(self) -> None:
        """Sends what there is, until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._send(self._waiting.popleft())
            if self._frame is not None and self._unseen < MOST_UNSEEN:
                frame, self._frame = self._frame, None
                self._unseen += 1
                self.frames_sent += 1
                await self._send(frame)
