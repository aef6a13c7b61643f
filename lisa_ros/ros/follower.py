"""Masks followed from frame to frame, on a thread of its own that is given the newest frame only.

Decoding and tracking take longer than a callback may. Where the masks are comes back as events.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, MaskCrop
from lisa_ros.errors import ImageError
from lisa_ros.perception.geometry import Object3D
from lisa_ros.perception.tracking import NOWHERE, Closing, State, Tracked, Tracker
from lisa_ros.ros.cameras import Camera
from lisa_ros.ros.depths import nanoseconds

logger = logging.getLogger(__name__)

TRAIL_FRAMES, TRAIL_BYTES = 16, 64_000_000
GAP_S = 1.0  # between two frames: nobody looked in between, so nothing was out of sight
JUMP_S = 0.5  # back in stamps: a clock that was set or a recording that starts again, no frame that was overtaken
DEPTH_WAIT_S = 0.02  # at most, for the depth image of a frame that is tracked already
MEASURING_SHARE = 1 / 3  # of the thread's time, at most: at 30 Hz every frame for one or two masks


@dataclass(frozen=True, eq=False)
class RawFrame:
    """An image message of a camera as it came. at_s: time.monotonic()."""

    camera: Camera
    serialized: bytes
    at_s: float

    @property
    def header(self) -> Any:
        """Raises ImageError."""
        return self.camera.frames.header(self.serialized)

    def awaits_depth(self, header: Any) -> bool:
        return self.camera.depths.awaits(header)

    def read(self) -> tuple[Any, NDArray[np.uint8]]:
        """Header and pixels (H, W, 3). Raises ImageError."""
        return self.camera.frames.decode(self.serialized)

    def locate(self, header: Any, size: tuple[int, int], crops: list[MaskCrop]) -> list[Object3D]:
        """Masks of this frame in metres; none without depth. size: (height, width)."""
        return self.camera.depths.locate_now(header, size, crops)


class Trail:
    """Frames that came while the engine worked, thinned evenly: a tracker goes along them from then to now."""

    def __init__(self) -> None:
        self.frames: list[RawFrame] = []
        self._every, self._count = 1, 0

    def add(self, frame: RawFrame) -> None:
        self._count += 1
        if self._count % self._every:
            return
        self.frames.append(frame)
        if len(self.frames) > max(min(TRAIL_FRAMES, TRAIL_BYTES // max(len(frame.serialized), 1)), 1):
            self.frames = self.frames[1::2]
            self._every *= 2


@dataclass(frozen=True, eq=False)
class AnsweredFrame:
    """A frame whose masks the engine found.

    Args:
        header: The frame's.
        rgb: (H, W, 3) uint8.
        crops: Its masks.
        trail: Frames that came since.
    """

    header: Any
    rgb: NDArray[np.uint8]
    crops: Sequence[MaskCrop]
    trail: Sequence[RawFrame] = ()


@dataclass(frozen=True, eq=False)
class Followed:
    """What is followed: the things of one result. Two are the same only when they are one object.

    ask: what was asked. phrases: what the engine calls each label, where it does.
    """

    request_id: str
    ask: Ask
    session: str
    camera: str
    phrases: Mapping[int, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The text of the command."""
        return self.ask.text


@dataclass(frozen=True, eq=False)
class Sighting:
    """What is followed, in one frame.

    rgb: the frame, (H, W, 3) uint8; None where it was not looked at. ended: why this is the last one; empty while
    following goes on.
    """

    followed: Followed
    header: Any
    tracked: list[Tracked]
    rgb: NDArray[np.uint8] | None = None
    objects: list[Object3D] = field(default_factory=list)
    wants_detection: bool = False
    ended: str = ""


