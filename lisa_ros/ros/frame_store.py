"""The newest image of a camera, as it came; turned into pixels only when a command needs it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lisa_ros.errors import ImageError
from lisa_ros.perception.calibration import image_size
from lisa_ros.perception.image_codec import check_image, decode, decode_compressed
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.serialized_image import read_image, read_message, read_stamp_ns
from lisa_ros.runtime.requests import Frame
from lisa_ros.runtime.status import NoImage

MOST_BYTES_PER_PIXEL = 4  # of the encodings that are known
KEPT_INFOS = 30  # a second at 30 Hz, half a kilobyte each. What a running command needs is held beside them
MOST_AHEAD_S = 1.0  # of the clock; a stamp further ahead is of another clock


class FrameStore:
    """The newest image and camera_info, still serialized: a 30 Hz stream that nobody asks about costs almost nothing.

    Whether an image is too old depends on when it came in: stamps of another machine, of a bag or of a simulation say
    nothing about a camera that has stopped.

    Args:
        parameters: The current ones.
        topic: Name of the image topic, for messages.
        ros_now_s: The node's clock in seconds, for the age of a stamp.

    Attributes:
        count: Images that came.
    """

    def __init__(
        self, parameters: Callable[[], Parameters], topic: Callable[[], str], ros_now_s: Callable[[], float]
    ) -> None:
        self._parameters = parameters
        self._topic = topic
        self._ros_now_s = ros_now_s
        self._compressed = parameters().image_transport == "compressed"
        self._newest: bytes | None = None
        self._newest_bytes = 0
        self._came_in = 0.0
        self._begun = time.monotonic()
        self.count = 0
        self._infos: deque[tuple[int, bytes]] = deque(maxlen=KEPT_INFOS)  # (stamp in nanoseconds, serialized)
        self._held_for: Any = None
        self._held_infos: list[tuple[int, bytes]] = []

    @property
    def silent_s(self) -> float:
        """Seconds since the newest frame came, or since the beginning where none has."""
        return time.monotonic() - (self._came_in or self._begun)

    @property
    def message_type(self) -> type:
        """Of the topic ``image``."""
        return CompressedImage if self._compressed else Image

    def keep(self, serialized: bytes) -> None:
        """A new frame has come."""
        self._newest_bytes = len(serialized)
        self._newest = serialized if self._newest_bytes <= self._most_bytes() else None
        self._came_in = time.monotonic()
        self.count += 1

    def keep_info(self, serialized: bytes) -> None:
        """A new camera_info has come; it may be the one of the running command's frame."""
        try:
            info = read_stamp_ns(serialized), serialized
        except ImageError:
            return
        self._infos.append(info)
        # Where all stamps are alike, the newest of the frame's moment was held.
        if self._held_for is not None:
            frame_ns = stamp_ns(self._held_for)
            if info[0] == frame_ns and all(ns != frame_ns for ns, _ in self._held_infos):
                self._held_infos.append(info)

    def hold(self, frame: Frame) -> None:
        """From now on keep the camera_info of this frame's moment, also one that comes later."""
        self._held_for, self._held_infos = frame.header, list(self._infos)

    def forget(self) -> None:
        """Let go of every image and camera_info."""
        self._newest = self._held_for = None
        self._infos.clear()
        self._held_infos = []

    def check(self, image: Image) -> None:
        """Raise ImageError unless a caller's own image can be used; looks at no pixel."""
        check_image(image, self._parameters().max_image_pixels)

    def take(self, image: Image | None, serialized: bytes | None = None) -> Frame:
        """The frame of ``image``, or of the one that came as ``serialized``, or of the newest one.

        Raises:
            ImageError: It cannot be used.
            NoImage: There is none, or it is too old.
        """
        if image is not None:
            header, pixels = image.header, decode(image, self._parameters().max_image_pixels)
        elif serialized is not None:
            header, pixels = self._decoded(self._message(serialized))
        else:
            header, pixels = self._decoded(self._newest_message())
        return Frame(header, read_only(pixels), self._age_s(header), sent=image is not None)

    def header(self, serialized: bytes) -> Any:
        """Of a frame as it came, its pixels left alone. Raises ImageError."""
        return self._message(serialized).header

    def decode(self, serialized: bytes) -> tuple[Any, NDArray[np.uint8]]:
        """Header and pixels (H, W, 3), to read only, of a frame as it came. Raises ImageError. On any thread."""
        return self._decoded(self._message(serialized))

    def camera_info(self, header: Any, size: tuple[int, int]) -> CameraInfo | None:
        """The camera's info of a frame's moment, under its ``header``; None where none is about this camera and size.

        That is the one with the frame's stamp, else the newest before it, else the newest: a camera that zooms or
        changes its resolution has another one for each frame. On any thread.
        """
        infos = self._held_infos if self._held_for is header and self._held_infos else self._infos
        for serialized in of_the_moment(stamp_ns(header), list(infos.copy())):
            try:
                info = read_message(serialized, CameraInfo)
            except ImageError:
                continue
            if info.header.frame_id == header.frame_id and image_size(info) == size:
                info.header = header
                return info
        return None

    def _newest_message(self) -> Any:
        if not self._came_in:
            raise NoImage(
                f"no image has come on {self._topic()} yet; start the camera, remap image:=, or send an image along"
            )
        age_s, most_s = time.monotonic() - self._came_in, self._parameters().max_image_age_s
        if age_s > most_s:
            raise NoImage(
                f"the newest image on {self._topic()} came {age_s:.1f} s ago, more than max_image_age_s = {most_s:g}; "
                "is the camera still running?"
            )
        if self._newest is None:
            raise ImageError(
                f"the newest image on {self._topic()} has {self._newest_bytes} bytes, more than any image of "
                f"max_image_pixels = {self._parameters().max_image_pixels}; publish a smaller one, or raise it"
            )
        return self._message(self._newest)

    def _message(self, serialized: bytes) -> Any:
        return read_message(serialized, CompressedImage) if self._compressed else read_image(serialized)

    def _decoded(self, image: Any) -> tuple[Any, NDArray[np.uint8]]:
        """Header and pixels; of an unpadded rgb8 image a view of the message, which is not copied."""
        pixels = (decode_compressed if self._compressed else decode)(image, self._parameters().max_image_pixels)
        return image.header, pixels

    def _most_bytes(self) -> int:
        return MOST_BYTES_PER_PIXEL * self._parameters().max_image_pixels + 65536

    def _age_s(self, header: Any) -> float:
        """From the stamp to now by the node's clock; 0 where one of them says nothing.

        That is a stamp of 0, a clock that has not started (simulated time), and a stamp that lies in the future.
        """
        stamp_s, now_s = stamp_ns(header) / 1e9, self._ros_now_s()
        age_s = now_s - stamp_s
        return age_s if stamp_s and now_s and age_s >= -MOST_AHEAD_S else 0.0


def of_the_moment(frame_ns: int, infos: list[tuple[int, bytes]]) -> Iterator[bytes]:
    """Those of ``infos`` (stamp in nanoseconds, message), oldest first, that may be a frame's; the best comes first."""
    if exact := [serialized for ns, serialized in infos if ns == frame_ns]:
        yield from reversed(exact)
        return
    newest_first = infos[::-1]
    before = sorted((info for info in newest_first if info[0] < frame_ns), key=lambda info: -info[0])
    yield from (serialized for _, serialized in before or newest_first)


def stamp_ns(header: Any) -> int:
    """Nanoseconds; rclpy's own Time refuses a negative stamp."""
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


def read_only(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view that nobody can write to: a frame is shared by the queue, the tracker and the publishers."""
    view = pixels.view()
    view.flags.writeable = False
    return view
