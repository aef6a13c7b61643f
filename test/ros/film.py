"""A camera that shows a thing moving over a ground, with exact truth: the only green, which the stand-in finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from rclpy.qos import qos_profile_sensor_data
from robot import Client, stamp
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from lisa_ros.msg import TrackedMask
from lisa_ros.ros.messages import image_message

RATE_HZ = 30.0
FOCAL, GROUND_M, THING_M = 500.0, 0.9, 0.8


def texture(seed: int, size: tuple[int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8, cloudy and grainy, between two colours."""
    rng = np.random.default_rng(seed)
    height, width = size
    total = sum(
        cv2.resize(rng.normal(size=(cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
        for cells in (8, 24, 64)
    )
    share = np.clip(total / 6 + 0.5, 0, 1)[..., None]
    return (np.array(low) * (1 - share) + np.array(high) * share).astype(np.uint8)


def to_and_fro(t: float) -> tuple[float, float]:
    """40 pixels a second or so."""
    return 60 * math.sin(0.8 * t), 30 * math.sin(1.1 * t)


def still(t: float) -> tuple[float, float]:
    return 0.0, 0.0


class Film:
    """Beside the client's own camera, which is switched off. Everything may be changed while it runs.

    path: the thing's place over time, pixels from the middle; time is counted in frames, so that a machine that cannot
    hold the rate shows a slower film, not one that jumps. truth: (H, W) bool of each frame by its stamp.
    depth: whether a depth image is sent after each. camera: its name, where there are several.
    """

    def __init__(
        self, client: Client, size: tuple[int, int] = (480, 640), depth: bool = False, camera: str = ""
    ) -> None:
        client.view = None
        self._images, self._infos = client.images, client.infos
        if camera:
            self._images = client.node.create_publisher(Image, f"{camera}/image", qos_profile_sensor_data)
            self._infos = client.node.create_publisher(CameraInfo, f"{camera}/camera_info", qos_profile_sensor_data)
        client.wait(lambda: self._images.get_subscription_count() > 0, "subscription to the film")
        self.client, self.size, self.depth = client, size, depth
        self.path: Callable[[float], tuple[float, float]] = to_and_fro
        self.hidden, self.frame_id, self.late_s = False, "camera_optical", 0.0
        self.truth: dict[tuple[int, int], np.ndarray] = {}
        self._shot = 0
        self._ground = texture(1, (480, 640), (40, 20, 20), (230, 110, 200))
        self._thing = texture(2, (120, 140), (20, 140, 60), (160, 250, 180))
        shape = np.zeros((120, 140), np.uint8)
        cv2.ellipse(shape, (70, 70), (60, 40), 20, 0, 360, 255, -1)
        cv2.rectangle(shape, (55, 10), (80, 70), 255, -1)
        self._shape = shape > 0
        self._depths = client.node.create_publisher(Image, "depth", 5) if depth else None
        self._timer = client.node.create_timer(1 / RATE_HZ, self._shoot)

    def close(self) -> None:
        self.client.node.destroy_timer(self._timer)

    def frame(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """rgb (H, W, 3) uint8 and truth (H, W) bool."""
        x, y = self.path(t)
        left, top = round(320 - 70 + x), round(240 - 60 + y)
        rgb, covers = self._ground.copy(), np.zeros((480, 640), bool)
        if not self.hidden:
            covers[top : top + 120, left : left + 140] = self._shape
            rgb[top : top + 120, left : left + 140][self._shape] = self._thing[self._shape]
        if self.size != (480, 640):
            rgb = cv2.resize(rgb, self.size[::-1], interpolation=cv2.INTER_NEAREST)
            covers = cv2.resize(covers.view(np.uint8), self.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
        return rgb, covers

    def run(self, seconds: float) -> None:
        frames = len(self.truth) + round(seconds * RATE_HZ)
        self.client.wait(lambda: len(self.truth) >= frames, "frames")

    def _shoot(self) -> None:
        now = self.client.node.get_clock().now()
        rgb, truth = self.frame(self._shot / RATE_HZ)
        self._shot += 1
        sec, nanosec = divmod(now.nanoseconds - round(self.late_s * 1e9), 10**9)
        header = Header(frame_id=self.frame_id)
        header.stamp.sec, header.stamp.nanosec = sec, nanosec
        self.truth[stamp(header)] = truth
        height, width = self.size
        k = [FOCAL, 0.0, (width - 1) / 2, 0.0, FOCAL, (height - 1) / 2, 0.0, 0.0, 1.0]
        self._infos.publish(CameraInfo(header=header, height=height, width=width, k=k))
        self._images.publish(image_message(header, rgb, "rgb8"))
        if self._depths is not None:
            depth = np.where(truth, 1000 * THING_M, 1000 * GROUND_M).astype(np.uint16)
            self._depths.publish(image_message(header, depth.view(np.uint8).reshape(height, width, 2), "16UC1"))


def whole(tracked: TrackedMask, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool."""
    image, roi = np.zeros(size, bool), tracked.mask.roi
    pixels = np.frombuffer(tracked.mask.pixels.data, np.uint8).reshape(roi.height, roi.width)
    assert set(np.unique(pixels)) <= {0, 255}
    image[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] = pixels > 0
    return image


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1)
