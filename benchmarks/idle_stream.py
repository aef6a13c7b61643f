#!/usr/bin/env python3
"""What a camera costs that nobody asks about: CPU of the node at 30 Hz, 1280 x 720, and memory over many frames.

``python benchmarks/idle_stream.py --seconds 30 --frames 10000``. The camera is a process of its own. CPU is measured at
30 Hz; the frames for the memory figure come faster, as fast as ``--fast-hz``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import node_under_test
import psutil

RATE_HZ = 30.0
GOAL_CORES = 0.25


def camera(rate_hz: float, frames: int) -> None:
    """Publish ``frames`` frames; what the camera process does."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from lisa_ros.ros.messages import image_message

    rclpy.init()
    node = rclpy.create_node("camera")
    images = node.create_publisher(Image, "/image", qos_profile_sensor_data)
    infos = node.create_publisher(CameraInfo, "/camera_info", qos_profile_sensor_data)
    while not images.get_subscription_count():
        time.sleep(0.01)
    image = image_message(Header(frame_id="camera"), node_under_test.scene(), "rgb8")
    info = CameraInfo(height=image.height, width=image.width)
    begun = time.monotonic()
    for number in range(frames):
        image.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        images.publish(image)
        infos.publish(info)
        time.sleep(max(begun + (number + 1) / rate_hz - time.monotonic(), 0))
    print(f"{frames / (time.monotonic() - begun):.1f}")


def stream(rate_hz: float, frames: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--camera", str(rate_hz), "--frames", str(frames)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--fast-hz", type=float, default=120.0)
    parser.add_argument("--camera", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        camera(arguments.camera, arguments.frames)
        return
    claimed = node_under_test.claim_domain()
    with node_under_test.lisa_node() as node:
        main_process = psutil.Process(node.pid)
        while not main_process.children():
            time.sleep(0.1)
        processes = [main_process, *main_process.children()]
        time.sleep(3.0)

        silent_from = cpu_s(processes)
        time.sleep(5.0)
        silent = (cpu_s(processes) - silent_from) / 5.0

        feed = stream(RATE_HZ, int(RATE_HZ * (arguments.seconds + 4)))
        time.sleep(3.0)  # the camera's start and discovery
        begun, used = time.monotonic(), cpu_s(processes)
        time.sleep(arguments.seconds - 3.0)
        cores = (cpu_s(processes) - used) / (time.monotonic() - begun)
        rate = float(feed.communicate()[0])

        feed, memory = stream(arguments.fast_hz, arguments.frames), []
        while feed.poll() is None:
            memory.append(main_process.memory_info().rss / 1e6)
            time.sleep(0.5)
        fast = float(feed.communicate()[0])
    del claimed
    early, late = memory[len(memory) // 10], memory[-1]
    figures = {
        "benchmark": "idle_stream",
        "size": "1280x720",
        "rate_hz": rate,
        "cores": round(cores, 3),
        "cores_without_camera": round(silent, 4),
        "goal_cores": GOAL_CORES,
        "frames": arguments.frames,
        "fast_hz": fast,
        "memory_mb_after_a_tenth": round(early, 1),
        "memory_mb_at_the_end": round(late, 1),
        "machine": node_under_test.machine(),
    }
    print(f"CPU without a camera         {silent:8.3f} cores")
    print(f"CPU at {rate:4.1f} Hz, no command {cores:8.3f} cores")
    print(f"memory after {arguments.frames // 10:6d} frames   {early:8.1f} MB")
    print(f"memory after {arguments.frames:6d} frames   {late:8.1f} MB")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
