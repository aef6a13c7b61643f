#!/usr/bin/env python3
"""From a sentence to a grasp candidate: how a planner uses a mask, on one page.

    python examples/grasp_candidate.py "the red mug" --depth /camera/aligned_depth_to_color/image_raw \\
        --camera-info /camera/aligned_depth_to_color/camera_info

It sends the command to a running node and waits for the result. It takes the depth image of the same moment from a
short history, and prints for each mask where to grasp: centroid, approach, closing direction and width, in metres, in
the camera's optical frame (x right, y down, z forward). Depth must be aligned to the colour image: same size and frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.action import Segment
from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ImageError
from lisa_ros.msg import Mask, Segmentation
from lisa_ros.perception.calibration import distortion, pinhole
from lisa_ros.perception.geometry import Grasp, Object3D, clamp_of, depth_image, grasp_candidate, locate

NANOSECONDS = 1_000_000_000
KEPT = 90  # depth images: 3 s at 30 Hz, longer than an answer usually takes


class NoGrasp(Exception):
    """There is no grasp candidate; the message says why."""


class Grasper(Node):
    """Keeps the newest depth images, asks the node, and matches depth and answer by their stamps."""

    def __init__(self, node: str, depth: str, camera_info: str, kept: int) -> None:
        super().__init__("grasp_candidate")
        self._depths: deque[Image] = deque(maxlen=kept)
        self._infos: deque[CameraInfo] = deque(maxlen=kept)
        self.create_subscription(Image, depth, self._on_depth, qos_profile_sensor_data)
        self.create_subscription(CameraInfo, camera_info, self._on_info, qos_profile_sensor_data)
        self._action = ActionClient(self, Segment, f"{node}/segment")

    def _on_depth(self, depth: Image) -> None:
        self._depths.append(depth)

    def _on_info(self, info: CameraInfo) -> None:
        self._infos.append(info)

    def wait(self, done: Callable[[], object], timeout_s: float, waiting_for: str) -> None:
        """Spin until ``done()`` is true. Raises NoGrasp after ``timeout_s`` seconds."""
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise NoGrasp(f"no {waiting_for} within {timeout_s:.0f} s")
            rclpy.spin_once(self, timeout_sec=0.05)

    def ask(self, command: str, timeout_s: float) -> Segmentation:
        """The answer to a command. Raises NoGrasp where it has no mask."""
        self.wait(self._action.server_is_ready, timeout_s, "action server")
        self.wait(lambda: self._depths and self._infos, timeout_s, "depth and camera_info")
        sent = self._action.send_goal_async(Segment.Goal(command=command))
        self.wait(sent.done, timeout_s, "reply to the goal")
        if not sent.result().accepted:
            raise NoGrasp("the node rejected the goal")
        finished = sent.result().get_result_async()
        self.wait(finished.done, timeout_s, "answer")
        result = finished.result().result
        if result.status != Segment.Result.SUCCESS:
            raise NoGrasp(result.message or f"nothing found: {result.segmentation.answer.strip()}")
        return result.segmentation

    def depth_of(self, answer: Segmentation, slop_s: float) -> Image:
        """The depth image with the answer's stamp, or the nearest within ``slop_s`` seconds. Raises NoGrasp."""
        asked = nanoseconds(answer)
        # Depth may arrive later than colour: wait until it is as new as the frame.
        self.wait(lambda: nanoseconds(self._depths[-1]) >= asked, 2.0, "depth as new as the frame")
        # The newest of several that are as near: stamps of 0 say nothing of time.
        nearest = min(reversed(self._depths), key=lambda depth: abs(nanoseconds(depth) - asked))
        away_s = abs(nanoseconds(nearest) - asked) / NANOSECONDS
        if away_s > slop_s:
            raise NoGrasp(f"the nearest depth image is {away_s:.3f} s from the frame; use a larger --slop or --kept")
        if nearest.header.frame_id != answer.header.frame_id:
            raise NoGrasp(
                f"depth is in {nearest.header.frame_id!r}, the image in {answer.header.frame_id!r}; align depth"
            )
        return nearest

    def info_of(self, answer: Segmentation) -> CameraInfo:
        """The camera_info with the answer's stamp, else the newest before it, else the newest."""
        asked, newest_first = nanoseconds(answer), list(reversed(self._infos))
        before = [info for info in newest_first if nanoseconds(info) <= asked]
        info = max(before, key=nanoseconds) if before else newest_first[0]
        if lens := distortion(info):
            print(f"      camera_info has distortion ({lens}): metres need rectified images (image_proc)", flush=True)
        return info

    def grasps(self, answer: Segmentation, slop_s: float) -> list[tuple[Object3D, Grasp | None]]:
        """Every object in metres, with its grasp where depth allows one. Raises NoGrasp, ImageError."""
        image, camera = self.depth_of(answer, slop_s), pinhole(self.info_of(answer))
        depth = depth_image(image.data, image.encoding, image.height, image.width, image.step, bool(image.is_bigendian))
        clamp = clamp_of(depth)
        things = [locate(crop_of(mask), depth, camera, clamp=clamp) for mask in answer.masks]
        return [(thing, grasp_candidate(thing)) for thing in things]


