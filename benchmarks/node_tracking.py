#!/usr/bin/env python3
"""What following costs in the node: rate held, latency and CPU at 640 x 480 and 30 Hz, by the number of things.

``python benchmarks/node_tracking.py --seconds 10``. The camera is a process of its own; the model is a stand-in that
finds what is bright. latency: from a frame's stamp, when it is published, to its masks. cores: of the node's process
and its worker. Without and with a depth image for every frame; and what a camera costs after an answer while nobody
listens to ~/tracked.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time

import cv2
import node_under_test
import numpy as np
import psutil

RATE_HZ = 30.0
SIZE = (480, 640)
COMMANDS = {1: "the thing", 2: "the things twice"}
GROUND_M, THING_M = 0.9, 0.8


class Scene:
    """A bright, grainy thing that moves over a dark, grainy ground."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        grain = cv2.resize(rng.normal(size=(60, 80, 3)), SIZE[::-1], interpolation=cv2.INTER_CUBIC) * 20
        self.ground = np.clip(70 + grain, 0, 120).astype(np.uint8)
        self.thing = np.clip(180 + grain[:120, :160], 135, 255).astype(np.uint8)
        self.shape = np.zeros((120, 160), np.uint8)
        cv2.ellipse(self.shape, (80, 60), (75, 50), 10, 0, 360, 255, -1)

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """rgb (H, W, 3) uint8 and depth (H, W) uint16 mm."""
        x, y = round(240 + 80 * math.sin(t)), round(180 + 40 * math.sin(1.3 * t))
        rgb, depth = self.ground.copy(), np.full(SIZE, 1000 * GROUND_M, np.uint16)
        window = (slice(y, y + 120), slice(x, x + 160))
        rgb[window][self.shape > 0] = self.thing[self.shape > 0]
        depth[window][self.shape > 0] = 1000 * THING_M
        return rgb, depth


def camera(frames: int, with_depth: bool) -> None:
    """Publish ``frames`` frames; what the camera process does."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from lisa_ros.ros.messages import image_message

    rclpy.init()
    node = rclpy.create_node("camera")
    images = node.create_publisher(Image, "/image", qos_profile_sensor_data)
    depths = node.create_publisher(Image, "/depth", qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    while not images.get_subscription_count():
        time.sleep(0.01)
    scene, begun = Scene(), time.monotonic()
    for number in range(frames):
        rgb, depth = scene.at(number / RATE_HZ)
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id="camera")
        k = [500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0]
        infos.publish(CameraInfo(header=header, height=SIZE[0], width=SIZE[1], k=k))
        images.publish(image_message(header, rgb, "rgb8"))
        if with_depth:
            depths.publish(image_message(header, depth.view(np.uint8).reshape(*SIZE, 2), "16UC1"))
        time.sleep(max(begun + (number + 1) / RATE_HZ - time.monotonic(), 0))
    print(f"{frames / (time.monotonic() - begun):.1f}")


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(things: int, with_depth: bool, seconds: float) -> dict[str, object]:
    """Ask once, then listen for ``seconds``. things: 0 asks for one, and does not listen."""
    import rclpy
    from std_msgs.msg import String

    from lisa_ros.msg import Segmentation, TrackedMasks

    with node_under_test.lisa_node() as process:
        node = rclpy.create_node("listener")
        said: list[tuple[float, int]] = []
        answers: list[Segmentation] = []

        def hear(message: TrackedMasks) -> None:
            now = node.get_clock().now().nanoseconds
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            said.append(((now - stamp) / 1e6, len(message.objects)))

        node.create_subscription(Segmentation, "/lisa/result", answers.append, 10)
        if things:
            node.create_subscription(TrackedMasks, "/lisa/tracked", hear, 10)
        commands = node.create_publisher(String, "/lisa/command", 10)
        frames = str(int(RATE_HZ * (seconds + 6)))
        words = [sys.executable, __file__, "--camera", frames, *(["--depth"] if with_depth else [])]
        feed = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + 30
        while not any(answer.masks for answer in answers) and time.monotonic() < end:
            commands.publish(String(data=COMMANDS[max(things, 1)]))
            for _ in range(10):
                rclpy.spin_once(node, timeout_sec=0.1)
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        said.clear()
        begun, used = time.monotonic(), cpu_s(processes)
        while time.monotonic() < begun + seconds:
            rclpy.spin_once(node, timeout_sec=0.05)
        took = time.monotonic() - begun
        cores = (cpu_s(processes) - used) / took
        node.destroy_node()
        rate = float(feed.communicate()[0])
    latency = [ms for ms, _ in said]
    return {
        "things": things,
        "depth": with_depth,
        "camera_hz": rate,
        "tracked_hz": round(len(said) / took, 1),
        "measured_hz": round(sum(objects > 0 for _, objects in said) / took, 1),
        "latency_ms_p50": round(float(np.median(latency)), 1) if latency else None,
        "latency_ms_p95": round(float(np.quantile(latency, 0.95)), 1) if latency else None,
        "cores": round(cores, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--camera", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--depth", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        camera(arguments.camera, arguments.depth)
        return
    claimed = node_under_test.claim_domain()
    import rclpy

    rclpy.init()
    rows = [measure(things, depth, arguments.seconds) for depth in (False, True) for things in (0, *COMMANDS)]
    rclpy.try_shutdown()
    del claimed
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps({"benchmark": "node_tracking", "rows": rows, "machine": node_under_test.machine()}))


if __name__ == "__main__":
    main()
