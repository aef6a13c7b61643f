"""How the node is, once a second on /diagnostics, and hints where messages cannot come through."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # its name in ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

from lisa_ros.ros import inputs
from lisa_ros.ros.cameras import Camera, Cameras
from lisa_ros.ros.inputs import type_name
from lisa_ros.ros.standing import StandingCommand
from lisa_ros.runtime.queue import RequestQueue
from lisa_ros.runtime.status import State

PERIOD_S = 1.0
SILENCE_S = 5.0  # without an image: then it is a warning
RATE_OVER = 5  # periods
MIB = 2**20
OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
LEVELS = {State.ERROR: ERROR, State.LOADING: WARN, State.RESTARTING: WARN}  # the rest is as it is wished: OK


class Mismatches:
    """Topics on which somebody's QoS and ours do not fit: nothing is sent there, and DDS itself keeps quiet."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._mismatched: set[str] = set()

    def of_subscription(self, topic: str, **others: Any) -> SubscriptionEventCallbacks:
        """Callbacks for a subscription of ours. others: further ones."""
        return SubscriptionEventCallbacks(incompatible_qos=lambda event: self._add(topic, event, False), **others)

    def of_publisher(self, topic: str) -> PublisherEventCallbacks:
        """Callbacks for a publisher of ours."""
        return PublisherEventCallbacks(incompatible_qos=lambda event: self._add(topic, event, True))

    def texts(self) -> list[str]:
        """One for each topic where there still is somebody who does not fit."""
        self._mismatched = {topic for topic in self._mismatched if self._is_mismatched(topic)}
        return [f"QoS does not match on {topic}" for topic in sorted(self._mismatched)]

    def _add(self, topic: str, event: Any, published: bool) -> None:
        name = self._node.resolve_topic_name(topic)
        self._mismatched.add(name)
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        if published:
            text = (
                f"a subscriber of {name} asks for more {policy} than the node offers, and gets nothing; let it ask for "
                f"less, or set qos_overrides.{name}.publisher.{policy}"
            )
        else:
            text = (
                f"a publisher on {name} offers less {policy} than the node asks for, and nothing comes from it; let it "
                f"offer more, or set qos_overrides.{name}.subscription.{policy}"
            )
        self._node.get_logger().warning(text)

    def _is_mismatched(self, topic: str) -> bool:
        """Ours with theirs; what two others cannot agree on is not for us to say."""
        return any(
            qos_check_compatible(compared(offer.qos_profile), compared(asked.qos_profile))[0] == QoSCompatibility.ERROR
            for offer in self._node.get_publishers_info_by_topic(topic)
            for asked in self._node.get_subscriptions_info_by_topic(topic)
            if self._is_ours(offer) or self._is_ours(asked)
        )

    def _is_ours(self, endpoint: Any) -> bool:
        own = self._node.get_name(), self._node.get_namespace()
        return (endpoint.node_name, endpoint.node_namespace) == own


