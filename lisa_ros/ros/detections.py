"""~/detections, ~/detections_3d and ~/label_info: answers as vision_msgs, where that package is installed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from geometry_msgs.msg import PoseWithCovariance
from rclpy.qos import QoSProfile

from lisa_ros.engine.api import Region
from lisa_ros.perception.geometry import Object3D
from lisa_ros.ros.messages import object_message
from lisa_ros.runtime.requests import Result


class Detections:
    """Publishes results of the engine. An object's class is its phrase, or the command where the engine gave none.

    Args:
        publisher: Makes one of a message type on a topic, with a QoS.
        latched: QoS of what is kept for late subscribers.
        msg: vision_msgs.msg.
    """

    def __init__(self, publisher: Callable[..., Any], latched: QoSProfile, msg: ModuleType) -> None:
        self._msg = msg
        self._flat = publisher(msg.Detection2DArray, "~/detections")
        self._solid = publisher(msg.Detection3DArray, "~/detections_3d")
        self._labels = publisher(msg.LabelInfo, "~/label_info", latched)

    def take_result(self, result: Result) -> None:
        """Arrays with every answer of the engine, empty ones with NOT_FOUND; 3-D ones where there was depth."""
        if result.frame is None:
            return
        self._labels.publish(self.label_info(result))
        flat = [self.flat(result, region) for region in result.regions]
        self._flat.publish(self._msg.Detection2DArray(header=result.header, detections=flat))
        if result.objects or not result.regions:
            measured = zip(result.regions, result.objects, strict=False)
            solid = [self.solid(result, region, thing) for region, thing in measured if thing.box is not None]
            self._solid.publish(self._msg.Detection3DArray(header=result.header, detections=solid))

    def label_info(self, result: Result) -> Any:
        """What the values in ~/labels are called."""
        classes = [
            self._msg.VisionClass(class_id=region.mask.label, class_name=class_of(result, region))
            for region in result.regions
        ]
        return self._msg.LabelInfo(header=result.header, class_map=classes)

    def flat(self, result: Result, region: Region) -> Any:
        """A Detection2D: the mask's tight box; pixel centres are whole numbers, as in Mask."""
        crop = region.mask
        box = self._msg.BoundingBox2D(size_x=float(crop.width), size_y=float(crop.height))
        box.center.position.x = crop.x + (crop.width - 1) / 2
        box.center.position.y = crop.y + (crop.height - 1) / 2
        return self._msg.Detection2D(
            header=result.header, results=[self._hypothesis(result, region)], bbox=box, id=str(crop.label)
        )

    def solid(self, result: Result, region: Region, thing: Object3D) -> Any:
        """A Detection3D: the box around what is seen, as in Object3D."""
        message = object_message(thing)
        hypothesis = self._hypothesis(result, region)
        hypothesis.pose = PoseWithCovariance(pose=message.box)
        return self._msg.Detection3D(
            header=result.header,
            results=[hypothesis],
            bbox=self._msg.BoundingBox3D(center=message.box, size=message.size),
            id=str(region.mask.label),
        )

    def _hypothesis(self, result: Result, region: Region) -> Any:
        return self._msg.ObjectHypothesisWithPose(
            hypothesis=self._msg.ObjectHypothesis(class_id=class_of(result, region), score=float(region.score))
        )


def class_of(result: Result, region: Region) -> str:
    """What a region is called."""
    return region.phrase or result.command
