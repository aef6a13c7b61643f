"""What the node publishes."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from lisa_ros.engine.api import Region
from lisa_ros.msg import Grasps, Segmentation, TrackedMasks
from lisa_ros.msg import Progress as ProgressMessage
from lisa_ros.msg import Status as StatusMessage
from lisa_ros.perception.masks import labels_image, union_image
from lisa_ros.ros.detections import Detections
from lisa_ros.ros.diagnostics import Mismatches
from lisa_ros.ros.frames import Frames
from lisa_ros.ros.grasps import GraspCandidates
from lisa_ros.ros.markers import Markers
from lisa_ros.ros.messages import ResultMessages, image_message, progress_message, status_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.pictures import Pictures
from lisa_ros.ros.serialized_image import with_stamp
from lisa_ros.ros.tracked_overlay import TrackedOverlay
from lisa_ros.ros.vision_messages import vision_msgs
from lisa_ros.runtime.requests import Frame, NodeState, Progress, Request, Result

OUTPUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# As many as an endpoint keeps of commands (endpoints.REQUESTS): for somebody on ~/command the result is everything, and
# it must not be replaced by newer ones before it was taken.
RESULTS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Publishers:
    """Every image goes out under the header of the frame that it is about.

    Args:
        node: Publishes.
        parameters: The current ones.
        mismatches: Is given every QoS that does not fit.
        aside: Has a call made on another thread, one at a time.

    Attributes:
        messages: The message of each result, made once.
        tracked: Publisher of ~/tracked.
        tracked_overlay: ~/tracked_overlay.
        markers: ~/markers.
    """

    def __init__(
        self,
        node: Node,
        parameters: Callable[[], Parameters],
        mismatches: Mismatches,
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._node = node
        self._mismatches = mismatches
        self._early: tuple[Frame, Sequence[Region]] | None = None
        self.messages = ResultMessages()
        self._result = self._publisher(Segmentation, "~/result", RESULTS)
        self._progress = self._publisher(ProgressMessage, "~/progress", RESULTS)
        self._mask = self._publisher(Image, "~/mask")
        self._labels = self._publisher(Image, "~/labels")
        self._camera_info = self._publisher(CameraInfo, "~/camera_info")
        self._depth = self._publisher(Image, "~/depth")
        self._answer = self._publisher(String, "~/answer")
        points, overlay = self._publisher(PointCloud2, "~/points"), self._publisher(Image, "~/overlay")
        pictures = Pictures(overlay, points, parameters, aside)
        self._status = self._publisher(StatusMessage, "~/status", LATCHED)
        self.tracked = self._publisher(TrackedMasks, "~/tracked")
        compressed = self._publisher(CompressedImage, "~/tracked_overlay/compressed")
        self.tracked_overlay = TrackedOverlay(compressed, parameters, aside)
        self.markers = Markers(self._publisher(MarkerArray, "~/markers"), parameters)
        # Last: nobody computes with what they publish.
        frames = Frames(node, parameters)
        grasps = GraspCandidates(self._publisher(Grasps, "~/grasps"), parameters, frames, aside)
        self.listeners: list[Callable[[Result], None]] = [
            grasps.take_result,
            frames.take_result,
            pictures.take_result,
            self.markers.take_result,
        ]
        if (vision := vision_msgs()) is not None:
            self.listeners.append(Detections(self._publisher, LATCHED, vision).take_result)

    def publish_result(self, result: Result) -> None:
        """A refusal is a result too; images and text are published only where the engine answered."""
        if result.frame is not None:
            if not self._is_out(result.frame, result.regions):
                self._publish_masks(result.frame, result.regions)
            self._early = None
            self._answer.publish(String(data=result.text))
        self._result.publish(self.messages.of(result))
        for listener in self.listeners:
            try:
                listener(result)
            except Exception:  # the others get it all the same
                self._node.get_logger().error(traceback.format_exc())

    def publish_early(self, frame: Frame, regions: Sequence[Region]) -> None:
        """Masks of an answer that still grows."""
        self._publish_masks(frame, regions)
        self._early = (frame, regions)

    def publish_progress(self, request: Request, progress: Progress) -> None:
        if is_wanted(self._progress):
            self._progress.publish(progress_message(request, progress))

    def _is_out(self, frame: Frame, regions: Sequence[Region]) -> bool:
        """Whether exactly the masks of these regions were published early; their mentions may have grown since."""
        if self._early is None or self._early[0] is not frame or len(self._early[1]) != len(regions):
            return False
        return all(early.mask is final.mask for early, final in zip(self._early[1], regions, strict=True))

    def publish_state(self, state: NodeState) -> None:
        self._status.publish(status_message(self._node.get_clock().now().to_msg(), state))

    def _publish_masks(self, frame: Frame, regions: Sequence[Region]) -> None:
        crops = [region.mask for region in regions]
        for publisher, render in ((self._mask, union_image), (self._labels, labels_image)):
            if is_wanted(publisher):
                publisher.publish(image_message(frame.header, render(crops, frame.size), "mono8"))
        info = frame.source.camera_info(frame) if frame.source is not None else None
        if info is not None:
            self._camera_info.publish(info)
        if frame.source is not None and is_wanted(self._depth) and (depth := frame.source.depth(frame)) is not None:
            self._depth.publish(with_stamp(depth.serialized, frame.header.stamp))

    def _publisher(self, kind: Any, topic: str, qos: QoSProfile = OUTPUT) -> Publisher:
        return self._node.create_publisher(
            kind,
            topic,
            copy.copy(qos),  # rclpy writes the topic's overrides into the object it is given
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            event_callbacks=self._mismatches.of_publisher(topic),
        )


def is_wanted(publisher: Publisher) -> bool:
    """Whether anybody gets what is published: a subscriber now, or a late one where the last message is kept."""
    return bool(publisher.get_subscription_count()) or (
        publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    )
