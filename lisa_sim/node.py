"""The simulated robot cell as a ROS node: RGB-D camera, joint states, transforms, and a robot that moves.

Publishes (SensorDataQoS where not said otherwise), all of one stamp:
    camera/image_raw, camera/depth/image_raw (16UC1, aligned, without values on the robot), camera/camera_info.
    joint_states. camera/extrinsics (latched TransformStamped, world to the camera's optical frame); /tf_static too
    where tf2_ros is installed.
    ~/tray (latched PolygonStamped: the corners of its floor). ~/suggestion (latched String: a command that fits).
Services: ~/move_to (lisa_ros/srv/MoveTo), ~/suction (SetBool), ~/park, ~/next_scene (Trigger), ~/in_tray (Trigger: the
truth, as JSON, for tests).
"""

from __future__ import annotations

import importlib
import json
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Point32, Polygon, PolygonStamped, Pose, Quaternion, TransformStamped, Vector3
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.perception.geometry import basis_of, quaternion
from lisa_ros.ros.frames import matrix_of
from lisa_ros.ros.messages import image_message, point
from lisa_ros.srv import MoveTo
from lisa_sim.cell import ROBOTS, STEP_S, Cell
from lisa_sim.robot import Pose as ToolPose
from lisa_sim.robot import Unreachable
from lisa_sim.scenario import depth_of, scene_of
from lisa_small.scenes import SPLITS
from lisa_small.scenes.commands import conversations_for
from lisa_small.scenes.render import Frame, Studio

