#!/usr/bin/env python3
"""A camera with depth, as a process: a bright box on a table, at a place that the stamp of the frame tells.

So whoever gets a mask can tell whether it is the mask of the frame under whose header it comes. Lines of JSON on
standard input change it while it runs: size, encoding, frame_id, rate, offset_s (of the stamps), silent.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from typing import Any

import numpy as np
from children import die_with_parent, messages, say
from numpy.typing import NDArray

SIZES = ((720, 1280), (480, 640), (360, 640))
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "mono8": 1}
PLACES = 10
TABLE_MM, BOX_MM = 800, 700


def place_of(nanosec: int) -> int:
    """Which of the places the box of a frame with this stamp is at."""
    return nanosec // 1_000_000 % PLACES


def box(size: tuple[int, int], place: int) -> tuple[int, int, int, int]:
    """(x, y, width, height) in pixels. Its size tells the image's size: see ``size_of``."""
    height, width = size
    return width * 5 // 16 + place * (width // 128), height * 5 // 18, width * 15 // 64, height * 5 // 18


def is_right(roi: tuple[int, int, int, int], nanosec: int) -> bool:
    """Whether a mask's box is that of the frame with this stamp, in an image of one of ``SIZES``."""
    return any(roi == box(size, place_of(nanosec)) for size in SIZES)


@functools.lru_cache(maxsize=4 * PLACES)
def frame(size: tuple[int, int], encoding: str, place: int) -> NDArray[np.uint8]:
    """(H, W, C) uint8."""
    pixels = np.full((*size, CHANNELS[encoding]), 20, np.uint8)
    x, y, width, height = box(size, place)
    pixels[y : y + height, x : x + width] = 250
    return pixels


@functools.lru_cache(maxsize=2 * PLACES)
def depth(size: tuple[int, int], place: int) -> NDArray[np.uint16]:
    """(H, W) millimetres."""
    pixels = np.full(size, TABLE_MM, np.uint16)
    x, y, width, height = box(size, place)
    pixels[y : y + height, x : x + width] = BOX_MM
    return pixels


class BoxCamera:
    """Publishes image, depth and camera_info with one stamp."""

    def __init__(self, node: Any, size: tuple[int, int], rate: float) -> None:
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CameraInfo, Image

        self.view: dict[str, Any] = {
            "size": size,
            "encoding": "rgb8",
            "frame_id": "camera_optical",
            "rate": rate,
            "offset_s": 0.0,
            "silent": False,
        }
        self._node = node
        self._images, self._depths = (
            node.create_publisher(Image, topic, qos_profile_sensor_data) for topic in ("/image", "/depth")
        )
        self._infos = node.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
        self._messages: dict[Any, Any] = {}

    def shoot(self) -> None:
        from rclpy.duration import Duration
        from sensor_msgs.msg import CameraInfo
        from std_msgs.msg import Header

        if self.view["silent"]:
            return
        stamp = (self._node.get_clock().now() + Duration(seconds=self.view["offset_s"])).to_msg()
        header = Header(stamp=stamp, frame_id=self.view["frame_id"])
        size, place = tuple(self.view["size"]), place_of(stamp.nanosec)
        image = self._message("image", size, place, self.view["encoding"])
        depth_image = self._message("depth", size, place, "16UC1")
        height, width = size
        k = [float(width), 0.0, (width - 1) / 2, 0.0, float(width), (height - 1) / 2, 0.0, 0.0, 1.0]
        image.header = depth_image.header = header
        self._infos.publish(CameraInfo(header=header, height=height, width=width, k=k))
        self._images.publish(image)
        self._depths.publish(depth_image)

    def _message(self, kind: str, size: tuple[int, int], place: int, encoding: str) -> Any:
        """Made once: the camera shall not take the time that is measured."""
        from std_msgs.msg import Header

        from lisa_ros.ros.messages import image_message

        key = (kind, size, place, encoding)
        if key not in self._messages:
            if len(self._messages) > 4 * PLACES:
                self._messages.clear()
            if kind == "image":
                pixels = frame(size, encoding, place)
            else:
                pixels = depth(size, place).view(np.uint8).reshape(*size, 2)
            self._messages[key] = image_message(Header(), pixels, encoding)
        return self._messages[key]


def main() -> None:
    import argparse

    import rclpy

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("rate", type=float)
    arguments = parser.parse_args()
    die_with_parent()
    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    camera = BoxCamera(rclpy.create_node("camera"), (arguments.height, arguments.width), arguments.rate)
    changes: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def listen() -> None:
        for change in messages():
            changes.put(change)
        changes.put(None)

    threading.Thread(target=listen, daemon=True).start()
    frames, due = 0, time.monotonic()
    while True:
        while not changes.empty():
            change = changes.get()
            if change is None:
                rclpy.shutdown()
                return
            camera.view.update(change)
            say(changed=change, frames=frames)
            due = time.monotonic()
        camera.shoot()
        frames += not camera.view["silent"]
        due = max(due + 1 / camera.view["rate"], time.monotonic() - 0.1)  # what was missed is not caught up in a burst
        time.sleep(max(due - time.monotonic(), 0))


if __name__ == "__main__":
    main()