class Pursuit:
    """A tracker on the frames of one camera, and what ends the following.

    search_s: so long what is out of sight is looked for.
    """

    def __init__(self, tracker: Tracker, search_s: Callable[[], float]) -> None:
        self._tracker = tracker
        self._search_s = search_s
        self._measure_at = 0.0

    def start(self, followed: Followed, answered: AnsweredFrame) -> None:
        self._followed = followed
        self._header, self._size = answered.header, answered.rgb.shape[:2]
        self._time_s = self._seen_s = 0.0  # of the tracker: stands still where frames are missing
        self._at_s: float | None = None
        self._tracked = [Tracked(crop, 1.0, State.TRACKING) for crop in answered.crops]
        self._tracker.start(answered.rgb, answered.crops, self._time_s)

    def redetect(self, answered: AnsweredFrame) -> None:
        if answered.rgb.shape[:2] == self._size:
            self._tracker.redetect(answered.rgb, answered.crops, self._time_s)

    def clear(self) -> None:
        self._tracker.clear()

    def close(self) -> None:
        """Free what the tracker holds; a call of it that waits ends. On any thread."""
        if isinstance(self._tracker, Closing):
            self._tracker.close()

    def pass_by(self, rgb: NDArray[np.uint8], at_s: float) -> None:
        """Go along with a frame whose masks are not published."""
        if rgb.shape[:2] == self._size:
            self._update(rgb, at_s)

    def follow(self, header: Any, rgb: NDArray[np.uint8], at_s: float) -> Sighting | None:
        """What is in this frame; None for one that was overtaken by a newer one."""
        if change := self._change(header, rgb):
            lost = [Tracked(replace(NOWHERE, label=one.id), 0.0, State.LOST) for one in self._tracked]
            return Sighting(self._followed, header, lost, ended=change)
        if nanoseconds(header.stamp) < nanoseconds(self._header.stamp):
            return None
        self._header = header
        self._update(rgb, at_s)
        out_of_sight_s = self._time_s - self._seen_s
        ended = f"lost for {out_of_sight_s:.1f} s" if out_of_sight_s > self._search_s() else ""
        return Sighting(
            self._followed, header, self._tracked, rgb, wants_detection=self._tracker.wants_detection, ended=ended
        )

    def measure(self, sighting: Sighting, frame: RawFrame) -> Sighting:
        """With the masks in metres, where there is depth and time for it."""
        crops = [one.crop for one in sighting.tracked if one.crop.area]
        begun = time.monotonic()
        if not crops or begun < self._measure_at:
            return sighting
        objects = frame.locate(sighting.header, self._size, crops)
        self._measure_at = begun + (time.monotonic() - begun) / MEASURING_SHARE
        return replace(sighting, objects=objects)

    def _update(self, rgb: NDArray[np.uint8], at_s: float) -> None:
        step_s = at_s - self._at_s if self._at_s is not None else 0.0
        self._time_s += step_s if 0 < step_s < GAP_S else 0.0
        self._at_s = max(at_s, self._at_s or at_s)
        self._tracked = self._tracker.update(rgb, self._time_s)
        if any(one.state is not State.LOST for one in self._tracked):
            self._seen_s = self._time_s

    def _change(self, header: Any, rgb: NDArray[np.uint8]) -> str:
        """Why this frame does not continue the ones before; empty where it does."""
        (height, width), (old_height, old_width) = rgb.shape[:2], self._size
        if (height, width) != self._size:
            return f"the images are {width} x {height} pixels now, they were {old_width} x {old_height}"
        if header.frame_id != self._header.frame_id:
            return f"the images are in the frame {header.frame_id!r} now, they were in {self._header.frame_id!r}"
        back_s = (nanoseconds(self._header.stamp) - nanoseconds(header.stamp)) / 1e9
        return f"the images' clock has jumped back by {back_s:.1f} s" if back_s > JUMP_S else ""


