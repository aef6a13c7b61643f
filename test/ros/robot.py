"""What the tests of the node have around it: the node as a process of its own, a client that talks to it over DDS."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import rclpy
from machine_speed import Deadline, limit
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status
from lisa_ros.ros.messages import image_message
from lisa_ros.srv import SegmentImage

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_S = 30.0  # of any wait, on a quiet machine; never slept through, only run into when something is broken
SIZE = (240, 320)
TRUTH = np.zeros(SIZE, bool)
TRUTH[60:120, 100:220] = True
_numbers = itertools.count(1)


def scene(size=SIZE, truth=None) -> np.ndarray:
    """A frame with a bright box where TRUTH is."""
    pixels = np.full((*size, 3), 20, np.uint8)
    if truth is None and size == SIZE:
        truth = TRUTH
    if truth is not None:
        pixels[truth] = 250
    return pixels


def stamped(node, pixels, encoding="rgb8", frame_id="camera_optical") -> Image:
    return image_message(Header(stamp=node.get_clock().now().to_msg(), frame_id=frame_id), pixels, encoding)


class NodeProcess:
    """``lisa_node`` with the stand-in for a model. options: ``[loading=gated]`` and the like say how it loads.

    beside: a node whose namespace this one shares. remap: names of topics by the names that the node gives them.
    """

    def __init__(
        self, folder: Path, beside: NodeProcess | None = None, name: str = "lisa", remap=None, **parameters
    ) -> None:
        self.namespace = beside.namespace if beside else f"/robot{os.getpid()}_{next(_numbers)}"
        self.name = f"{self.namespace}/{name}"
        self.log = folder / f"{self.namespace[1:]}.log"
        rules = {"__ns": self.namespace, "__node": name, **(remap or {})}
        settings = {
            "model": "standin:load",
            "restart_pause_s": 0.2,
            "max_image_age_s": limit(2.0),
            **parameters,
        }
        arguments = itertools.chain.from_iterable(
            ("-p", f"{name.replace('~', self.name)}:={value}") for name, value in settings.items()
        )
        remaps = itertools.chain.from_iterable(("-r", f"{old}:={new}") for old, new in rules.items())
        # A sourced ROS installation is on PYTHONPATH too.
        folders = [REPOSITORY, REPOSITORY / "test", REPOSITORY / "examples"]
        paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
        # A crash says where it was.
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), PYTHONFAULTHANDLER="1")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lisa_ros.ros.node", "--ros-args", *remaps, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
            )

    @property
    def worker(self) -> psutil.Process:
        """The worker process, once there is one."""
        return wait_for(lambda: psutil.Process(self.process.pid).children() or None, "a worker process")[0]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(limit(10))
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def wait_for(condition, what: str, limit_s: float = LIMIT_S, step=lambda: time.sleep(0.01)):
    """The first true value of ``condition``; fails with ``what`` after the limit, which grows on a slow machine."""
    end = Deadline(limit_s)
    while not (value := condition()):
        assert not end.passed(), f"no {what} within {end.limit_s:g} s"
        step()
    return value


MANY = QoSProfile(depth=100)


class Client:
    """Camera, commander and listener in one: everything a robot has around the node."""

    def __init__(self, context, lisa: NodeProcess) -> None:
        self.lisa = lisa
        self.node = rclpy.create_node(f"client{next(_numbers)}", namespace=lisa.namespace, context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list] = {}
        for topic, kind in (
            ("result", Segmentation),
            ("mask", Image),
            ("labels", Image),
            ("camera_info", CameraInfo),
            ("answer", String),
        ):
            self.listen(topic, kind)
        self.listen("status", Status, QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self.images = self.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
        # ROS's usual ten places lose commands to a node, and replies to a client, that the machine lets wait: of what
        # came at once the first are gone before they can be sent again.
        self.commands = self.node.create_publisher(String, f"{lisa.name}/command", MANY)
        self.action = ActionClient(
            self.node,
            Segment,
            f"{lisa.name}/segment",
            goal_service_qos_profile=MANY,
            result_service_qos_profile=MANY,
        )
        self.service = self.node.create_client(SegmentImage, f"{lisa.name}/segment_image", qos_profile=MANY)
        self.clear = self.node.create_client(Trigger, f"{lisa.name}/clear_session")
        self.getter = self.node.create_client(GetParameters, f"{lisa.name}/get_parameters")
        self.setter = self.node.create_client(SetParameters, f"{lisa.name}/set_parameters")
        self.shown: dict[tuple[int, int], Image] = {}  # frames by stamp
        self.view: np.ndarray | Image | None = None
        self._met = False
        self.node.create_timer(0.05, self._shoot)

    def listen(self, topic: str, kind, qos=MANY) -> list:
        heard = self.heard.setdefault(topic, [])
        self.node.create_subscription(kind, f"{self.lisa.name}/{topic}", heard.append, qos)
        return heard

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float = 0.02) -> None:
        self.executor.spin_once(timeout_sec=seconds)

    def wait(self, condition, what: str, limit_s: float = LIMIT_S):
        assert self.lisa.process.poll() is None, self.lisa.said()
        return wait_for(condition, what, limit_s, self.spin)

    def done(self, future, what: str = "reply"):
        self.wait(future.done, what)
        return future.result()

    # --- camera

    def show(self, view) -> None:
        """From now on the camera shows ``view`` (pixels or a message) at 20 Hz; returns when the node gets it."""
        self.view = view
        if view is not None:
            self.wait(lambda: self.images.get_subscription_count() > 0, "subscription to image")
            count = len(self.shown)
            self.wait(lambda: len(self.shown) >= count + 3, "frames")

    def _shoot(self) -> None:
        if self.view is None:
            return
        if isinstance(self.view, Image):
            image = self.view
            image.header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id="camera_optical")
        else:
            image = stamped(self.node, self.view)
        self.shown[stamp(image.header)] = image
        self.images.publish(image)
        self.infos.publish(CameraInfo(header=image.header, height=image.height, width=image.width, k=[1.0] * 9))

    # --- commands

    def ready(self, limit_s: float = LIMIT_S) -> Status:
        """Wait until commands are taken at every endpoint."""
        self.state(Status.READY, "ready node", limit_s)
        self.wait(self.action.server_is_ready, "action server")
        self.wait(self.service.service_is_ready, "service")
        self.wait(lambda: self.commands.get_subscription_count() > 0, "subscription to command")
        self.meet()
        return self.heard["status"][-1]

    def meet(self) -> None:
        """Wait until the node knows this client: Fast DDS drops the reply to one that it has not discovered in 0.1 s.

        Endpoints are told in the order they were made: a reply to this one says that those before it are known, too.
        """
        if self._met:
            return
        self.wait(self.getter.service_is_ready, "parameter service")
        self._met = bool(self.insist(lambda: self.getter.call_async(GetParameters.Request(names=["model"])), "reply"))

    def insist(self, ask, what: str):
        """The reply to a question that does no harm, asked again every two seconds."""
        asked = []

        def reply():
            asked.append(ask())
            end = time.monotonic() + 2.0
            while time.monotonic() < end and not any(future.done() for future in asked):
                self.spin()
            return next((future for future in asked if future.done()), None)

        return self.wait(reply, what).result()

    def state(self, wanted: int, what: str, limit_s: float = LIMIT_S) -> Status:
        self.wait(lambda: self.heard["status"] and self.heard["status"][-1].state == wanted, what, limit_s)
        return self.heard["status"][-1]

    def say(self, command: str) -> Segmentation:
        """By topic; the answer to this command."""

        def answers():
            return [result for result in self.heard["result"] if result.request_id.startswith("command-")]

        self.wait(lambda: self.commands.get_subscription_count() > 0, "subscription to command")
        count = len(answers())
        self.commands.publish(String(data=command))
        self.wait(lambda: len(answers()) > count, f"answer to {command[:40]!r}")
        return answers()[-1]

    def call(self, command: str, image: Image | None = None, **fields) -> SegmentImage.Response:
        """By service."""
        return self.done(self.call_async(command, image, **fields), f"answer to {command[:40]!r}")

    def call_async(self, command: str, image: Image | None = None, **fields):
        return self.service.call_async(SegmentImage.Request(command=command, image=image or Image(), **fields))

    def goal(self, command: str, image: Image | None = None, **fields) -> Goal:
        """By action."""
        return Goal(self, Segment.Goal(command=command, image=image or Image(), **fields))

    def heard_result(self, request_id: str) -> Segmentation:
        """What ~/result said about one request; exactly once."""
        found = self.wait(lambda: [r for r in self.heard["result"] if r.request_id == request_id], "result")
        assert len(found) == 1
        return found[0]

    def works(self) -> None:
        """The node answers a usual command as if nothing had happened."""
        self.ready()
        answer = self.call("the box", stamped(self.node, scene()))
        assert answer.status == Segmentation.SUCCESS, answer.message
        assert answer.segmentation.masks[0].area == TRUTH.sum()


class Goal:
    """One goal of the action, its feedback and its result."""

    def __init__(self, client: Client, goal: Segment.Goal) -> None:
        self.client = client
        self.feedback: list[Segment.Feedback] = []
        sent = client.action.send_goal_async(goal, feedback_callback=lambda m: self.feedback.append(m.feedback))
        self.handle = client.done(sent, "reply to the goal")
        assert self.handle.accepted
        self.result_future = self.handle.get_result_async()

    @property
    def request_id(self) -> str:
        return bytes(self.handle.goal_id.uuid).hex()

    def reach(self, stage: int) -> None:
        self.client.wait(lambda: any(f.stage == stage for f in self.feedback), f"stage {stage}")

    def cancel(self) -> None:
        self.client.done(self.handle.cancel_goal_async(), "reply to the cancel")

    def result(self):
        """(GoalStatus, Segment.Result)."""
        outcome = self.client.done(self.result_future, "result")
        return outcome.status, outcome.result


def stamp(header: Header) -> tuple[int, int]:
    return header.stamp.sec, header.stamp.nanosec


def pixels_of(image: Image) -> np.ndarray:
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width)
