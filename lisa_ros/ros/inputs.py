"""Which of a camera's topics are there, and what is off without the others."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

from lisa_ros.ros.cameras import Camera

SETTLED_S = 3.0  # after activate: by then publishers that were there before have been discovered


def report(node: Node, camera: Camera) -> tuple[str, bool]:
    """One line for the log about a camera's inputs, and whether it is a warning."""
    states = {role: _state(node, subscription) for role, subscription in camera.inputs.items()}
    listed = ", ".join(f"{role} {camera.inputs[role].topic_name} ({state})" for role, state in states.items())
    missing = [role for role in ("camera_info", "depth") if not _publishers(node, camera, role)]
    if "depth" not in camera.inputs:
        effect = "; use_depth is false: results in metres are off"
    else:
        effect = f"; no {' and '.join(missing)}: results in metres are off" if missing else ""
    wrong = any(other_type(node, subscription) for subscription in camera.inputs.values())
    return f"{f'camera {camera.name}'.strip()} reads {listed}{effect}", wrong


def other_type(node: Node, subscription: Any) -> str:
    """What is wrong where a topic is published with other types than it is read; empty where it is not."""
    topic, wanted = subscription.topic_name, type_name(subscription.msg_type)
    kinds = {info.topic_type for info in node.get_publishers_info_by_topic(topic)}
    if not kinds or wanted in kinds:
        return ""
    return f"{topic} carries {', '.join(sorted(kinds))}, the node reads {wanted}"


def type_name(kind: Any) -> str:
    """sensor_msgs.msg.Image -> "sensor_msgs/msg/Image"."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _publishers(node: Node, camera: Camera, role: str) -> int:
    """How many publish what is read."""
    if role not in camera.inputs:
        return 0
    wanted = type_name(camera.inputs[role].msg_type)
    infos = node.get_publishers_info_by_topic(camera.inputs[role].topic_name)
    return sum(info.topic_type == wanted for info in infos)


def _state(node: Node, subscription: Any) -> str:
    count = len(node.get_publishers_info_by_topic(subscription.topic_name))
    return other_type(node, subscription) or {0: "no publisher", 1: "1 publisher"}.get(count, f"{count} publishers")
