"""What the node publishes."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.msg import Segmentation, TrackedMasks
from lisa_ros.msg import Status as StatusMessage
from lisa_ros.perception.masks import labels_image, union_image
from lisa_ros.ros.cameras import Cameras
from lisa_ros.ros.detections import Detections, vision_msgs
from lisa_ros.ros.diagnostics import Mismatches
from lisa_ros.ros.markers import Markers
from lisa_ros.ros.messages import image_message, segmentation_message, status_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.pictures import Pictures
from lisa_ros.runtime.queue import Answer, Frame, NodeState

OUTPUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# As many as a door keeps of commands (doors.REQUESTS): an answer that a subscriber has not taken before five newer ones
# came would be gone, and with it all that somebody on ~/command gets to know.
RESULTS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Topics:
    """Every image goes out under the header of the frame that it is about.

    aside: has a call made on another thread, one at a time.
    """

    def __init__(
        self,
        node: Node,
        cameras: Cameras,
        parameters: Callable[[], Parameters],
        mismatches: Mismatches,
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._node = node
        self._mismatches = mismatches
        self._cameras = cameras
        self._early: tuple[Frame, int] | None = None
        self._result = self._publisher(Segmentation, "~/result", RESULTS)
        self._mask = self._publisher(Image, "~/mask")
        self._labels = self._publisher(Image, "~/labels")
        self._camera_info = self._publisher(CameraInfo, "~/camera_info")
        self._answer = self._publisher(String, "~/answer")
        points, overlay = self._publisher(PointCloud2, "~/points"), self._publisher(Image, "~/overlay")
        pictures = Pictures(overlay, points, cameras.pixels, parameters, aside)
        self._status = self._publisher(StatusMessage, "~/status", LATCHED)
        self.tracked = self._publisher(TrackedMasks, "~/tracked")
        self.markers = Markers(self._publisher(MarkerArray, "~/markers"), parameters)
        # Told of every answer, last: nobody computes with what they publish.
        self.listeners: list[Callable[[Answer], None]] = [pictures.answered, self.markers.answered]
        if (vision := vision_msgs()) is not None:
            self.listeners.append(Detections(self._publisher, LATCHED, vision).answered)

    def publish_answer(self, answer: Answer) -> None:
        """A refusal is a result too; images and words are published only where the model answered."""
        if answer.frame is not None:
            if self._early != (answer.frame, len(answer.crops)):
                self._publish_masks(answer.frame, answer.crops)
            self._early = None
            self._answer.publish(String(data=answer.text))
        self._result.publish(segmentation_message(answer))
        for listener in self.listeners:
            try:
                listener(answer)
            except Exception:  # the others are told all the same
                self._node.get_logger().error(traceback.format_exc())

    def publish_early(self, frame: Frame, crops: list[MaskCrop]) -> None:
        """Masks of an answer that still grows."""
        self._publish_masks(frame, crops)
        self._early = (frame, len(crops))

    def publish_state(self, state: NodeState) -> None:
        self._status.publish(status_message(self._node.get_clock().now().to_msg(), state))

    def _publish_masks(self, frame: Frame, crops: list[MaskCrop]) -> None:
        self._mask.publish(image_message(frame.header, union_image(crops, frame.size), "mono8"))
        self._labels.publish(image_message(frame.header, labels_image(crops, frame.size), "mono8"))
        info = self._cameras.camera_info(frame)
        if info is not None:
            self._camera_info.publish(info)

    def _publisher(self, kind: Any, topic: str, qos: QoSProfile = OUTPUT) -> Publisher:
        return self._node.create_publisher(
            kind,
            topic,
            qos,
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            event_callbacks=self._mismatches.of_publisher(topic),
        )
