#!/usr/bin/env python3
"""A camera made of one picture: publishes it over and over as a stream, with fresh stamps and a camera_info.

Topics, below ``--topic`` (default /camera): ``image_raw`` (sensor_msgs/Image, rgb8) and ``camera_info`` with the same
stamp; SensorDataQoS (best effort), as camera drivers do.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from pathlib import Path

import numpy as np
import rclpy
from numpy.typing import NDArray
from PIL import Image as Picture
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.errors import ImageError
from lisa_ros.perception.photo import read_picture_file
from lisa_ros.plain_text import escaped

FRAME = "camera_color_optical_frame"
LONGEST_SIDE = 1280  # pixels; a photo of 48 megapixels ten times a second is no camera stream
FIELD_OF_VIEW = math.radians(60.0)  # horizontal, of the pinhole that camera_info describes


def load_picture(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB as `lisa segment` reads it, its longest side at most 1280. Raises ImageError."""
    picture = Picture.fromarray(read_picture_file(path))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Picture.Resampling.LANCZOS)
    return np.asarray(picture)


def image_message(rgb: NDArray[np.uint8]) -> Image:
    """rgb: (H, W, 3) uint8. The stamp is set at publishing."""
    message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding="rgb8", step=rgb.shape[1] * 3)
    message.header.frame_id = FRAME
    message.data.frombytes(rgb.tobytes())
    return message


def camera_info_message(height: int, width: int) -> CameraInfo:
    """An ideal pinhole without distortion, in pixels."""
    focal = width / 2 / math.tan(FIELD_OF_VIEW / 2)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    message = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = FRAME
    message.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


class Camera(Node):
    """Publishes one picture ``rate_hz`` times a second."""

    def __init__(self, rgb: NDArray[np.uint8], rate_hz: float, topic: str) -> None:
        super().__init__("demo_camera")
        self._image = image_message(rgb)
        self._info = camera_info_message(*rgb.shape[:2])
        self._images = self.create_publisher(Image, f"{topic}/image_raw", qos_profile_sensor_data)
        self._infos = self.create_publisher(CameraInfo, f"{topic}/camera_info", qos_profile_sensor_data)
        self.create_timer(1.0 / rate_hz, self._publish)

    def _publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        self._image.header.stamp = self._info.header.stamp = stamp
        self._images.publish(self._image)
        self._infos.publish(self._info)


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish a picture as a camera stream.")
    parser.add_argument("image", type=Path, help="picture file")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second (default 10)")
    parser.add_argument("--topic", default="/camera", help="namespace of image_raw and camera_info (default /camera)")
    arguments = parser.parse_args()
    if not 0.0 < arguments.rate <= 1000.0:
        parser.error(f"--rate {arguments.rate} is not between 0 and 1000 frames a second")
    try:
        rgb = load_picture(arguments.image)
    except ImageError as error:
        print(f"camera: {escaped(error)}", file=sys.stderr)
        return 1
    # Python's own handlers: rclpy's would end the context in the middle of a publish.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        rclpy.spin(Camera(rgb, arguments.rate, arguments.topic))
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
