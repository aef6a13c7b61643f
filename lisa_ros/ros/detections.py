"""~/detections, ~/detections_3d and ~/label_info: answers as vision_msgs, where that package is installed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from geometry_msgs.msg import PoseWithCovariance
from rclpy.qos import QoSProfile

from lisa_ros.engine.api import MaskCrop
from lisa_ros.perception.geometry import Object3D
from lisa_ros.ros.messages import object_message
from lisa_ros.runtime.queue import Answer

logger = logging.getLogger(__name__)


def vision_msgs() -> ModuleType | None:
    """``vision_msgs.msg`` of ROS 2 (4.x); None, and a word in the log, where it is not installed."""
    try:
        module = importlib.import_module("vision_msgs.msg")
    except ImportError:
        logger.info(
            "vision_msgs is not installed: no ~/detections, ~/detections_3d and ~/label_info; everything else is there"
        )
        return None
    return module


class Detections:
    """Publishes what the model answered. An object's class is the command: nobody else has named it.

    publisher: makes one of a message type on a topic, with a QoS. msg: vision_msgs.msg.
    """

    def __init__(self, publisher: Callable[..., Any], latched: QoSProfile, msg: ModuleType) -> None:
        self._msg = msg
        self._flat = publisher(msg.Detection2DArray, "~/detections")
        self._solid = publisher(msg.Detection3DArray, "~/detections_3d")
        self._labels = publisher(msg.LabelInfo, "~/label_info", latched)

    def answered(self, answer: Answer) -> None:
        """Arrays with every answer of the model, empty ones with NOT_FOUND; 3-D ones where there was depth."""
        if answer.frame is None:
            return
        self._labels.publish(self.label_info(answer))
        self._flat.publish(
            self._msg.Detection2DArray(
                header=answer.header, detections=[self.flat(answer, crop) for crop in answer.crops]
            )
        )
        if answer.objects or not answer.crops:
            scored = zip(answer.crops, answer.objects, strict=False)
            solid = [self.solid(answer, crop, thing) for crop, thing in scored if thing.box is not None]
            self._solid.publish(self._msg.Detection3DArray(header=answer.header, detections=solid))

    def label_info(self, answer: Answer) -> Any:
        """What the values in ~/labels are called."""
        classes = [self._msg.VisionClass(class_id=crop.label, class_name=answer.command) for crop in answer.crops]
        return self._msg.LabelInfo(header=answer.header, class_map=classes)

    def flat(self, answer: Answer, crop: MaskCrop) -> Any:
        """A Detection2D: the mask's tight box; pixel centres are whole numbers, as in Mask."""
        box = self._msg.BoundingBox2D(size_x=float(crop.width), size_y=float(crop.height))
        box.center.position.x = crop.x + (crop.width - 1) / 2
        box.center.position.y = crop.y + (crop.height - 1) / 2
        return self._msg.Detection2D(
            header=answer.header, results=[self._hypothesis(answer, crop)], bbox=box, id=str(crop.label)
        )

    def solid(self, answer: Answer, crop: MaskCrop, thing: Object3D) -> Any:
        """A Detection3D: the box around what is seen, as in Object3D."""
        found = object_message(thing)
        result = self._hypothesis(answer, crop)
        result.pose = PoseWithCovariance(pose=found.box)
        return self._msg.Detection3D(
            header=answer.header,
            results=[result],
            bbox=self._msg.BoundingBox3D(center=found.box, size=found.size),
            id=str(crop.label),
        )

    def _hypothesis(self, answer: Answer, crop: MaskCrop) -> Any:
        return self._msg.ObjectHypothesisWithPose(
            hypothesis=self._msg.ObjectHypothesis(class_id=answer.command, score=float(crop.score))
        )
