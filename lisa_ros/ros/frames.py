"""Frames of the robot, through tf2 where it is installed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Quaternion, Transform, TransformStamped, Vector3
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time

from lisa_ros.perception.geometry import Object3D
from lisa_ros.ros.messages import object_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Result

logger = logging.getLogger(__name__)


class Frames:
    """Transforms from a camera to the parameter ``target_frame``, and objects as frames.

    tf2 is loaded when a parameter asks for it: a node that needs no frames does not subscribe to them.
    """

    def __init__(self, node: Node, parameters: Callable[[], Parameters]) -> None:
        self._node = node
        self._parameters = parameters
        self._buffer: Any = None
        self._listener: Any = None
        self._broadcaster: Any = None
        self._warned: set[str] = set()
        if parameters().target_frame:
            self._listen()

    def to_target(self, header: Any) -> NDArray[np.float64] | None:
        """(4, 4) from the frame of an image to ``target_frame``, at the image's stamp.

        None, and a warning once, where it is not known; None too where no target is set.
        """
        target = self._parameters().target_frame
        if not target:
            return None
        if not self._listen():
            return None
        try:
            found = self._buffer.lookup_transform(target, header.frame_id, Time.from_msg(header.stamp))
        except Exception as error:  # tf2's classes are known only where tf2 is installed
            self._warn(f"no transform from {header.frame_id!r} to target_frame {target!r}: {error}; publish it on /tf")
            return None
        return matrix_of(found.transform.rotation, found.transform.translation)

    def take_result(self, result: Result) -> None:
        """Broadcasts every object of an answer that has a box as ``object_LABEL``, where ``object_frames`` is on."""
        if not self._parameters().object_frames or result.frame is None or not self._broadcasts():
            return
        boxes = [thing for thing in result.objects if thing.box is not None]
        if boxes:
            self._broadcaster.sendTransform([object_frame(result.header, thing) for thing in boxes])

    def _listen(self) -> bool:
        if self._buffer is None and (tf2 := self._tf2("target_frame has no effect")) is not None:
            self._buffer = tf2.Buffer()
            self._listener = tf2.TransformListener(self._buffer, self._node)
        return self._buffer is not None

    def _broadcasts(self) -> bool:
        if self._broadcaster is None and (tf2 := self._tf2("object_frames has no effect")) is not None:
            self._broadcaster = tf2.TransformBroadcaster(self._node)
        return self._broadcaster is not None

    def _tf2(self, effect: str) -> Any:
        """The module tf2_ros; None, and a warning once, where it is not installed."""
        try:
            return importlib.import_module("tf2_ros")
        except ImportError:
            self._warn(f"tf2_ros is not installed, so {effect}; install ros-DISTRO-tf2-ros-py")
            return None

    def _warn(self, text: str) -> None:
        kind = text.partition(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", text)


def matrix_of(rotation: Quaternion, position: Point | Vector3) -> NDArray[np.float64]:
    """(4, 4) of a pose or a transform; the quaternion need not have length 1, NaN for one of length 0."""
    q = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    with np.errstate(invalid="ignore"):
        x, y, z, w = q / np.linalg.norm(q)
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = position.x, position.y, position.z
    return result


def object_frame(header: Any, thing: Object3D) -> TransformStamped:
    """The box of an object, which has one, as a frame below the image's."""
    box = object_message(thing).box
    position = Vector3(x=box.position.x, y=box.position.y, z=box.position.z)
    return TransformStamped(
        header=header,
        child_frame_id=f"object_{thing.label}",
        transform=Transform(translation=position, rotation=box.orientation),
    )
