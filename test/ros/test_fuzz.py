"""Whatever comes in from outside: no exception leaves its callback, and no command stays without its one status.

The node is the real one, in this process, with a worker made up; its callbacks are called as the executor calls them.
In the suite a few hundred cases; a hundred thousand with

    python -m pytest test/ros/test_fuzz.py --hypothesis-profile=fuzz --timeout=0
"""

from __future__ import annotations

import logging
import math
import struct
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalInfo
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point32
from hypothesis import given
from hypothesis import strategies as st
from rclpy.action import ActionServer
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from lisa_ros.action import Segment
from lisa_ros.engine.api import EngineInfo, Region, crop_mask
from lisa_ros.errors import Cancelled, CommandError, ImageError, OutOfMemory
from lisa_ros.perception.geometry import Camera, depth_image, metres
from lisa_ros.perception.image_codec import LAYOUTS, decode, decode_compressed
from lisa_ros.ros import node as node_module
from lisa_ros.ros.serialized_image import read_image
from lisa_ros.runtime import worker
from lisa_ros.runtime.status import Status
from lisa_ros.srv import SegmentImage

MOST_PIXELS = 100_000
KNOWN = set(Status) - {Status.INTERNAL_ERROR}  # a fault of ours is no answer to what somebody sent
ANSWERED: Counter[str] = Counter()

# --- what may come

uint32 = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1]))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)  # DDS strings are UTF-8: no half characters
commands = st.one_of(
    text,
    st.sampled_from(
        ["the box", "", "[SEG]", "<image>", "</s><s>", "x" * 3000, "\0", "\u202e box", "a\rb", "$(reboot)"]
    ),
    st.lists(st.sampled_from(["[SEG]", "<image>", "</s>", "cup", "\n", "\x1b[2J", "../../etc", "%s%n"])).map(" ".join),
)
headers = st.builds(
    lambda sec, nanosec, frame_id: Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    text,
)
durations = st.builds(
    lambda sec, nanosec: Duration(sec=sec, nanosec=nanosec), st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
)
encodings = st.one_of(st.sampled_from([*LAYOUTS, "16UC1", "32FC1", "8UC1", ""]), text)


def image_of(header, height, width, encoding, step, is_bigendian, data) -> Image:
    message = Image(header=header, height=height, width=width, encoding=encoding, step=step, is_bigendian=is_bigendian)
    message.data.frombytes(data)
    return message


def fitting_image(header, height, width, encoding, padding, is_bigendian, missing) -> Image:
    """Nearly always one that can be used; ``missing`` bytes short."""
    layout = LAYOUTS[encoding]
    step = width * layout.channels + padding
    data = bytes(max(step * (height * layout.rows // 2) - missing, 0))
    return image_of(header, height, width, encoding, step, is_bigendian, data)


sides = st.integers(8, 40)
fitting = st.builds(
    fitting_image, headers, sides, sides, st.sampled_from(list(LAYOUTS)), st.integers(0, 8), st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1]),
)  # fmt: skip
images = st.one_of(
    st.builds(image_of, headers, uint32, uint32, encodings, uint32, st.integers(0, 255), st.binary(max_size=300)),
    fitting,
    st.just(Image()),
)
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"


def encoded_picture(suffix: str, side: int) -> bytes:
    import cv2

    return cv2.imencode(suffix, np.full((side, side, 3), 90, np.uint8))[1].tobytes()


PICTURES = [encoded_picture(suffix, side) for suffix in (".png", ".jpg", ".bmp", ".webp") for side in (8, 33)]


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: max(len(changed) - cut, 0)])


def damage(data) -> st.SearchStrategy[bytes]:
    """``data`` (a strategy of bytes) with a few bytes changed and some cut off."""
    change = st.tuples(st.integers(0, 10_000), st.integers(0, 255))
    return st.builds(damaged, data, st.lists(change, max_size=4), st.sampled_from([0, 0, 0, 1, 7, 100]))


pictures = st.one_of(
    damage(st.sampled_from(PICTURES)), st.binary(max_size=200), st.binary(max_size=60).map(PNG.__add__)
)


def compressed_of(header, form, data) -> CompressedImage:
    message = CompressedImage(header=header, format=form)
    message.data.frombytes(data)
    return message


