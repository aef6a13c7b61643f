#!/usr/bin/env python3
"""From a sentence to an object in the tray: a planner's client for the node, and for any robot with a suction cup.

    python examples/pick_and_place.py "something to tighten this screw"

It sends the command to ~/segment, takes the points of ~/grasps to the robot's frame (through tf2, or by the latched
topic camera/extrinsics where tf2_ros is missing), has the robot pick, looks again, and says what is in the tray. The
steps are those of lisa_sim/picking.py, which knows nothing of a simulation. ``RosArm`` is the only part that a real
arm replaces: docs/pick.md shows where MoveIt 2 or ros2_control goes.

Exit code: 0 picked, 3 not found, 1 anything else.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PolygonStamped, PoseStamped, Quaternion, TransformStamped
from numpy.typing import NDArray
from PIL import Image as Picture
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lisa_ros.action import Segment
from lisa_ros.engine.api import MaskCrop
from lisa_ros.msg import Grasp, Grasps, Mask, Segmentation, Status
from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.plain_text import escaped
from lisa_ros.ros.frames import matrix_of
from lisa_ros.ros.messages import point
from lisa_ros.srv import MoveTo
from lisa_sim.film import Film, titled, with_point
from lisa_sim.picking import LIFTED, CannotReach, Outcome, Picker, Point, Seen, Verdict

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DOWN = Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)  # z of the tool points down
FILM_HZ = 10.0
KEPT = 100  # pictures: 10 s at 10 Hz
EXIT = {Verdict.PICKED: 0, Verdict.NOT_FOUND: 3, Verdict.FAILED: 1}


class GoingWrong(Exception):
    """The robot, the node or the camera does not answer; the message says which and why."""


class Ros(Node):
    """Waits, with the callbacks running meanwhile."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__("pick_and_place")
        self.timeout_s = timeout_s

    def wait(self, done: Callable[[], Any], waiting_for: str) -> Any:
        """The first true value of ``done()``. Raises GoingWrong."""
        end = time.monotonic() + self.timeout_s
        while not (value := done()):
            if time.monotonic() > end:
                raise GoingWrong(f"no {waiting_for} within {self.timeout_s:.0f} s")
            rclpy.spin_once(self, timeout_sec=0.05)
        return value

    def call(self, client: Any, request: Any) -> Any:
        """The response of a service. Raises GoingWrong."""
        self.wait(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self.wait(future.done, f"answer of {client.srv_name}")
        return future.result()

    def latched(self, kind: type, topic: str) -> Any:
        """The message that a topic keeps for late subscribers. Raises GoingWrong."""
        heard: list[Any] = []
        subscription = self.create_subscription(kind, topic, heard.append, LATCHED)
        try:
            return self.wait(lambda: heard and heard[-1], topic)
        finally:
            self.destroy_subscription(subscription)


class RosArm:
    """The robot. A real arm's driver goes in its place: see docs/pick.md."""

    def __init__(self, ros: Ros, robot: str, frame: str) -> None:
        self._ros, self._frame = ros, frame
        self._mover = ros.create_client(MoveTo, f"{robot}/move_to")
        self._vacuum = ros.create_client(SetBool, f"{robot}/suction")
        self._parker = ros.create_client(Trigger, f"{robot}/park")
        self._holding = False
        self._position = np.zeros(3)

    def move_to(self, position: NDArray[np.float64], guarded: bool = False) -> None:
        target = PoseStamped()
        target.header.frame_id = self._frame
        target.pose.position, target.pose.orientation = point(position), DOWN
        answer = self._ros.call(self._mover, MoveTo.Request(target=target, guarded=guarded))
        self._take(answer)
        if not answer.success:
            raise CannotReach(answer.message)

    def grip(self) -> None:
        self._ros.call(self._vacuum, SetBool.Request(data=True))

    def release(self) -> None:
        self._ros.call(self._vacuum, SetBool.Request(data=False))

    def holds(self) -> bool:
        return self._holding

    def park(self) -> None:
        answer = self._ros.call(self._parker, Trigger.Request())
        if not answer.success:
            raise GoingWrong(answer.message)
        self._take(self._ros.call(self._mover, MoveTo.Request()))  # a refused goal says where the tool is

    def position(self) -> NDArray[np.float64]:
        return self._position

    def _take(self, answer: MoveTo.Response) -> None:
        self._holding, reached = answer.holding, answer.reached.position
        self._position = np.array([reached.x, reached.y, reached.z])


class RosEyes:
    """The node's answers in the robot's frame.

    Attributes:
        answers: Every answer so far.
        first_look: The picture that the first one is about.
        kept: The newest pictures, by stamp.
        on_frame: Is given every picture.
    """

    def __init__(self, ros: Ros, node: str, camera: str, frame: str) -> None:
        self._ros, self._camera, self._frame = ros, camera, frame
        self._action = ActionClient(ros, Segment, f"{node}/segment")
        self._grasps: dict[str, Grasps] = {}
        self.kept: dict[tuple[int, int], Image] = {}
        self.answers: list[Segmentation] = []
        self.first_look: Image | None = None
        self._info: CameraInfo | None = None
        self.on_frame: Callable[[Image], None] = lambda image: None
        ros.create_subscription(Grasps, f"{node}/grasps", self._take_grasps, 10)
        ros.create_subscription(Image, f"{camera}/image_raw", self._take_image, qos_profile_sensor_data)
        ros.create_subscription(CameraInfo, f"{camera}/camera_info", self._take_info, qos_profile_sensor_data)
        self._buffer, self._listener = None, None
        try:
            tf2 = importlib.import_module("tf2_ros")
        except ImportError:
            return
        self._buffer = tf2.Buffer()
        self._listener = tf2.TransformListener(self._buffer, ros)

    def _take_grasps(self, grasps: Grasps) -> None:
        self._grasps[grasps.request_id] = grasps

    def _take_image(self, image: Image) -> None:
        self.kept[stamp_of(image)] = image
        if len(self.kept) > KEPT:
            del self.kept[next(iter(self.kept))]
        self.on_frame(image)

    def _take_info(self, info: CameraInfo) -> None:
        self._info = info

    def wait_until_ready(self, node: str) -> None:
        """Raises GoingWrong where the model cannot be loaded."""
        heard: list[Status] = []
        subscription = self._ros.create_subscription(Status, f"{node}/status", heard.append, LATCHED)

        def ready() -> bool:
            if heard and heard[-1].state == Status.ERROR:
                raise GoingWrong(heard[-1].message)
            return bool(heard) and heard[-1].state == Status.READY

        self._ros.wait(ready, f"ready node {node}")
        self._ros.destroy_subscription(subscription)
        self._ros.wait(lambda: self.kept and self._info, f"image and camera_info below {self._camera}")
        self._ros.wait(lambda: self._ros.count_publishers(f"{node}/grasps"), f"publisher of {node}/grasps")
        print(f"lisa:  ready, {heard[-1].model} on {heard[-1].device}", flush=True)

    def ask(self, command: str) -> Sequence[Seen]:
        # A picture of now: the next one that is taken.
        before = max(self.kept, default=(0, 0))
        self._ros.wait(lambda: max(self.kept, default=(0, 0)) > before, "new image")
        self._ros.wait(self._action.server_is_ready, "action server")
        sent = self._action.send_goal_async(Segment.Goal(command=command))
        self._ros.wait(sent.done, "reply to the goal")
        if not sent.result().accepted:
            raise GoingWrong("the node rejected the goal")
        finished = sent.result().get_result_async()
        self._ros.wait(finished.done, "answer")
        answer = finished.result().result.segmentation
        if answer.status not in (Segmentation.SUCCESS, Segmentation.NOT_FOUND):
            raise GoingWrong(answer.message)
        if not self.answers:
            self.first_look = self.kept.get(stamp_of(answer))
        self.answers.append(answer)
        if not answer.masks:
            return []
        if not answer.objects:
            raise GoingWrong("the answer has no metres: is there aligned depth, and camera_info? see /diagnostics")
        grasps = self._ros.wait(lambda: self._grasps.pop(answer.request_id, None), "grasps of the answer")
        base = np.eye(4) if grasps.header.frame_id == self._frame else self.pose_of(answer.header)
        pieces: dict[tuple[int, int], list[Grasp]] = {}
        for grasp in grasps.grasps:
            if grasp.kind == Grasp.SUCTION:
                pieces.setdefault((grasp.piece, grasp.label), []).append(grasp)
        return [seen_from(pieces[key], base) for key in sorted(pieces, key=lambda key: key[0])]

    def pose_of(self, header: Any) -> NDArray[np.float64]:
        """(4, 4) from a camera's frame to the robot's. Raises GoingWrong."""
        if self._buffer is None:
            return transform_of(self._ros.latched(TransformStamped, f"{self._camera}/extrinsics"))
        stamp = Time.from_msg(header.stamp)
        self._ros.wait(
            lambda: self._buffer.can_transform(self._frame, header.frame_id, stamp),
            f"transform from {header.frame_id} to {self._frame}",
        )
        return transform_of(self._buffer.lookup_transform(self._frame, header.frame_id, stamp))

    def pixel_of(self, position: NDArray[np.float64]) -> tuple[float, float]:
        """x, y in the picture of the first answer. position: (3,) m in the robot's frame."""
        assert self._info is not None
        pose, k = np.linalg.inv(self.pose_of(self.answers[0].header)), self._info.k
        x, y, z = pose[:3, :3] @ position + pose[:3, 3]
        return k[0] * x / z + k[2], k[4] * y / z + k[5]


class Area:
    """The tray: a rectangle in the robot's frame."""

    def __init__(self, corners: NDArray[np.float64]) -> None:
        """corners: (4, 2), in order."""
        self._corners = corners

    @property
    def centre(self) -> tuple[float, float]:
        x, y = self._corners.mean(axis=0)
        return float(x), float(y)

    def inside(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        first = self._corners[0]
        sides = self._corners[[1, 3]] - first  # (2, 2)
        shares = (points[:, :2] - first) @ sides.T / (sides**2).sum(axis=1)
        return ((shares >= 0) & (shares <= 1)).all(axis=1)


class Recorder:
    """Of what the camera sees while it is there: a film, and a picture of the point, the lifted object and the end."""

    def __init__(self, folder: Path, command: str, eyes: RosEyes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.picture, self.film = folder / "pick.png", folder / "pick.mp4"
        self._command, self._eyes = command, eyes
        self._film = Film(self.film, FILM_HZ)
        self._lifting = False
        self._lifted: NDArray[np.uint8] | None = None
        eyes.on_frame = self._take

    def _take(self, image: Image) -> None:
        rgb = pixels_of(image)
        self._film.add(titled(rgb, f"you: {self._command}", self._answer()))
        if self._lifting and self._lifted is None:
            self._lifted = rgb

    def take_line(self, line: str) -> None:
        """A line of the story: the picture after ``lifted`` shows the object."""
        self._lifting = line == LIFTED

    def _answer(self) -> str:
        return f"lisa: {self._eyes.answers[0].answer.strip()}" if self._eyes.answers else ""

    def finish(self, outcome: Outcome) -> None:
        """Write both."""
        self._film.close()
        first = self._eyes.first_look
        panels = []
        if first is not None:
            rgb = draw_overlay(pixels_of(first), [crop_of(mask) for mask in self._eyes.answers[0].masks], 0.45)
            for tried in outcome.points[:1]:
                rgb = with_point(rgb, self._eyes.pixel_of(tried.position))
            panels.append(titled(rgb, f"you: {self._command}", self._answer()))
        if self._lifted is not None:
            panels.append(titled(self._lifted, "lifted"))
        newest = self._eyes.kept[max(self._eyes.kept)]
        panels.append(titled(pixels_of(newest), outcome.verdict.value, outcome.story[-1]))
        Picture.fromarray(np.concatenate(panels, axis=1)).save(self.picture)


def transform_of(message: TransformStamped) -> NDArray[np.float64]:
    """(4, 4) from the child's frame to the header's."""
    return matrix_of(message.transform.rotation, message.transform.translation)


def stamp_of(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def pixels_of(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) of an rgb8 image."""
    return np.ndarray((image.height, image.width, 3), np.uint8, buffer=image.data, strides=(image.step, 3, 1)).copy()


def crop_of(mask: Mask) -> MaskCrop:
    """A Mask message as a MaskCrop."""
    image, roi, centroid = mask.pixels, mask.roi, mask.centroid_px
    pixels = np.ndarray((image.height, image.width), np.uint8, buffer=image.data, strides=(image.step, 1))
    box = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    return MaskCrop(mask.label, *box, pixels, mask.score, mask.area, (centroid.x, centroid.y))


def seen_from(grasps: Sequence[Grasp], base: NDArray[np.float64]) -> Seen:
    """The grasps of one piece. base: (4, 4) from their frame to the robot's."""
    poses = [base @ matrix_of(grasp.pose.orientation, grasp.pose.position) for grasp in grasps]
    points = [Point(pose[:3, 3], -pose[:3, 2], one.score) for pose, one in zip(poses, grasps, strict=True)]
    middle = grasps[0].middle
    return Seen(base[:3, :3] @ [middle.x, middle.y, middle.z] + base[:3, 3], points)


def run(arguments: argparse.Namespace) -> Verdict:
    """Raises GoingWrong."""
    ros = Ros(arguments.timeout)
    eyes = RosEyes(ros, arguments.node, arguments.camera, arguments.frame)
    eyes.wait_until_ready(arguments.node)
    arm = RosArm(ros, arguments.robot, arguments.frame)
    polygon = ros.latched(PolygonStamped, f"{arguments.robot}/tray").polygon
    tray = Area(np.array([(corner.x, corner.y) for corner in polygon.points]))
    command = arguments.command
    if command is None:
        command = ros.latched(String, f"{arguments.robot}/suggestion").data
    print(f"you:   {escaped(command)}", flush=True)
    recorder = Recorder(arguments.out, command, eyes) if arguments.out else None

    def say(line: str) -> None:
        print(f"robot: {line}", flush=True)
        if recorder is not None:
            recorder.take_line(line)

    outcome = Picker(arm, eyes, tray, arguments.travel, say).pick(command)
    for answer in eyes.answers[:1]:
        print(f"lisa:  {escaped(answer.answer.strip())}", flush=True)
    if recorder is not None:
        recorder.finish(outcome)
        print(f"       {recorder.picture} and {recorder.film}: what the camera saw", flush=True)
    return outcome.verdict


def main() -> int:
    parser = argparse.ArgumentParser(description="Pick the object that a sentence means, and put it into the tray.")
    parser.add_argument(
        "command", nargs="?", help="what to pick, as a person says it (default: the robot's suggestion)"
    )
    parser.add_argument("--node", default="/lisa", help="full name of the lisa node (default /lisa)")
    parser.add_argument("--robot", default="/robot_cell", help="full name of the robot's node (default /robot_cell)")
    parser.add_argument("--camera", default="/camera", help="namespace of the camera (default /camera)")
    parser.add_argument("--frame", default="world", help="the robot's frame, z up (default world)")
    parser.add_argument("--travel", type=float, default=0.6, help="[m] height at which objects are carried (0.6)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write pick.png and pick.mp4 into this folder")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for each step (default 120)")
    arguments = parser.parse_args()
    # Python's own handlers: rclpy's would end the context in the middle of a wait.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        return EXIT[run(arguments)]
    except GoingWrong as error:
        print(f"pick_and_place: {escaped(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