WORLD, OPTICAL = "world", "camera_color_optical_frame"
TICK_S = 0.02
RELEASE_S = 0.3  # an object may fall a little until it lies
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RobotCell(Node):
    """One cell; ~/next_scene makes a new one. Everything runs on the executor's thread, which owns OpenGL."""

    def __init__(self) -> None:
        super().__init__("robot_cell")
        self._seed = self._declare("seed", 0)
        self._split = self._choice("split", "test", SPLITS)
        self._robot = self._choice("robot", "gantry", tuple(ROBOTS))
        self._speed = self._declare("speed", 1.0)
        rate_hz = self._declare("rate_hz", 10.0)
        for name, value, most in (("speed", self._speed, 100.0), ("rate_hz", rate_hz, 100.0)):
            if not 0 < value <= most:
                raise ConfigError(f"{name} is {value}; it must lie above 0, up to {most:g}")
        if self._seed < 0:
            raise ConfigError(f"seed is {self._seed}; it must be 0 or more")
        self._studio = Studio()  # first of all: it says what to install where there is no OpenGL
        self._images = self.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        self._depths = self.create_publisher(Image, "camera/depth/image_raw", qos_profile_sensor_data)
        self._infos = self.create_publisher(CameraInfo, "camera/camera_info", qos_profile_sensor_data)
        self._joints = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self._extrinsics = self.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        self._tray = self.create_publisher(PolygonStamped, "~/tray", LATCHED)
        self._suggestion = self.create_publisher(String, "~/suggestion", LATCHED)
        self._static = self._static_broadcaster()
        self._cell: Cell | None = None
        self._frame: Frame | None = None
        self._suggested: list[int] = []
        self._motion: Iterator[None] | None = None
        self._moved: Future | None = None
        self._open_scene()
        group = ReentrantCallbackGroup()  # a service waits for its motion while timers run
        self.create_service(MoveTo, "~/move_to", self._move_to, callback_group=group)
        self.create_service(SetBool, "~/suction", self._suction, callback_group=group)
        self.create_service(Trigger, "~/park", self._park, callback_group=group)
        self.create_service(Trigger, "~/next_scene", self._next_scene)
        self.create_service(Trigger, "~/in_tray", self._in_tray)
        self.create_timer(TICK_S, self._tick)
        self.create_timer(1.0 / rate_hz, self._publish)

    @property
    def cell(self) -> Cell:
        """The present one."""
        assert self._cell is not None
        return self._cell

    def close(self) -> None:
        """Releases OpenGL."""
        if self._cell is not None:
            self._cell.close()
        self._studio.close()

    def _declare(self, name: str, default: Any) -> Any:
        try:
            return self.declare_parameter(name, default).value
        except InvalidParameterTypeException as error:
            raise ConfigError(str(error)) from error

    def _choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self._declare(name, default)
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        return str(value)

    def _static_broadcaster(self) -> Any:
        try:
            return importlib.import_module("tf2_ros").StaticTransformBroadcaster(self)
        except ImportError:
            self.get_logger().info("tf2_ros is not installed: the camera's pose is on camera/extrinsics only")
            return None

    # --- scenes

    def _open_scene(self) -> None:
        layout, _, record = scene_of(self._studio, self._seed, self._split)
        if self._cell is not None:
            self._cell.close()
        self._cell = Cell(layout, self._robot)
        self._frame = self._motion = None
        kinds = {"name": 0.1, "use": 1.0, "need": 1.0}
        made = conversations_for(record, random.Random(self._seed), 1, self._split, kinds=kinds)
        turn = made[0]["turns"][0] if made else None
        self._suggested = [target - 1 for target in turn["targets"]] if turn else []
        self._suggestion.publish(String(data=turn["command"] if turn else ""))
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=WORLD)
        corners = [Point32(x=float(x), y=float(y), z=0.0) for x, y in self.cell.tray.floor]
        self._tray.publish(PolygonStamped(header=header, polygon=Polygon(points=corners)))
        extrinsics = transform_message(header, OPTICAL, self.cell.camera_pose)
        self._extrinsics.publish(extrinsics)
        if self._static is not None:
            self._static.sendTransform(extrinsics)
        names = [self.cell.name_of(number) for number in range(len(layout.placements))]
        self.get_logger().info(f"scene {self._seed}: {self._robot}, {', '.join(names)}")

    def _next_scene(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._seed += 1
        self._open_scene()
        response.success, response.message = True, f"scene {self._seed}"
        return response

    def _in_tray(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        cell = self.cell
        truth = {"in_tray": cell.in_tray(), "suggested": self._suggested}
        response.success = True
        response.message = json.dumps(truth | {"names": [cell.name_of(number) for number in cell.in_tray()]})
        return response

    # --- motion

    async def _move_to(self, request: MoveTo.Request, response: MoveTo.Response) -> MoveTo.Response:
        frame = request.target.header.frame_id
        target = matrix_of(request.target.pose.orientation, request.target.pose.position)
        if frame != WORLD:
            response.message = f"target is in the frame {frame!r}; give it in {WORLD!r}"
        elif not np.isfinite(target).all():
            response.message = "target has a position that is not finite, or a quaternion of length 0"
        elif self._motion is not None:
            response.message = "the robot is moving; wait for the answer of the last call"
        else:
            try:
                motion = self.cell.robot.move_to(ToolPose(target[:3, 3], target[:3, 2]), request.guarded)
                await self._carry_out(motion)
                response.success = True
            except Unreachable as error:
                response.message = str(error)
        now = self.cell.robot.pose
        x, y, z, w = map(float, quaternion(basis_of(now.approach)))
        response.reached = Pose(position=point(now.position), orientation=Quaternion(x=x, y=y, z=z, w=w))
        response.holding = self.cell.cup.held is not None
        return response

    async def _suction(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self.cell.cup.on = True
        else:
            self.cell.cup.release()
            await self._carry_out(iter([None] * int(RELEASE_S / STEP_S)))
        response.success = True
        return response

    async def _park(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._motion is None:
            await self._carry_out(self.cell.robot.park())
            response.success = True
        else:
            response.message = "the robot is moving; wait for the answer of the last call"
        return response

    async def _carry_out(self, motion: Iterator[None]) -> None:
        """Lets the timer take a motion's steps, and waits for the last one."""
        self._motion, self._moved = motion, Future()
        await self._moved

    def _tick(self) -> None:
        if self._motion is None:
            return  # at rest nothing moves
        self._frame = None
        for _ in range(max(1, round(self._speed * TICK_S / STEP_S))):
            if next(self._motion, self) is self:
                self._motion = None
                assert self._moved is not None
                self._moved.set_result(None)
                return
            self.cell.step()

    # --- camera

    def _publish(self) -> None:
        """One moment. A cell at rest looks as before: only the stamp is new."""
        if self._frame is None:
            self._frame = self.cell.look()
        frame, camera = self._frame, self.cell.camera
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=OPTICAL)
        self._images.publish(image_message(header, frame.rgb, "rgb8"))
        depth = depth_of(frame)
        self._depths.publish(image_message(header, depth.view(np.uint8).reshape(*depth.shape, 2), "16UC1"))
        info = CameraInfo(
            header=header, height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5
        )
        info.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        self._infos.publish(info)
        robot = self.cell.robot
        joints = Header(stamp=header.stamp)
        self._joints.publish(JointState(header=joints, name=list(robot.joints), position=robot.q.tolist()))


def transform_message(header: Header, child: str, pose: NDArray[np.float64]) -> TransformStamped:
    """pose: (4, 4) from the child's frame to the header's."""
    message = TransformStamped(header=header, child_frame_id=child)
    x, y, z = map(float, pose[:3, 3])
    message.transform.translation = Vector3(x=x, y=y, z=z)
    x, y, z, w = map(float, quaternion(pose[:3, :3]))
    message.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return message


def main(args: list[str] | None = None) -> int:
    """Runs the cell until SIGINT or SIGTERM. Returns the process's exit code."""
    # Python's own handlers: rclpy's would end the context in the middle of a publish.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node: RobotCell | None = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = RobotCell()
        rclpy.spin(node)
    except LisaError as error:
        print(f"robot_cell: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
