#!/usr/bin/env python3
"""What the node adds to the model: from sending a command to receiving its mask, at 1280 x 720, with a 30 Hz camera.

``python benchmarks/node_latency.py --commands 100``. The model's own time (encode, generate, decode, as the answer
reports them) is taken off; what is left is DDS, the executor, two copies of the frame, the worker's pipe and the mask.
"""

from __future__ import annotations

import argparse
import json
import threading
import time

import node_under_test
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from lisa_ros.msg import Segmentation, Status
from lisa_ros.ros.messages import image_message

RATE_HZ = 30.0
GOAL_MS = 15.0


class Commander:
    """Camera and commander. The mask is received raw: unpacking it is the consumer's cost, not the node's."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("commander")
        self.mask_at = 0.0
        self.result: Segmentation | None = None
        self.state = -1
        self.node.create_subscription(Image, "/lisa/mask", self._on_mask, 10, raw=True)
        self.node.create_subscription(Segmentation, "/lisa/result", self._on_result, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(Status, "/lisa/status", self._on_status, latched)
        self.images = self.node.create_publisher(Image, "/image", qos_profile_sensor_data)
        self.commands = self.node.create_publisher(String, "/lisa/command", 10)
        self.frames = [image_message(Header(), node_under_test.scene(10 * shift), "rgb8") for shift in range(10)]
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def _on_mask(self, _: bytes) -> None:
        self.mask_at = time.perf_counter()

    def _on_result(self, result: Segmentation) -> None:
        self.result = result

    def _on_status(self, status: Status) -> None:
        self.state = status.state

    def spin_until(self, condition, limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the node did not answer")
            self.executor.spin_once(timeout_sec=0.1)

    def shoot(self, stop: threading.Event) -> None:
        """30 frames a second, each another one, from a thread: the camera does not wait for the commander."""
        count = 0
        while not stop.wait(1 / RATE_HZ):
            image = self.frames[count % len(self.frames)]
            image.header.stamp = self.node.get_clock().now().to_msg()
            self.images.publish(image)
            count += 1

    def ask(self) -> tuple[float, float]:
        """(seconds from the command to its mask, seconds that the model took of them)."""
        self.mask_at, self.result = 0.0, None
        begun = time.perf_counter()
        self.commands.publish(String(data="the box"))
        self.spin_until(lambda: self.mask_at and self.result is not None)
        if self.result.status != Segmentation.SUCCESS:
            raise RuntimeError(self.result.message)
        return self.mask_at - begun, self.result.encode_s + self.result.generate_s + self.result.decode_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", type=int, default=100)
    arguments = parser.parse_args()
    claimed = node_under_test.claim_domain()
    rclpy.init()
    commander, stop = Commander(), threading.Event()
    with node_under_test.lisa_node():
        commander.spin_until(lambda: commander.state == Status.READY)
        commander.spin_until(
            lambda: commander.images.get_subscription_count() and commander.commands.get_subscription_count()
        )
        camera = threading.Thread(target=commander.shoot, args=(stop,), daemon=True)
        camera.start()
        random, times = np.random.default_rng(0), []
        time.sleep(0.5)
        for number in range(arguments.commands + 5):
            at = time.monotonic() + random.uniform(0.03, 0.1)
            commander.spin_until(lambda at=at: time.monotonic() > at)
            if number >= 5:  # the first ones load code
                times.append(commander.ask())
            else:
                commander.ask()
        stop.set()
        camera.join()
    rclpy.shutdown()
    del claimed
    total, model = np.array(times).T * 1e3
    own = total - model
    figures = {
        "benchmark": "node_latency",
        "commands": len(own),
        "size": "1280x720",
        "total_ms_p50": round(float(np.median(total)), 2),
        "model_ms_p50": round(float(np.median(model)), 2),
        "node_ms_min": round(float(own.min()), 2),
        "node_ms_p50": round(float(np.median(own)), 2),
        "node_ms_p95": round(float(np.percentile(own, 95)), 2),
        "goal_ms": GOAL_MS,
        "machine": node_under_test.machine(),
    }
    print(f"{'':24}{'min':>8}{'p50':>8}{'p95':>8}  [ms]")
    for name, values in (("command to mask", total), ("of it the model", model), ("of it the node", own)):
        print(f"{name:24}{values.min():8.2f}{np.median(values):8.2f}{np.percentile(values, 95):8.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