def nanoseconds(message: Image | CameraInfo | Segmentation) -> int:
    return message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec


def crop_of(mask: Mask) -> MaskCrop:
    """A Mask message as a MaskCrop."""
    image, roi, centroid = mask.pixels, mask.roi, mask.centroid_px
    pixels = np.ndarray((image.height, image.width), np.uint8, buffer=image.data, strides=(image.step, 1))
    return MaskCrop(
        mask.label,
        roi.x_offset,
        roi.y_offset,
        roi.width,
        roi.height,
        pixels,
        mask.score,
        mask.area,
        (centroid.x, centroid.y),
    )


def describe(thing: Object3D, grasp: Grasp | None) -> str:
    """One object in one line of text."""
    if grasp is None:
        return f"mask {thing.label}: too little depth ({100 * thing.valid_share:.0f} % of the mask)"
    numbers = {"centroid": grasp.centroid, "approach": grasp.approach, "closing": grasp.closing}
    vectors = "  ".join(f"{name} ({x:+.3f}, {y:+.3f}, {z:+.3f})" for name, (x, y, z) in numbers.items())
    return f"mask {thing.label}: {vectors}  width {grasp.width:.3f} m  depth on {100 * thing.valid_share:.0f} %"


def main() -> int:
    parser = argparse.ArgumentParser(description="Print a grasp candidate for the object that a sentence means.")
    parser.add_argument("command", help='what to grasp, as a person says it: "the thing to drink from"')
    parser.add_argument("--node", default="/lisa", help="full name of the node (default /lisa)")
    parser.add_argument("--depth", default="/camera/aligned_depth_to_color/image_raw", metavar="TOPIC")
    parser.add_argument("--camera-info", default="/camera/aligned_depth_to_color/camera_info", metavar="TOPIC")
    parser.add_argument("--slop", type=float, default=0.05, help="seconds between image and depth (default 0.05)")
    parser.add_argument("--kept", type=int, default=KEPT, help=f"depth images to remember (default {KEPT})")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for each step (default 60)")
    arguments = parser.parse_args()
    rclpy.init()
    grasper = Grasper(arguments.node, arguments.depth, arguments.camera_info, arguments.kept)
    try:
        answer = grasper.ask(arguments.command, arguments.timeout)
        print(f"lisa: {answer.answer.strip()}", flush=True)
        for thing, grasp in grasper.grasps(answer, arguments.slop):
            print(f"      {describe(thing, grasp)}")
    except (NoGrasp, ImageError) as error:
        print(f"grasp_candidate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        grasper.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
