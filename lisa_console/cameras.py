"""The cameras that pages show: subscribed to only while somebody watches, with their latest pictures."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from lisa_ros.errors import ImageError
from lisa_ros.perception.image_codec import decode, decode_compressed, open_compressed
from lisa_ros.ros.serialized_image import read_image, read_message, read_stamp_ns

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MOST_KEPT, MOST_BYTES = 16, 64 << 20  # pictures that a command may turn out to be about
LONGEST_SIDE, THUMBNAIL_SIDE = 960, 128  # pixels
QUALITY = 75  # of JPEG
MOST_PIXELS = 50_000_000  # as the node's parameter max_image_pixels
RATE_OVER = 30  # intervals that the rate is measured over


class Picture:
    """One image message, decoded when it is needed."""

    def __init__(self, serialized: bytes, kind: type) -> None:
        self.serialized, self._kind = serialized, kind

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3). Raises ImageError."""
        if self._kind is Image:
            return decode(read_image(self.serialized), MOST_PIXELS)
        return decode_compressed(read_message(self.serialized, CompressedImage), MOST_PIXELS)

    def jpeg(self) -> tuple[bytes, tuple[int, int]]:
        """Of at most LONGEST_SIDE, and the (width, height) of the camera's picture. Raises ImageError."""
        if self._kind is CompressedImage:
            message = read_message(self.serialized, CompressedImage)
            picture = open_compressed(message, MOST_PIXELS)
            if picture.format == "JPEG" and max(picture.size) <= LONGEST_SIDE and "bayer" not in message.format:
                return bytes(message.data), picture.size  # as it came
        rgb = self.rgb()
        return jpeg_of(rgb, LONGEST_SIDE), (rgb.shape[1], rgb.shape[0])


class Camera:
    """One camera.

    Args:
        name: Prefix of its topic; empty: it has none.
        node: Subscribes.
        compressed: Its messages are CompressedImage.
        on_picture: Called with the stamp [ns] of every picture.

    Attributes:
        problem: Why its pictures cannot be shown; empty where they can.
    """

    def __init__(self, name: str, node: Node, compressed: bool, on_picture: Callable[[Camera, int], None]) -> None:
        self.name, self._node, self._on_picture = name, node, on_picture
        self._kind: type = CompressedImage if compressed else Image
        self.topic = node.resolve_topic_name(f"{name}/image" if name else "image")
        self._subscription: Any = None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._arrivals: deque[float] = deque(maxlen=RATE_OVER)
        self.problem = ""

    def watch(self, on: bool) -> None:
        """Subscribe, or unsubscribe and forget."""
        if on and self._subscription is None:
            self._subscription = self._node.create_subscription(self._kind, self.topic, self._take, NEWEST, raw=True)
        elif not on and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._kept.clear()
            self._arrivals.clear()

    def find(self, stamp_ns: int) -> Picture | None:
        """The picture of a stamp, if it is still kept."""
        serialized = self._kept.get(stamp_ns)
        return None if serialized is None else Picture(serialized, self._kind)

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches."""
        return self._subscription is not None

    @property
    def rate_hz(self) -> float:
        """Pictures a second, lately; 0 once they stop."""
        if len(self._arrivals) < 2 or time.monotonic() - self._arrivals[-1] > 2.0:
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-6)

    @property
    def silence_s(self) -> float | None:
        """Seconds since the newest picture came; None before the first one."""
        return time.monotonic() - self._arrivals[-1] if self._arrivals else None

    def _take(self, serialized: bytes) -> None:
        try:
            stamp = read_stamp_ns(serialized)
        except ImageError as error:
            self.problem = str(error)
            return
        self._arrivals.append(time.monotonic())
        self._kept[stamp] = serialized
        self._kept.move_to_end(stamp)
        while len(self._kept) > MOST_KEPT or (len(self._kept) > 1 and sum(map(len, self._kept.values())) > MOST_BYTES):
            self._kept.popitem(last=False)
        self._on_picture(self, stamp)


def jpeg_of(rgb: NDArray[np.uint8], longest_side: int) -> bytes:
    """A JPEG of a picture (H, W, 3), reduced where it is larger."""
    share = longest_side / max(rgb.shape[:2])
    if share < 1:
        size = (max(round(rgb.shape[1] * share), 1), max(round(rgb.shape[0] * share), 1))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of a picture (H, W, 3) in RGB, or of a mask (H, W)."""
    if pixels.ndim == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()
