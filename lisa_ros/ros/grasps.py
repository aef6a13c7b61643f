"""~/grasps: where a cup or a parallel gripper may hold the objects of an answer."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, Quaternion
from numpy.typing import NDArray
from std_msgs.msg import Header

from lisa_ros.msg import Grasp, Grasps
from lisa_ros.perception.geometry import (
    Object3D,
    basis_of,
    grasp_candidate,
    pieces_of,
    quaternion,
    suction_candidates,
)
from lisa_ros.ros.frames import Frames
from lisa_ros.ros.messages import point
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Result

logger = logging.getLogger(__name__)


class GraspCandidates:
    """Computed only while somebody subscribes, on another thread.

    Args:
        publisher: Of ~/grasps.
        parameters: The current ones.
        frames: Transforms between frames.
        aside: Has a call made on another thread, one at a time.
    """

    def __init__(
        self,
        publisher: Any,
        parameters: Callable[[], Parameters],
        frames: Frames,
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._publisher = publisher
        self._parameters = parameters
        self._frames = frames
        self._aside = aside

    def take_result(self, result: Result) -> None:
        """A message for every answer of the engine."""
        if result.frame is not None and self._publisher.get_subscription_count() > 0:
            pose = self._frames.to_target(result.header)
            self._aside(lambda: self._publish(result, pose))

    def _publish(self, result: Result, pose: NDArray[np.float64] | None) -> None:
        """pose: (4, 4) from the optical frame to ``target_frame``; None without one."""
        try:
            header = result.header
            if pose is None:
                pose, up = np.eye(4), None
            else:
                header = Header(stamp=header.stamp, frame_id=self._parameters().target_frame)
                up = pose[2, :3]  # z of the target frame, in the optical frame
            opening = self._parameters().gripper_opening_m
            things = sorted(result.objects, key=lambda thing: -len(thing.points))
            grasps = [one for thing in things for one in grasps_of(thing, up, opening, pose)]
            camera = result.camera
            self._publisher.publish(
                Grasps(
                    header=header, request_id=result.request_id, command=result.command, camera=camera, grasps=grasps
                )
            )
        except Exception:
            logger.error("%s", traceback.format_exc())


def grasps_of(
    thing: Object3D, up: NDArray[np.float64] | None, opening: float, pose: NDArray[np.float64]
) -> list[Grasp]:
    """The candidates of one object, those of its largest piece first.

    Args:
        thing: In the optical frame.
        up: (3,) away from gravity, optical frame; None where it is not known.
        opening: Of the gripper, m.
        pose: (4, 4) from the optical frame to that of the message.
    """
    grasps = []
    for number, piece in enumerate(pieces_of(thing)):
        middle = piece.centroid if piece.box is None else piece.box.centre
        common = {"label": piece.label, "piece": number, "middle": point(pose[:3, :3] @ middle + pose[:3, 3])}
        for cup in suction_candidates(piece, up):
            place = pose_message(pose, cup.point, basis_of(-cup.normal))
            grasps.append(Grasp(kind=Grasp.SUCTION, pose=place, width=2 * cup.radius, score=cup.score, **common))
        jaw = grasp_candidate(piece, up, opening)
        if jaw is not None:
            axes = np.stack([jaw.closing, np.cross(jaw.approach, jaw.closing), jaw.approach], axis=1)
            place = pose_message(pose, jaw.centroid, axes)
            grasps.append(Grasp(kind=Grasp.JAW, pose=place, width=jaw.width, score=jaw.score, **common))
    return grasps


def pose_message(pose: NDArray[np.float64], position: NDArray[np.float64], axes: NDArray[np.float64]) -> Pose:
    """position: (3,) m. axes: (3, 3), columns: closing, across, approach. Both in the optical frame."""
    x, y, z, w = map(float, quaternion(pose[:3, :3] @ axes))
    return Pose(position=point(pose[:3, :3] @ position + pose[:3, 3]), orientation=Quaternion(x=x, y=y, z=z, w=w))