class Diagnostics:
    """One status for the node and one for each camera."""

    def __init__(
        self, node: Node, queue: RequestQueue, cameras: Cameras, mismatches: Mismatches, standing: StandingCommand
    ) -> None:
        self._node = node
        self._queue = queue
        self._standing = standing
        self._cameras = cameras
        self._mismatches = mismatches
        self._counts: dict[Camera, deque[tuple[float, int]]] = {}
        self._hinted: set[Camera] = set()
        self._reported: set[Camera] = set()
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", 10, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )

    def publish(self) -> None:
        """To be called every ``PERIOD_S``."""
        array = DiagnosticArray(status=[self._of_node(), *map(self._of_camera, self._cameras)])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
        self._counts = {camera: self._counts[camera] for camera in self._cameras}
        self._hinted &= set(self._cameras)
        self._report_inputs()

    def _report_inputs(self) -> None:
        """Once for each camera, when its publishers have had time to be discovered."""
        for camera in self._cameras:
            if camera not in self._reported and time.monotonic() - camera.opened >= inputs.SETTLED_S:
                self._reported.add(camera)
                text, wrong = inputs.report(self._node, camera)
                if wrong:
                    self._node.get_logger().warning(text)
                else:
                    self._node.get_logger().info(text)
        self._reported &= set(self._cameras)

    def _of_node(self) -> DiagnosticStatus:
        queue, state = self._queue, self._queue.state
        level, message = LEVELS.get(state.state, OK), state.message
        mismatches = self._mismatches.texts()
        if mismatches and level == OK:
            level, message = WARN, "; ".join(mismatches)
        latencies = sorted(queue.latencies)
        return self._status(
            "node",
            level,
            message,
            state=state.state.name,
            model=state.model,
            device=state.device,
            precision=state.precision,
            latency_p50_s=f"{percentile(latencies, 50):.3f}",
            latency_p95_s=f"{percentile(latencies, 95):.3f}",
            commands_measured=len(latencies),
            queued=state.queued,
            watch=self._standing.text,
            worker_restarts=queue.engine.restarts,
            node_memory_mib=f"{resident_bytes(os.getpid()) / MIB:.0f}",
            worker_memory_mib=f"{resident_bytes(queue.engine.worker_pid) / MIB:.0f}",
            gpu_memory_mib=f"{queue.engine.gpu_bytes / MIB:.0f}",
        )

    def _of_camera(self, camera: Camera) -> DiagnosticStatus:
        silent_s = camera.frames.silent_s
        level, message = OK, "images come"
        depth = camera.inputs.get("depth")
        trouble = (inputs.other_type(self._node, depth) if depth is not None else "") or camera.depths.trouble
        if silent_s > SILENCE_S:
            level = STALE if camera.frames.count else WARN
            message = absence(self._node, camera)
            if camera not in self._hinted:
                self._node.get_logger().warning(message)
                self._hinted.add(camera)
        else:
            self._hinted.discard(camera)
            if trouble:
                level, message = WARN, f"images come; no 3-D results: {trouble}"
        return self._status(
            f"camera {camera.name}".strip(),
            level,
            message,
            topic=camera.image.topic_name,
            age_s=f"{silent_s:.2f}" if camera.frames.count else "",
            rate_hz=f"{self._rate(camera):.1f}",
            received=camera.frames.count,
            lost=camera.lost,
            depth=trouble or "ok",
        )

    def _rate(self, camera: Camera) -> float:
        """Images a second over the last periods."""
        counts = self._counts.setdefault(camera, deque(maxlen=RATE_OVER + 1))
        counts.append((time.monotonic(), camera.frames.count))
        (begin, before), (end, now) = counts[0], counts[-1]
        return (now - before) / (end - begin) if end > begin else 0.0

    def _status(self, part: str, level: bytes, message: str, **values: object) -> DiagnosticStatus:
        status = DiagnosticStatus(name=f"{self._node.get_fully_qualified_name()}: {part}", level=level, message=message)
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status


def absence(node: Node, camera: Camera) -> str:
    """Why no image comes from ``camera``, as far as the ROS graph shows, and how to fix it."""
    topic, wanted = camera.image.topic_name, type_name(camera.image.msg_type)
    kinds = {info.topic_type for info in node.get_publishers_info_by_topic(topic)}
    if wanted in kinds:
        return (
            f"no image has come on {topic} for {SILENCE_S:g} s, though somebody publishes it; is the camera running, "
            "does its QoS match, do large messages get through the network (config/fastdds_large_images.xml)?"
        )
    if kinds:
        transport = "compressed" if "sensor_msgs/msg/CompressedImage" in kinds else "raw"
        return f"{topic} carries {', '.join(sorted(kinds))}, the node reads {wanted}; set image_transport:={transport}"
    others = ", ".join(candidates(node, wanted, topic))
    short = f"{camera.name}/image" if camera.name else "image"
    if others:
        return f"nobody publishes {topic}; {wanted} is published on {others}: remap {short}:= to it"
    return f"nobody publishes {topic}, nor any other {wanted}; start the camera, or remap {short}:="


def candidates(node: Node, wanted: str, topic: str) -> Iterator[str]:
    """Topics of the type that are published by others."""
    own = f"{node.get_fully_qualified_name()}/"
    for name, kinds in node.get_topic_names_and_types():
        if wanted in kinds and name != topic and not name.startswith(own) and node.count_publishers(name):
            yield name


def percentile(values: Sequence[float], percent: int) -> float:
    """Of sorted values; 0 without any."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def resident_bytes(pid: int | None) -> int:
    """Memory of a process; 0 where there is none."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def compared(qos: QoSProfile) -> QoSProfile:
    """What is compared of a profile of the ROS graph, where the history is not known."""
    return QoSProfile(
        depth=1,
        reliability=qos.reliability,
        durability=qos.durability,
        deadline=qos.deadline,
        liveliness=qos.liveliness,
        liveliness_lease_duration=qos.liveliness_lease_duration,
    )
