"""The node's cameras, by name: the newest frame of each, its calibration and depth, and their subscriptions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.engine.api import Region
from lisa_ros.errors import CommandError
from lisa_ros.ros.depths import Depths, Measurement
from lisa_ros.ros.frame_store import FrameStore
from lisa_ros.ros.given_proposals import GivenProposals
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.serialized_image import SerializedImage
from lisa_ros.ros.vision_messages import vision_msgs
from lisa_ros.runtime.requests import Frame

logger = logging.getLogger(__name__)

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches a publisher of either reliability
EVERY = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # none is skipped: one of them is needed


class Subscriber(Protocol):
    """How a node subscribes: with its own error handling, and QoS that may be overridden."""

    def subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile,
        raw: bool = False,
        on_lost: Callable[[Any], None] | None = None,
    ) -> Any: ...

    def destroy_subscription(self, subscription: Any) -> bool: ...


class Camera:
    """One camera: its newest frame, calibration and depth.

    Args:
        name: Prefix of its topics; empty: they have none.
        node: Subscribes.
        parameters: The current ones.
        ros_now_s: The node's clock in seconds.
        on_frame: Called with every image as it came.
        on_depth: Called when a depth image was kept.

    Attributes:
        inputs: Its subscriptions: image, camera_info, with use_depth depth, and topics of another node's proposals.
        opened: time.monotonic() of its making.
    """

    def __init__(
        self,
        name: str,
        node: Subscriber,
        parameters: Callable[[], Parameters],
        ros_now_s: Callable[[], float],
        on_frame: OnFrame,
        on_depth: OnDepth,
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self._on_depth = on_depth
        self._parameters = parameters
        self.name = name
        self.lost = 0  # images, on the way here
        self.frames = FrameStore(parameters, lambda: self.image.topic_name, ros_now_s)
        self.depths = Depths(parameters, lambda: self.image.topic_name, self.frames.camera_info)
        prefix = f"{name}/" if name else ""
        # raw: the bytes as they came, turned into a message only when a command needs the frame.
        self.image = node.subscribe(
            self.frames.message_type, f"{prefix}image", self._keep_image, SENSOR, raw=True, on_lost=self._lose
        )
        self.inputs = {
            "image": self.image,
            "camera_info": node.subscribe(CameraInfo, f"{prefix}camera_info", self.frames.keep_info, EVERY, raw=True),
        }
        self._given = self._subscribe_to_proposals(prefix)
        if parameters().use_depth:
            self.inputs["depth"] = node.subscribe(Image, f"{prefix}depth", self._keep_depth, EVERY, raw=True)
        self.opened = time.monotonic()

    def take(self, image: Image | None) -> Frame:
        """The frame of ``image``, or the newest one; with another node's proposals, the newest that has some.

        Raises:
            ImageError: The image or its proposals cannot be used.
            NoImage: There is none, or it is too old.
        """
        if self._given is None:
            frame = self.frames.take(image)
        else:
            frame = self.frames.take(image, None if image is not None else self._given.newest_frame())
            frame = replace(frame, proposals=self._given.of(frame))
        return replace(frame, camera=self.name, source=self)

    def measurement(self, frame: Frame, regions: Sequence[Region]) -> Measurement | None:
        """What gives every mask in metres, to be called on any thread; None where there is no depth for the frame."""
        return self.depths.measurement(frame, [region.mask for region in regions])

    def camera_info(self, frame: Frame) -> CameraInfo | None:
        """Calibration under the header of ``frame``; None where it is not about this camera or size."""
        return self.frames.camera_info(frame.header, frame.size)

    def depth(self, frame: Frame) -> SerializedImage | None:
        """The depth image that ``frame`` is measured with; None where there is none that belongs to it."""
        return self.depths.of(frame)

    def hold(self, frame: Frame) -> None:
        """From now on keep the calibration and depth of this frame's moment, also what comes later."""
        self.frames.hold(frame)
        self.depths.hold(frame)

    def _subscribe_to_proposals(self, prefix: str) -> GivenProposals | None:
        """To the topics of another node that proposes masks; None where there are none."""
        topics = [
            name if name.startswith(("/", "~")) else f"{prefix}{name}" for name in self._parameters().proposal_topics
        ]
        if not topics:
            return None
        given = GivenProposals(self._parameters, lambda: self.inputs["proposals"].topic_name)
        self.inputs["proposals"] = self._node.subscribe(Image, topics[0], given.keep_labels, EVERY, raw=True)
        if len(topics) > 1:
            messages = vision_msgs()
            if messages is None:
                logger.warning("vision_msgs is not installed: %s is not read, proposals have no names", topics[1])
            else:
                self.inputs["detections"] = self._node.subscribe(
                    messages.Detection2DArray, topics[1], given.keep_detections, EVERY
                )
        return given

    def _lose(self, event: Any) -> None:
        self.lost = event.total_count

    def _keep_image(self, serialized: bytes) -> None:
        self.frames.keep(serialized)
        if self._given is not None:
            self._given.keep_frame(serialized)
        self._on_frame(self, serialized)

    def _keep_depth(self, serialized: bytes) -> None:
        self.depths.keep(serialized)
        self._on_depth()

    def close(self) -> None:
        """Unsubscribe, and let go of every image: Python's collector may not come by for minutes."""
        for subscription in self.inputs.values():
            self._node.destroy_subscription(subscription)
        self.frames.forget()
        self.depths.forget()
        if self._given is not None:
            self._given.forget()


OnFrame = Callable[[Camera, bytes], None]
OnDepth = Callable[[], None]


class Cameras:
    """All cameras: where the queue takes its frames from.

    Args:
        node: Subscribes.
        parameters: The current ones.
        ros_now_s: The node's clock in seconds.
        on_frame: Called with every image as it came.
        on_depth: Called when a depth image was kept.
    """

    def __init__(
        self,
        node: Subscriber,
        parameters: Callable[[], Parameters],
        ros_now_s: Callable[[], float],
        on_frame: OnFrame,
        on_depth: OnDepth,
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self._on_depth = on_depth
        self._parameters = parameters
        self._ros_now_s = ros_now_s
        self._cameras: dict[str, Camera] = {}

    def activate(self) -> None:
        """Subscribe to every camera."""
        for name in self._parameters().camera_names:
            self._cameras[name] = Camera(
                name, self._node, self._parameters, self._ros_now_s, self._on_frame, self._on_depth
            )

    def deactivate(self) -> None:
        """Unsubscribe, and forget what was seen."""
        while self._cameras:
            self._cameras.popitem()[1].close()

    def __iter__(self) -> Iterator[Camera]:
        return iter(self._cameras.values())

    def check(self, image: Image | None, camera: str) -> None:
        """Raise ImageError unless a caller's image can be used, CommandError for a camera that is not there."""
        chosen = self._named(camera)
        if image is not None:
            chosen.frames.check(image)

    def take(self, image: Image | None, camera: str) -> Frame:
        """The frame of ``image``, or the newest one of ``camera``. Raises ImageError, NoImage or CommandError."""
        chosen = self._named(camera)
        frame = chosen.take(image)
        chosen.hold(frame)
        return frame

    def _named(self, camera: str) -> Camera:
        """``camera``, or the first where the name is empty."""
        name = camera or next(iter(self._cameras))
        if name not in self._cameras:
            names = ", ".join(filter(None, self._cameras)) or "only one, without a name"
            raise CommandError(f"there is no camera {shown(camera)}; there is {names}")
        return self._cameras[name]


def shown(name: str) -> str:
    """A caller's name in a message: quoted, and cut where it is long."""
    return repr(name if len(name) <= 40 else f"{name[:40]}...")