class Follower:
    """The thread, with a mailbox for the newest masks and the newest frame.

    pursuit: makes it, on the thread and when it is first needed: a tracker may load weights. on_sighting: called on the
    thread.
    """

    def __init__(self, pursuit: Callable[[], Pursuit], on_sighting: Callable[[Sighting], None]) -> None:
        self._make_pursuit = pursuit
        self._pursuit: Pursuit | None = None
        self._on_sighting = on_sighting
        self._mailbox = threading.Condition()
        self._begin: tuple[Followed, AnsweredFrame] | None = None
        self._again: AnsweredFrame | None = None
        self._frame: RawFrame | None = None
        self._forgotten = self._closing = False
        self._followed: Followed | None = None  # as the thread knows it
        self._unreadable = False
        self._thread = threading.Thread(target=self._run, name="lisa-follower", daemon=True)
        self._thread.start()

    # --- from the executor; none of these waits

    def start(self, followed: Followed, answered: AnsweredFrame) -> None:
        """Follow these from the next frame on; nothing is done before it comes."""
        with self._mailbox:
            self._begin, self._again, self._frame = (followed, answered), None, None

    def redetect(self, answered: AnsweredFrame) -> None:
        """The model has looked again for what is followed."""
        with self._mailbox:
            self._again = answered

    def see(self, frame: RawFrame) -> None:
        """A newer frame; it takes the place of one that was not looked at yet."""
        with self._mailbox:
            self._frame = frame
            self._mailbox.notify()

    def depth_came(self) -> None:
        """A depth image was kept; it may be the one of the frame that is worked on."""
        with self._mailbox:
            self._mailbox.notify()

    def forget(self) -> None:
        """Follow nothing, and free the tracker's targets."""
        with self._mailbox:
            self._begin = self._again = self._frame = None
            self._forgotten = True
            self._mailbox.notify()

    def close(self) -> None:
        """End the thread, after the frame that it works on, and close the tracker."""
        with self._mailbox:
            self._closing = True
            self._mailbox.notify()
        self._close_pursuit()  # the thread may wait for it
        self._thread.join()
        self._close_pursuit()  # one that the thread made meanwhile

    def _close_pursuit(self) -> None:
        if self._pursuit is not None:
            self._pursuit.close()

    # --- on the thread

    def _run(self) -> None:
        cv2.setNumThreads(1)  # small pictures gain nothing by more, and the cores are needed elsewhere
        while True:
            with self._mailbox:
                self._mailbox.wait_for(lambda: self._closing or self._forgotten or self._frame is not None)
                if self._closing:
                    return
                forgotten, self._forgotten = self._forgotten, False
                frame, self._frame = self._frame, None
            header = None
            try:
                if forgotten:
                    self._let_go()
                if frame is not None and (picture := self._read(frame)) is not None:
                    header, rgb = picture
                    self._look(frame, header, rgb)
            except Exception as error:
                if self._closing:
                    return  # the tracker was closed meanwhile
                logger.error("%s", traceback.format_exc())
                followed, self._followed = self._followed, None
                if followed is not None and header is not None:
                    why = f"{type(error).__name__}: {error}; see the log"
                    self._on_sighting(Sighting(followed, header, [], ended=why))

    def _let_go(self) -> None:
        self._followed = None
        if self._pursuit is not None:
            self._pursuit.clear()

    def _read(self, frame: RawFrame) -> tuple[Any, NDArray[np.uint8]] | None:
        """Header and pixels; None, and a warning about the first one, for frames that are no image."""
        try:
            picture = frame.read()
        except ImageError as error:
            if not self._unreadable:
                logger.warning("masks do not follow this frame: %s", error)
            self._unreadable = True
            return None
        self._unreadable = False
        return picture

    def _look(self, frame: RawFrame, header: Any, rgb: NDArray[np.uint8]) -> None:
        with self._mailbox:
            begin, again = self._begin, self._again
            self._begin = self._again = None
        if begin is not None:
            self._followed, answered = begin
            self._pursuit = self._pursuit or self._make_pursuit()
            self._pursuit.start(self._followed, answered)
            self._go_along(answered.trail)
        if self._followed is None or self._pursuit is None:
            return
        if again is not None:
            self._pursuit.redetect(again)
            self._go_along(again.trail)
        sighting = self._pursuit.follow(header, rgb, frame.at_s)
        if sighting is None:
            return
        self._wait_for_depth(frame, header)
        self._on_sighting(self._pursuit.measure(sighting, frame))
        if sighting.ended:
            self._let_go()

    def _go_along(self, trail: Sequence[RawFrame]) -> None:
        assert self._pursuit is not None
        for frame in trail:
            if (picture := self._read(frame)) is not None:
                self._pursuit.pass_by(picture[1], frame.at_s)

    def _wait_for_depth(self, frame: RawFrame, header: Any) -> None:
        """Until the depth image of this frame is here, something else is to be done, or DEPTH_WAIT_S is over."""
        with self._mailbox:
            self._mailbox.wait_for(
                lambda: self._closing or self._forgotten or self._frame is not None or not frame.awaits_depth(header),
                DEPTH_WAIT_S,
            )
