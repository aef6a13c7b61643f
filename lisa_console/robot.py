"""The robot's side: the console's ROS node. Everything runs on its executor's thread; the methods of
:class:`lisa_console.hub.Robot` may be called on any."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point32
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from unique_identifier_msgs.msg import UUID

from lisa_console import events
from lisa_console.cameras import THUMBNAIL_SIDE, Camera, Picture, jpeg_of, png_of
from lisa_console.describe import STATES, crop_of, mask_event, mask_header, progress_fields, result_event, stamp_ns
from lisa_console.options import Options
from lisa_console.protocol import Command, Kind, write_binary
from lisa_console.settings import read_settings
from lisa_ros.action import Segment
from lisa_ros.errors import ImageError
from lisa_ros.msg import Chosen, Progress, Segmentation, Status, TrackedMask, TrackedMasks
from lisa_ros.ros.messages import image_message

RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MOST_RESULTS = 50  # as the history has
MOST_HELD = 4  # pictures that a person draws on, or that have not come yet
FOLLOWED_S = 0.5  # after this without followed masks, plain pictures are shown again
MOST_REMEMBERED = 500  # commands whose session or picture is known
LOST_TEXT = "the node ended before it answered; ask again when its state is READY"


class RobotSide(Node):
    """Cameras, commands and answers.

    Attributes:
        settings: The console's parameters.
        on_event: Is given every event, on the executor's thread.

    Raises:
        ConfigError: A parameter cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("lisa_console")
        self.settings = settings = read_settings(self)
        self.on_event: Callable[[events.Event], None] = lambda event: None
        name = self._lisa = self.resolve_topic_name(settings.node)
        compressed = settings.image_transport == "compressed"
        self._cameras = {one: Camera(one, self, compressed, self._take_picture) for one in settings.camera_names}
        self.cameras = tuple(self._cameras)
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._guard = self.create_guard_condition(self._run_calls)
        self._wanted: frozenset[str] = frozenset()
        self._held: OrderedDict[int, Picture] = OrderedDict()
        self._goals: dict[str, Any] = {}
        self._unwanted: set[str] = set()  # cancelled before the node accepted them
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._running: dict[str, Progress] = {}
        self._awaited: OrderedDict[str, Progress | Segmentation] = OrderedDict()
        self._pictured: OrderedDict[str, None] = OrderedDict()
        self._results: OrderedDict[str, Segmentation] = OrderedDict()
        self._followed: tuple[float, str] = (0.0, "")
        self._status: Status | None = None
        self._nodes: set[bytes] = set()  # publishers of ~/status: a node that was started again has another one
        self._hints: list[str] = []
        self._tracked: Any = None
        self._action = ActionClient(self, Segment, f"{name}/segment")
        self._triggers = {kind: self.create_client(Trigger, f"{name}/{kind}") for kind in ("clear", "clear_session")}
        self._options = Options(self, name, lambda options: self._tell(events.Options(options)), self._fail)
        self._chosen = self.create_publisher(Chosen, f"{name}/chosen", LATCHED)
        self.create_subscription(Status, f"{name}/status", self._take_status, LATCHED)
        self.create_subscription(Progress, f"{name}/progress", self._take_progress, RELIABLE)
        self.create_subscription(Segmentation, f"{name}/result", self._take_result, RELIABLE)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        self.create_timer(1.0, self._tell_state)

    # --- asked for by pages, on any thread

    def watch(self, cameras: frozenset[str]) -> None:
        self._later(lambda: self._watch(cameras))

    def want(self, cameras: frozenset[str]) -> None:
        self._wanted = cameras

    def hold(self, camera: str, stamp: int) -> None:
        self._later(lambda: self._hold(camera, stamp))

    def ask(self, command: Command) -> None:
        self._later(lambda: self._ask(command))

    def cancel(self, request_id: str) -> None:
        self._later(lambda: self._cancel(request_id))

    def choose(self, request_id: str, label: int) -> None:
        self._later(lambda: self._choose(request_id, label))

    def clear(self) -> None:
        self._later(lambda: self._call("clear"))

    def clear_session(self) -> None:
        self._later(lambda: self._call("clear_session"))

    def set_option(self, name: str, value: bool | int | float | str) -> None:
        self._later(lambda: self._options.set(name, value))

    def _tell(self, event: events.Event) -> None:
        self.on_event(event)

    def _later(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        self._guard.trigger()

    def _run_calls(self) -> None:
        while not self._calls.empty():
            try:
                self._calls.get_nowait()()
            except Exception as error:  # one page's request must not end the console
                self.get_logger().error(f"{type(error).__name__}: {error}")
                self._fail(f"the console could not do that: {error}")

    def _fail(self, text: str, request_id: str = "") -> None:
        self._tell(events.Problem(request_id, text))

    # --- commands

    def _ask(self, command: Command) -> None:
        self._look_for_nodes()
        if not self._action.server_is_ready():
            self._fail(f"there is no node {self._lisa}: start it, or give its name in the parameter node")
            return
        goal = Segment.Goal(command=command.text, explain=command.explain, session=command.session)
        goal.camera = command.camera if command.camera in self._cameras else ""
        goal.points = [Point32(x=x, y=y) for x, y, _ in command.points]
        goal.point_labels = [label for _, _, label in command.points]
        if command.box is not None:
            x, y, width, height = command.box
            goal.box = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
        if (command.points or command.box is not None) and command.stamp:
            picture = self._held.get(command.stamp)
            if picture is None:
                self._fail("the picture that was drawn on is no longer kept; draw again")
                return
            header = Header()
            header.stamp.sec, header.stamp.nanosec = divmod(command.stamp, 10**9)
            goal.image = image_message(header, picture.rgb(), "rgb8")
        number = uuid.uuid4()
        request_id = number.hex
        remember(self._sessions, request_id, command.session)
        queued = Progress(request_id=request_id, command=command.text, camera=goal.camera, source="action")
        self._take_progress(queued)
        sent = self._action.send_goal_async(
            goal,
            feedback_callback=lambda message: self._take_feedback(request_id, message.feedback),
            goal_uuid=UUID(uuid=list(number.bytes)),
        )
        sent.add_done_callback(lambda future: self._take_acceptance(request_id, future))

    def _take_acceptance(self, request_id: str, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._unwanted.discard(request_id)
            self._end(request_id, "REJECTED", "the node rejected the command; see its log")
            return
        self._goals[request_id] = handle
        if request_id in self._unwanted:
            self._unwanted.discard(request_id)
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda _: self._goals.pop(request_id, None))

    def _take_feedback(self, request_id: str, feedback: Segment.Feedback) -> None:
        for mask in feedback.masks:
            if mask.pixels.height:
                self._tell(mask_event(request_id, mask, stamp_ns(mask.pixels.header)))

    def _cancel(self, request_id: str) -> None:
        goal = self._goals.get(request_id)
        if goal is None and request_id in self._running and request_id in self._sessions:
            self._unwanted.add(request_id)
        elif goal is None:
            self._fail("only a running command of this console can be cancelled", request_id)
        else:
            goal.cancel_goal_async()

    def _choose(self, request_id: str, label: int) -> None:
        answer = self._results.get(request_id)
        mask = next((mask for mask in answer.masks if mask.label == label), None) if answer is not None else None
        if answer is None or mask is None:
            self._fail(f"there is no mask {label} of this answer any more; ask again", request_id)
            return
        things = [thing for thing in answer.objects if thing.label == label]
        self._chosen.publish(
            Chosen(
                header=answer.header,
                request_id=request_id,
                command=answer.command,
                camera=answer.camera,
                mask=mask,
                objects=things,
            )
        )
        self._tell(events.Chosen(request_id, label))

    def _call(self, name: str) -> None:
        client = self._triggers[name]
        if not client.service_is_ready():
            self._fail(f"there is no service {client.srv_name}: is the node {self._lisa} running?")
        else:
            client.call_async(Trigger.Request())

    # --- answers

    def _take_progress(self, message: Progress) -> None:
        if message.request_id in self._results:
            return  # its answer overtook it
        self._running[message.request_id] = message
        self._send_picture(message)
        session = self._sessions.get(message.request_id, "")
        self._tell(events.Progress(message.request_id, progress_fields(message, session)))

    def _take_result(self, message: Segmentation) -> None:
        request_id = message.request_id
        self._running.pop(request_id, None)
        self._send_picture(message)
        remember(self._results, request_id, message, MOST_RESULTS)
        self._tell(result_event(message, self._sessions.get(request_id, "")))

    def _end(self, request_id: str, status: str, text: str) -> None:
        """A command that will get no answer."""
        message = self._running.pop(request_id, Progress(request_id=request_id))
        self._goals.pop(request_id, None)
        fields = result_event(Segmentation(request_id=request_id, command=message.command), "").fields
        session = self._sessions.get(request_id, "")
        self._tell(events.Result(request_id, {**fields, "status": status, "message": text, "session": session}, ()))

    # --- pictures

    def _watch(self, cameras: frozenset[str]) -> None:
        for name, camera in self._cameras.items():
            camera.watch(name in cameras)
        # The node follows masks only while somebody listens.
        if cameras and self._tracked is None:
            self._tracked = self.create_subscription(TrackedMasks, f"{self._lisa}/tracked", self._take_tracked, 5)
        elif not cameras and self._tracked is not None:
            self.destroy_subscription(self._tracked)
            self._tracked = None

    def _hold(self, camera: str, stamp: int) -> None:
        picture = self._cameras[camera].find(stamp) if camera in self._cameras else None
        if picture is not None:
            remember(self._held, stamp, picture, MOST_HELD)

    def _take_picture(self, camera: Camera, stamp: int) -> None:
        for message in [one for one in self._awaited.values() if stamp_ns(one.header) == stamp]:
            self._send_picture(message)
        since, followed = self._followed
        if camera.name in self._wanted and not (followed == camera.name and time.monotonic() - since < FOLLOWED_S):
            self._send_live(camera, stamp, ())

    def _take_tracked(self, message: TrackedMasks) -> None:
        camera = self._cameras.get(message.camera or self.cameras[0])
        masks = [one for one in message.masks if one.state != TrackedMask.LOST and one.mask.pixels.height]
        if camera is None or not masks:
            return
        self._followed = time.monotonic(), camera.name
        if camera.name in self._wanted and camera.find(stamp_ns(message.header)) is not None:
            self._send_live(camera, stamp_ns(message.header), masks)

    def _send_live(self, camera: Camera, stamp: int, masks: Sequence[TrackedMask]) -> None:
        """A live picture with the masks that belong to this very picture."""
        picture = camera.find(stamp)
        assert picture is not None
        try:
            jpeg, (width, height) = picture.jpeg()
            camera.problem = ""
        except ImageError as error:
            camera.problem = str(error)
            return
        self._wanted -= {camera.name}  # one is on its way; the hub says when the next one is waited for
        crops = [png_of(crop_of(one.mask.pixels)) for one in masks]
        described = [
            {**mask_header(one.mask), "state": one.state, "bytes": len(png)}
            for one, png in zip(masks, crops, strict=True)
        ]
        header = {"camera": camera.name, "width": width, "height": height, "bytes": len(jpeg), "masks": described}
        self._tell(events.Live(camera.name, write_binary(Kind.FRAME, stamp, header, [jpeg, *crops])))

    def _send_picture(self, message: Progress | Segmentation) -> None:
        """The picture that a command is about, once; later where it has not come yet."""
        request_id, stamp = message.request_id, stamp_ns(message.header)
        camera = self._cameras.get(message.camera or self.cameras[0])
        if not stamp or request_id in self._pictured or camera is None:
            return
        picture = self._held.get(stamp) or camera.find(stamp)
        if picture is None:
            remember(self._awaited, request_id, message, MOST_HELD)
            return
        self._awaited.pop(request_id, None)
        remember(self._pictured, request_id, None)
        try:
            jpeg, size = picture.jpeg()
            rgb = picture.rgb()
        except ImageError as error:
            camera.problem = str(error)
            return
        png = png_of(rgb) if self.settings.save_examples else None
        self._tell(events.Picture(request_id, stamp, jpeg, jpeg_of(rgb, THUMBNAIL_SIDE), size, png))

    # --- state

    def _take_status(self, message: Status) -> None:
        self._look_for_nodes()
        if self._status is None or self._status.state != message.state:
            self._options.read()
        self._status = message
        self._tell_state()

    def _look_for_nodes(self) -> None:
        """A killed node is still listed for a while: the one that comes in its place says that it is gone."""
        found = {bytes(one.endpoint_gid) for one in self.get_publishers_info_by_topic(f"{self._lisa}/status")}
        if self._nodes and found - self._nodes:
            self._lose_running()
        self._nodes |= found
        if not found:
            self._nodes.clear()
            self._status = None
            self._hints = []
            self._lose_running()

    def _lose_running(self) -> None:
        """The node that worked on them is gone."""
        for request_id in list(self._running):
            self._end(request_id, "LOST", LOST_TEXT)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        own = [one for one in message.status if one.name.startswith(f"{self._lisa}:")]
        if own:
            self._hints = [one.message for one in own if one.level != DiagnosticStatus.OK]

    def _tell_state(self) -> None:
        self._look_for_nodes()
        status = self._status
        fields: dict[str, Any] = {"state": "ABSENT", "message": f"there is no node {self._lisa}", "node": self._lisa}
        if status is not None:
            fields |= {
                "state": STATES.get(status.state, str(status.state)),
                "progress": round(status.progress, 3),
                "message": status.message,
                "queued": status.queued,
                "model": status.model,
                "device": status.device,
                "precision": status.precision,
            }
        cameras = {}
        for name, camera in self._cameras.items():
            if camera.is_watched:
                silence = camera.silence_s
                cameras[name] = {
                    "topic": camera.topic,
                    "rate_hz": round(camera.rate_hz, 1),
                    "silence_s": None if silence is None else round(silence, 1),
                    "problem": camera.problem,
                }
        self._tell(events.State({**fields, "hints": self._hints, "cameras": cameras}))


def remember(store: OrderedDict[Any, Any], key: Any, value: Any, most: int = MOST_REMEMBERED) -> None:
    """Puts a value into a store that forgets its oldest ones."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)
