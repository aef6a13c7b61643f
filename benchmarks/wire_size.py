#!/usr/bin/env python3
"""How many bytes a goal's feedback and result are on the wire, with the masks' pixels and without (``compact``).

A node with the bundled demo model is asked about demo/scene.jpg, by the action, with ``explain``.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from node_under_test import REPOSITORY, claim_domain, lisa_node
from rclpy.action import ActionClient
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from lisa_ros.action import Segment
from lisa_ros.engine.registry import bundled_model
from lisa_ros.ros.messages import image_message

COMMAND = "something to tighten this screw"
LIMIT_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", default=COMMAND, help=f"what is asked (default {COMMAND!r})")
    arguments = parser.parse_args()
    domain = claim_domain()
    picture = np.ascontiguousarray(cv2.imread(str(REPOSITORY / "demo" / "scene.jpg"))[:, :, ::-1])
    figures = {}
    rclpy.init()
    with lisa_node(model=bundled_model()):
        node = rclpy.create_node("wire_size")
        for compact in (False, True):
            figures["compact" if compact else "with pixels"] = sizes(node, arguments.command, picture, compact)
    rclpy.shutdown()
    del domain
    print(f"{arguments.command!r} about {picture.shape[1]} x {picture.shape[0]} pixels")
    for name, one in figures.items():
        print(f"{name}: largest feedback {one['feedback']} bytes, result {one['result']} bytes")
    print(json.dumps(figures))


def sizes(node: Any, command: str, picture: np.ndarray, compact: bool) -> dict[str, int]:
    """Serialized bytes of one goal's largest feedback and its result; sent again until the model is ready."""
    client = ActionClient(node, Segment, "/lisa/segment")
    image = image_message(Header(), picture, "rgb8")
    goal = Segment.Goal(command=command, image=image, explain=True, compact=compact)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if not client.wait_for_server(timeout_sec=1.0):
            continue
        feedback: list[int] = []
        sent = client.send_goal_async(goal, functools.partial(count, feedback))
        rclpy.spin_until_future_complete(node, sent, timeout_sec=5.0)
        if not sent.done():
            continue
        finished = sent.result().get_result_async()
        rclpy.spin_until_future_complete(node, finished, timeout_sec=LIMIT_S)
        result = finished.result().result
        if result.status == Segment.Result.SUCCESS:
            return {"feedback": max(feedback), "result": len(serialize_message(result))}
        time.sleep(0.5)
    raise SystemExit(f"no answer within {LIMIT_S:g} s")


def count(sizes: list[int], message: Any) -> None:
    """Add the size of a feedback message to ``sizes``."""
    sizes.append(len(serialize_message(message.feedback)))


if __name__ == "__main__":
    main()