compressed = st.builds(
    compressed_of, headers, st.one_of(st.sampled_from(["jpeg", "png", "rgb8; jpeg"]), text), pictures
)
numbers = st.floats(allow_nan=True, allow_infinity=True)
calibrations = st.one_of(
    st.lists(numbers, min_size=9, max_size=9), st.just([40.0, 0.0, 15.5, 0.0, 40.0, 15.5, 0.0, 0.0, 1.0])
)
infos = st.builds(
    lambda header, height, width, k: CameraInfo(header=header, height=height, width=width, k=k),
    headers,
    uint32,
    uint32,
    calibrations,
)
points = st.builds(Point32, x=st.floats(width=32), y=st.floats(width=32))
goals = st.builds(
    Segment.Goal,
    command=commands,
    explain=st.booleans(),
    targets=st.one_of(st.just([]), st.lists(text, max_size=3), st.just(["cup"] * 300), st.just(["x" * 1000] * 11)),
    compact=st.booleans(),
    points=st.one_of(st.just([]), st.lists(points, max_size=3), st.just([Point32()] * 1001)),
    point_labels=st.one_of(st.just([]), st.lists(st.integers(-1, 2), max_size=3)),
    box=st.one_of(st.just(RegionOfInterest()), st.builds(RegionOfInterest, width=uint32, height=uint32)),
    session=st.one_of(text, st.just("s" * 300)),
    image=images,
    camera=st.one_of(st.just(""), text),
    timeout=durations,
)


def serialized(messages) -> st.SearchStrategy[bytes]:
    """Messages as they come from DDS, mostly whole."""
    whole = messages.map(serialize_message)
    return st.one_of(whole, damage(whole), st.binary(max_size=100))


# --- the node, and a worker whose events are made up


class FakeWorker:
    """Answers at once. mood: how the next command ends."""

    mood = "mask"

    def __init__(self, settings, transport, on_event):
        self._say = on_event
        self.pid = None

    def start(self):
        self._say(worker.Ready(EngineInfo("made up", capabilities=frozenset({"points"})), 0.0))

    def close(self):
        pass

    def restart(self, reason):
        self._say(worker.Died(reason, 0.0))
        self.start()

    def send(self, message):
        if not isinstance(message, worker.Command):
            return
        key, mood = message.request_id, type(self).mood
        self._say(worker.StageBegan(key, "generating"))
        if mood in ERRORS:
            self._say(worker.Failed(key, ERRORS[mood]))
            return
        if mood == "death":
            self.restart("as it was asked to")
            return
        height, width = message.ticket.size
        mask = np.zeros((height, width), bool)
        mask[: height // 2] = mood == "mask"
        self._say(worker.PartialText(key, "Sure, [SEG]."))
        self._say(worker.NewRegions(key, [Region(crop_mask(mask, 1, 0.5), 0.5, "cup", span=(6, 11))]))
        self._say(worker.Done(key, "Sure, [SEG].", [], [0], ["unicorn"]))


ERRORS = {"refusal": CommandError("no"), "memory": OutOfMemory("none"), "stopped": Cancelled("stopped")}
moods = st.sampled_from(["mask", "mask", "mask", "empty", "death", *ERRORS])


class Faults(logging.Handler):
    """Collects what is logged as an error: an exception that was caught, or nearly."""

    EXPECTED = ("the worker process died",)

    def __init__(self):
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record):
        self.error(record.getMessage())

    def error(self, message, **_):
        if not message.startswith(self.EXPECTED):
            self.said.append(message)

    def fatal(self, message, **_):
        self.said.append(message)

    def info(self, *_, **__):
        pass

    debug = warning = warn = info


