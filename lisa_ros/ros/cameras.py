"""The node's cameras: what each has shown last, by name, and their subscriptions while the node is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import CommandError
from lisa_ros.ros.depths import Depths, Measurement
from lisa_ros.ros.frames import Frames
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.frame_memory import FrameMemory
from lisa_ros.runtime.queue import Frame

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches a publisher of either reliability
DEPTHS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # none is skipped: one of them is needed


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
    """One camera: its newest frame, calibration and depth. name: prefix of its topics; empty: they have none."""

    def __init__(
        self,
        name: str,
        node: Subscriber,
        memory: FrameMemory,
        parameters: Callable[[], Parameters],
        ros_now_s: Callable[[], float],
        on_frame: OnFrame,
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self.name = name
        self.lost = 0  # images, on the way here
        self.frames = Frames(memory, parameters, lambda: self.image.topic_name, ros_now_s)
        self.depths = Depths(parameters, self.frames.camera_info)
        prefix = f"{name}/" if name else ""
        # raw: the bytes as they came, turned into a message only when a command needs the frame.
        self.image = node.subscribe(
            self.frames.message_type, f"{prefix}image", self._see, SENSOR, raw=True, on_lost=self._lose
        )
        self._subscriptions = [
            self.image,
            node.subscribe(CameraInfo, f"{prefix}camera_info", self.frames.keep_info, SENSOR, raw=True),
        ]
        if parameters().use_depth:
            self._subscriptions.append(node.subscribe(Image, f"{prefix}depth", self.depths.keep, DEPTHS, raw=True))

    def _lose(self, event: Any) -> None:
        self.lost = event.total_count

    def _see(self, serialized: bytes) -> None:
        self.frames.keep(serialized)
        self._on_frame(self, serialized)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


OnFrame = Callable[[Camera, bytes], None]


class Cameras:
    """One command at a time looks at one frame of one of them; its pixels are in the memory shared with the worker.

    on_frame: told of every frame as it came.
    """

    def __init__(
        self,
        node: Subscriber,
        parameters: Callable[[], Parameters],
        ros_now_s: Callable[[], float],
        on_frame: OnFrame,
    ) -> None:
        self._node = node
        self._on_frame = on_frame
        self._parameters = parameters
        self._ros_now_s = ros_now_s
        self._memory: FrameMemory | None = None
        self._cameras: dict[str, Camera] = {}

    def configure(self, memory: FrameMemory) -> None:
        """``memory``: where frames are put from now on."""
        self._memory = memory

    def activate(self) -> None:
        """Subscribe to every camera."""
        assert self._memory is not None
        for name in self._parameters().camera_names:
            self._cameras[name] = Camera(
                name, self._node, self._memory, self._parameters, self._ros_now_s, self._on_frame
            )

    def deactivate(self) -> None:
        """Unsubscribe, and forget what was seen."""
        while self._cameras:
            self._cameras.popitem()[1].close()

    def cleanup(self) -> None:
        self.deactivate()
        self._memory = None

    def __iter__(self) -> Iterator[Camera]:
        return iter(self._cameras.values())

    def check(self, image: Image | None, camera: str) -> None:
        """Raise ImageError unless a caller's image can be used, CommandError for a camera that is not there."""
        chosen = self._named(camera)
        if image is not None:
            chosen.frames.check(image)

    def take(self, image: Image | None, camera: str) -> Frame:
        """Put ``image``, or the newest frame of ``camera``, into the shared memory. Raises ImageError or NoImage."""
        chosen = self._named(camera)
        frame = replace(chosen.frames.take(image), camera=chosen.name)
        chosen.depths.hold(frame)
        return frame

    def measurement(self, frame: Frame, crops: list[MaskCrop]) -> Measurement | None:
        """What gives every mask in metres, to be called on any thread; None where there is no depth for the frame."""
        return self._cameras[frame.camera].depths.measurement(frame, crops)

    def pixels(self, frame: Frame) -> NDArray[Any]:
        """(H, W, 3) uint8 of the frame that was taken last."""
        return self._cameras[frame.camera].frames.pixels(frame)

    def camera_info(self, frame: Frame) -> CameraInfo | None:
        """Calibration under the header of ``frame``; None where it is not about this camera or size."""
        return self._cameras[frame.camera].frames.camera_info(frame)

    def _named(self, camera: str) -> Camera:
        """``camera``, or the first where the name is empty."""
        name = camera or next(iter(self._cameras))
        if name not in self._cameras:
            names = ", ".join(filter(None, self._cameras)) or "only one, without a name"
            raise CommandError(f"there is no camera {shown(camera)}; there is {names}")
        return self._cameras[name]


def shown(name: str) -> str:
    """A stranger's word in a message."""
    return repr(name if len(name) <= 40 else f"{name[:40]}...")
