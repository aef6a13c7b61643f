"""Camera images: the newest one is kept as it came, and turned into pixels only when a command needs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from lisa_ros.errors import ImageError
from lisa_ros.perception.image_codec import check_image, decode, decode_compressed
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.serialized_image import read_image, read_message
from lisa_ros.runtime.frame_memory import FrameMemory
from lisa_ros.runtime.queue import Frame
from lisa_ros.runtime.status import NoImage

MOST_BYTES_PER_PIXEL = 4  # of the encodings that are known


class Frames:
    """The newest frame and camera_info, still serialized: a 30 Hz stream that nobody asks about costs almost nothing.

    ros_now_s: the node's clock in seconds, for the age of a stamp. Whether a frame is too old is told by when it came
    in: stamps of another machine, of a bag or of a simulation say nothing about a camera that has stopped.
    count: how many came.
    """

    def __init__(
        self,
        memory: FrameMemory,
        parameters: Callable[[], Parameters],
        topic: Callable[[], str],
        ros_now_s: Callable[[], float],
    ) -> None:
        self._memory = memory
        self._parameters = parameters
        self._topic = topic
        self._ros_now_s = ros_now_s
        self._compressed = parameters().image_transport == "compressed"
        self._newest: bytes | None = None
        self._newest_bytes = 0
        self._came_in = 0.0
        self._begun = time.monotonic()
        self.count = 0
        self._info: bytes | None = None

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
        """A new camera_info has come."""
        self._info = serialized

    def check(self, image: Image) -> None:
        """Raise ImageError unless a caller's own image can be used; looks at no pixel."""
        check_image(image, self._parameters().max_image_pixels)

    def take(self, image: Image | None) -> Frame:
        """Put the pixels of ``image``, or of the newest frame, into the shared memory. Raises ImageError or NoImage."""
        most = self._parameters().max_image_pixels
        if image is not None:
            pixels = decode(image, most, self._memory.pixels)
        else:
            image = self._newest_message()
            pixels = (decode_compressed if self._compressed else decode)(image, most, self._memory.pixels)
        return Frame(image.header, pixels.shape[:2], self._age_s(image.header))

    def header(self, serialized: bytes) -> Any:
        """Of a frame as it came, its pixels left alone. Raises ImageError."""
        return self._message(serialized).header

    def decode(self, serialized: bytes) -> tuple[Any, NDArray[np.uint8]]:
        """Header and pixels (H, W, 3), to read only, of a frame as it came. Raises ImageError. On any thread."""
        image = self._message(serialized)
        return image.header, (decode_compressed if self._compressed else decode)(
            image, self._parameters().max_image_pixels
        )

    def pixels(self, frame: Frame) -> Any:
        """(H, W, 3) uint8 of the frame that was taken last."""
        return self._memory.pixels(frame.size)

    def camera_info(self, frame: Frame) -> CameraInfo | None:
        """The camera's newest info under the header of ``frame``; None where it is not about this camera or size."""
        if self._info is None:
            return None
        try:
            info = read_message(self._info, CameraInfo)
        except ImageError:
            return None
        if info.header.frame_id != frame.header.frame_id or (info.height, info.width) != frame.size:
            return None
        info.header = frame.header
        return info

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

    def _most_bytes(self) -> int:
        return MOST_BYTES_PER_PIXEL * self._parameters().max_image_pixels + 65536

    def _age_s(self, header: Any) -> float:
        """From the stamp to now; 0 for an image without a stamp."""
        stamp_s = header.stamp.sec + header.stamp.nanosec / 1e9  # not rclpy's Time: it refuses a negative stamp
        return self._ros_now_s() - stamp_s if stamp_s else 0.0