class Fuzzed:
    """The node's callbacks by the name of their topic or service."""

    def __init__(self, node, faults) -> None:
        self.node = node
        self.faults = faults
        base = f"{node.get_namespace().rstrip('/')}/"
        own = f"{base}{node.get_name()}/"
        self.topics = {s.topic_name.replace(own, "~/").replace(base, ""): s.callback for s in node.subscriptions}
        self.services = {s.srv_name.replace(own, "~/"): s.callback for s in node.services}
        (self.action,) = [waitable for waitable in node.waitables if isinstance(waitable, ActionServer)]
        self.count = 0

    def settle(self) -> None:
        """Let the node take in the worker's events, and what is measured aside of it."""
        self.node._drain()
        self.node._aside.submit(lambda: None).result()  # one thread: what was begun before this is done
        self.node._drain()

    def finish(self, coroutine):
        """What a callback returns, which may wait for the worker."""
        for _ in range(100):
            try:
                coroutine.send(None)
            except StopIteration as end:
                return end.value
            self.settle()
        raise AssertionError("no answer")

    def forget(self) -> None:
        """What a case before this one left, where it failed: each is judged by itself."""
        self.settle()
        self.results.clear()
        self.faults.said.clear()

    def say(self, command) -> None:
        """By topic; the one answer is seen by :class:`Outlet`."""
        self.topics["~/command"](String(data=command))
        self.settle()

    def ask(self, request):
        """By service."""
        return self.finish(self.services["~/segment_image"](request, SegmentImage.Response()))

    def pursue(self, goal):
        """By action. Returns the result; it ended in exactly one way."""
        self.count += 1
        ends = []
        handle = SimpleNamespace(
            goal_id=SimpleNamespace(uuid=np.frombuffer(self.count.to_bytes(16, "big"), np.uint8)),
            request=goal,
            is_active=True,
            is_cancel_requested=False,
            publish_feedback=lambda feedback: serialize_message(feedback),
            succeed=lambda: ends.append(True),
            abort=lambda: ends.append(False),
            canceled=lambda: ends.append(False),
        )
        result = self.finish(self.action._execute_callback(handle))
        assert ends == [result.status in (Status.SUCCESS, Status.NOT_FOUND)]
        serialize_message(result)
        return result

    def check(self, status, mood: str = "mask") -> None:
        """A status that is nobody's fault; one result on the topic; nothing logged as an error."""
        assert Status(status) in (KNOWN | {Status.INTERNAL_ERROR} if mood == "death" else KNOWN)
        ANSWERED[Status(status).name] += 1
        assert len(self.results) == 1
        self.results.clear()
        assert self.faults.said == []


def fuzzed(monkeypatch_module, transport: str):
    """A node in the state ACTIVE, heard by a list."""
    logger = logging.getLogger("lisa_ros")
    level = logger.level
    context = rclpy.Context()
    rclpy.init(context=context)
    monkeypatch_module.setattr(node_module.worker, "Worker", FakeWorker)
    faults = Faults()
    values = {
        "max_image_pixels": MOST_PIXELS,
        "image_transport": transport,
        "queue_size": 2,
        "max_image_age_s": 86400.0,
    }
    node = node_module.LisaNode(
        context=context,
        namespace=f"/fuzz_{transport}",
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
    )
    logger.setLevel(logging.ERROR)
    logger.addHandler(faults)
    node._drain()
    node.get_logger = lambda: faults
    lisa = Fuzzed(node, faults)
    lisa.results = []
    publishers = {publisher.topic_name.rsplit("/", 1)[-1]: publisher for publisher in node.publishers}
    publish = publishers["result"].publish
    monkeypatch_module.setattr(publishers["result"], "publish", lambda m: (lisa.results.append(m), publish(m)))
    yield lisa
    logger.removeHandler(faults)
    logger.setLevel(level)
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture(scope="module")
def lisa():
    with pytest.MonkeyPatch.context() as patch:
        yield from fuzzed(patch, "raw")


@pytest.fixture(scope="module")
def compressed_lisa():
    with pytest.MonkeyPatch.context() as patch:
        yield from fuzzed(patch, "compressed")


@pytest.fixture(autouse=True)
def usual_mood():
    FakeWorker.mood = "mask"


# --- decoders


@given(st.one_of(images, fitting))
def test_a_raw_image_is_pixels_or_an_image_error(image):
    try:
        pixels = decode(image, MOST_PIXELS)
    except ImageError:
        return
    assert pixels.shape == (image.height, image.width, 3)


@given(compressed)
def test_a_compressed_image_is_pixels_or_an_image_error(image):
    try:
        pixels = decode_compressed(image, MOST_PIXELS)
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] * pixels.shape[1] <= MOST_PIXELS


@given(serialized(images))
def test_a_serialized_image_is_read_or_an_image_error(data):
    try:
        image = read_image(data)
        decode(image, MOST_PIXELS)
    except ImageError:
        return


@given(
    st.binary(max_size=600), st.one_of(st.sampled_from(["16UC1", "32FC1", "mono16"]), text), st.integers(0, 20),
    st.integers(0, 20), st.one_of(st.integers(0, 80), uint32), st.booleans(),
)  # fmt: skip
def test_depth_is_metres_or_an_image_error(data, encoding, height, width, step, is_bigendian):
    try:
        with np.errstate(invalid="ignore"):
            distance = metres(depth_image(data, encoding, height, width, step, is_bigendian))
    except ImageError:
        return
    assert distance.shape == (height, width)
    assert not np.isinf(distance).any()


@given(st.lists(numbers, min_size=9, max_size=9), uint32, uint32)
def test_calibration_is_a_camera_or_an_image_error(k, width, height):
    try:
        camera = Camera.from_matrix(np.array(k), width, height)
    except ImageError:
        return
    assert math.isfinite(camera.fx) and camera.fx > 0


# --- callbacks


@given(serialized(images), commands, moods)
def test_any_frame_and_any_command_by_topic(lisa, frame, command, mood):
    lisa.forget()
    FakeWorker.mood = mood
    lisa.topics["image"](frame)
    lisa.say(command)
    lisa.check(lisa.results[0].status, mood)


@given(serialized(compressed), commands)
def test_any_compressed_frame(compressed_lisa, frame, command):
    compressed_lisa.forget()
    compressed_lisa.topics["image"](frame)
    compressed_lisa.say(command)
    compressed_lisa.check(compressed_lisa.results[0].status)


@given(fitting, serialized(images), serialized(infos), calibrations, st.binary(max_size=40), st.booleans())
def test_any_depth_and_calibration(lisa, frame, depth, info, k, distances, related):
    """related: they claim to be of the frame's moment, camera and size."""
    lisa.forget()
    if related:
        data = (distances or b"\1") * 9000
        as_depth = image_of(frame.header, frame.height, frame.width, "16UC1", 2 * frame.width, 0, data)
        calibration = CameraInfo(header=frame.header, height=frame.height, width=frame.width, k=k)
        depth, info = serialize_message(as_depth), serialize_message(calibration)
    lisa.topics["depth"](depth)
    lisa.topics["camera_info"](info)
    lisa.topics["image"](serialize_message(frame))
    lisa.say("the box")
    lisa.check(lisa.results[0].status)


@given(goals, moods)
def test_any_goal(lisa, goal, mood):
    lisa.forget()
    FakeWorker.mood = mood
    lisa.check(lisa.pursue(goal).status, mood)


@given(goals, moods)
def test_any_request(lisa, goal, mood):
    lisa.forget()
    FakeWorker.mood = mood
    names = SegmentImage.Request.get_fields_and_field_types()
    request = SegmentImage.Request(**{name: getattr(goal, name) for name in names})
    response = lisa.ask(request)
    serialize_message(response)
    lisa.check(response.status, mood)


@given(st.lists(st.sampled_from(["command", "clear", "cancel", "tick"]), max_size=6), commands)
def test_any_order_of_small_things(lisa, steps, command):
    lisa.forget()
    for step in steps:
        if step == "command":
            lisa.say(command)
        elif step == "clear":
            assert lisa.services["~/clear_session"](Trigger.Request(), Trigger.Response()).success
        elif step == "cancel":
            lisa.action._cancel_callback(SimpleNamespace(goal_id=GoalInfo().goal_id))
        else:
            lisa.node._ring()
    assert len(lisa.results) == steps.count("command")
    assert all(Status(result.status) in KNOWN for result in lisa.results)
    lisa.results.clear()
    assert lisa.faults.said == []


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    numbers,
    text,
    st.lists(text, max_size=3),
    st.binary(max_size=9),
)


@given(st.data())
def test_any_value_of_any_parameter_is_taken_or_refused_with_a_reason(lisa, data):
    lisa.forget()
    names = sorted(lisa.node._parameters)
    before = {name: lisa.node.get_parameter(name) for name in names}
    name, value = data.draw(st.sampled_from(names)), data.draw(values)
    try:
        wanted = Parameter(name, value=value)
    except (TypeError, ValueError):
        return  # there is no parameter of that type: none can be sent
    (answer,) = lisa.node.set_parameters([wanted])
    assert answer.successful or answer.reason
    if answer.successful:
        (answer,) = lisa.node.set_parameters([before[name]])
        assert answer.successful or before[name].type_ == Parameter.Type.NOT_SET
    assert lisa.faults.said == []


def test_the_cases_were_of_every_kind(lisa):
    """Last: what the fuzzing reached. Without it, everything could have been refused at the first check."""
    if not ANSWERED:
        pytest.skip("alone, it has nothing to look at")
    print(dict(ANSWERED))
    assert ANSWERED["SUCCESS"] and ANSWERED["INVALID_COMMAND"] and ANSWERED["INVALID_IMAGE"]
