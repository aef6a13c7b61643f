"""Masks of another node: a detector publishes labels images, the node chooses among them, of the same frame only."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from PIL import Image as Picture
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.serialization import serialize_message
from robot import TRUTH, Client, pixels_of, scene, stamp, stamped
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lisa_ros.errors import ConfigError, ImageError
from lisa_ros.msg import Segmentation
from lisa_ros.ros.frame_store import FrameStore
from lisa_ros.ros.given_proposals import MOST_PACKED, GivenProposals
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.status import NoImage

SLOW = 4  # frames that the detector is behind


def labels_message(header: Header, pixels: np.ndarray, encoding: str) -> Image:
    """Of any number format."""
    image = Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    image.step = pixels[0].nbytes
    image.data.frombytes(pixels.tobytes())
    return image


class Detector:
    """A node of its own on the same robot: labels of every image it gets, as its ``paint`` says, some frames late."""

    def __init__(self, client: Client, topic: str = "detector/labels") -> None:
        self.node = rclpy.create_node("detector", namespace=client.lisa.namespace, context=client.node.context)
        client.executor.add_node(self.node)
        self.labels = self.node.create_publisher(Image, topic, QoSProfile(depth=5))
        self.node.create_subscription(Image, "image", self._see, qos_profile_sensor_data)
        self.paint = lambda rgb: None
        self.late = 0
        self.encoding = "mono8"
        self.moved_ns = 0
        self.sent: set[tuple[int, int]] = set()
        self._waiting: deque[Image] = deque()

    def _see(self, image: Image) -> None:
        self._waiting.append(image)
        while len(self._waiting) > self.late:
            self._publish(self._waiting.popleft())

    def _publish(self, image: Image) -> None:
        rgb = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
        labels = self.paint(rgb)
        if labels is None:
            return
        header = image.header
        if self.moved_ns:
            header = Header(
                stamp=Time(sec=header.stamp.sec, nanosec=(header.stamp.nanosec + self.moved_ns) % 10**9),
                frame_id=header.frame_id,
            )
        self.labels.publish(labels_message(header, labels, self.encoding))
        self.sent.add(stamp(header))


def bright(rgb: np.ndarray) -> np.ndarray:
    return (rgb[..., 0] > 128).astype(np.uint8) * 7


@pytest.fixture(scope="module")
def client(launch):
    client = launch(model="standin_chooser:load", proposals="[detector/labels]")
    client.ready()
    client.detector = Detector(client)
    client.wait(lambda: client.detector.labels.get_subscription_count() > 0, "subscription to the labels")
    return client


@pytest.fixture
def detector(client):
    detector = client.detector
    detector.paint, detector.late, detector.encoding, detector.moved_ns = bright, 0, "mono8", 0
    yield detector
    client.view = None


def settled(client, detector) -> None:
    """Only frames that were labelled as the test says are young enough to be taken."""
    detector.sent.clear()
    client.wait(lambda: len(detector.sent) > 1 or detector.paint(scene()) is None, "labels")


def answered_about_its_own_frame(client, answer: Segmentation) -> None:
    frame = client.shown[stamp(answer.header)]
    rgb = np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3)
    mask = np.zeros(rgb.shape[:2], bool)
    for one in answer.masks:
        roi = one.roi
        mask[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] |= (
            pixels_of(one.pixels) > 0
        )
    np.testing.assert_array_equal(mask, rgb[..., 0] > 128)


@pytest.mark.parametrize("late", [0, SLOW])
def test_every_answer_has_the_masks_of_its_own_frame(client, detector, late):
    """The box moves with every frame; a slow detector's labels come while newer frames are here already."""
    detector.late = late
    places = iter(range(10_000))

    class Moving:
        """The next frame each time that the camera looks."""

        @staticmethod
        def frame():
            truth = np.zeros(TRUTH.shape, bool)
            x = 7 * next(places) % 200
            truth[60:120, x : x + 50] = True
            return scene(truth=truth)

    client.show(Moving.frame())
    move = client.node.create_timer(0.03, lambda: setattr(client, "view", Moving.frame()))
    client.wait(lambda: len(detector.sent) > 2, "labels")
    for _ in range(6):
        answer = client.goal("everything").result()[1]
        assert answer.status == Segmentation.SUCCESS, answer.message
        assert stamp(answer.segmentation.header) in detector.sent
        answered_about_its_own_frame(client, answer.segmentation)
    client.node.destroy_timer(move)


def test_several_masks_keep_their_order(client, detector):
    labels = np.zeros(TRUTH.shape, np.uint16)
    labels[10:20, 10:40], labels[50:90, 60:80], labels[55:60, 65:70] = 900, 3, 40
    detector.paint, detector.encoding = (lambda rgb: labels), "mono16"
    client.show(scene())
    client.wait(lambda: client.call("everything").status == Segmentation.SUCCESS, "answer")
    masks = client.call("everything").segmentation.masks
    assert [mask.area for mask in masks[-3:]] == [775, 25, 300], "by label: 3, 40, 900"


def expect(client, status, *words):
    """The next answers come to say this: frames of what was before are still young for a moment."""

    def answer():
        reply = client.call("everything")
        return reply if reply.status == status and all(word in reply.message for word in words) else None

    return client.wait(answer, f"answer {status} with {words}")


def test_no_labels_are_a_status_of_their_own(client, detector):
    detector.paint = lambda rgb: None
    client.show(scene())
    reply = expect(client, Segmentation.NO_IMAGE, "no proposals have come on", "detector/labels")
    assert not reply.segmentation.masks
    detector.paint = bright
    expect(client, Segmentation.SUCCESS)


def test_labels_of_another_moment_are_of_no_frame(client, detector):
    detector.moved_ns = 1_000_000
    client.show(scene())
    expect(client, Segmentation.NO_IMAGE, "the newest labels are of stamp", "need the stamp of the image itself")


def test_an_image_of_the_callers_own_needs_labels_of_its_stamp(client, detector):
    client.show(scene())
    expect(client, Segmentation.SUCCESS)
    reply = client.call("everything", stamped(client.node, scene()))
    assert reply.status == Segmentation.NO_IMAGE
    assert "no proposals with the stamp of the image" in reply.message


def test_empty_labels_find_nothing(client, detector):
    detector.paint = lambda rgb: np.zeros(rgb.shape[:2], np.uint8)
    client.show(scene())
    expect(client, Segmentation.NOT_FOUND, "nothing like that")


def test_labels_of_another_size_or_encoding_are_named(client, detector):
    client.show(scene())
    detector.paint = lambda rgb: np.ones((24, 32), np.uint8)
    expect(client, Segmentation.INVALID_IMAGE, "is 32 x 24, the image is 320 x 240")
    detector.paint, detector.encoding = (lambda rgb: rgb), "rgb8"
    expect(client, Segmentation.INVALID_IMAGE, "'rgb8'; publish one of mono8")
    detector.paint, detector.encoding = bright, "mono8"
    expect(client, Segmentation.SUCCESS)


def test_an_engine_that_takes_no_proposals_says_so(launch):
    client = launch(model="standin:load", proposals="[labels]")
    client.ready()
    detector = Detector(client, "labels")
    detector.paint = bright
    client.show(scene())
    client.wait(lambda: len(detector.sent) > 2, "labels")
    reply = expect(client, Segmentation.INVALID_COMMAND, "takes no proposals")
    assert not reply.segmentation.masks
    client.view = None


def test_the_demo_model_chooses_among_a_detectors_masks(launch, repository):
    """End to end: camera, detector, the node with the demo model, a goal of the action."""
    pytest.importorskip("torch")
    rgb = np.asarray(Picture.open(repository / "demo" / "scene.jpg").convert("RGB"))
    ids = np.asarray(Picture.open(repository / "demo" / "scene_ids.png"))
    model = repository / "lisa_small" / "weights"
    client = launch(model=model, options="[family=nearest]", proposals="[/detections/masks]", device="cpu", threads=1)
    client.ready(120.0)
    detector = Detector(client, "/detections/masks")
    detector.paint, detector.late = (lambda seen: ids), SLOW
    client.show(rgb)
    client.wait(lambda: len(detector.sent) > 2, "labels")
    _, result = client.goal("the screwdriver").result()
    assert result.status == Segmentation.SUCCESS, result.message
    (mask,) = result.segmentation.masks
    areas = {int(value): int((ids == value).sum()) for value in np.unique(ids[ids > 0])}
    assert mask.area in areas.values(), "one of the detector's masks, pixel by pixel"
    assert mask.phrase == "screwdriver"
    client.view = None


# --- without DDS


def message(stamp_ns: int, pixels: np.ndarray, encoding: str) -> bytes:
    header = Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="camera")
    return serialize_message(labels_message(header, pixels, encoding))


def given() -> GivenProposals:
    return GivenProposals(lambda: Parameters(proposals=("labels",)), lambda: "/labels")


def frame_of(serialized: bytes):
    return FrameStore(Parameters, lambda: "/image", lambda: 0.0).take(None, serialized)


def test_detections_name_the_masks_of_their_stamp():
    """By the id, which is the label, or by the box."""
    labels = np.zeros((40, 60), np.uint8)
    labels[5:15, 5:25], labels[20:40, 30:50], labels[0:4, 50:60] = 1, 2, 3

    def detection(number, name, score, x=0.0, y=0.0, width=0.0, height=0.0):
        center = SimpleNamespace(position=SimpleNamespace(x=x, y=y))
        hypothesis = SimpleNamespace(hypothesis=SimpleNamespace(class_id=name, score=score))
        box = SimpleNamespace(center=center, size_x=width, size_y=height)
        return SimpleNamespace(id=number, results=[hypothesis], bbox=box)

    store, image = given(), message(5, np.zeros((40, 60, 3), np.uint8), "rgb8")
    store.keep_frame(image)
    store.keep_labels(message(5, labels, "mono8"))
    frame = frame_of(store.newest_frame())
    assert not store.of(frame).proposals().phrases
    header = Header(stamp=Time(nanosec=5))
    detections = [detection("1", "cup", 0.5), detection("track-9", "saw", 2.0, 40.0, 30.0, 19.0, 21.0)]
    detections += [detection("x", "far", 0.9, 5.0, 35.0, 4.0, 4.0)]
    store.keep_detections(SimpleNamespace(header=header, detections=detections))
    proposals = store.of(frame).proposals()
    assert tuple(proposals.phrases) == ("cup", "saw", "")
    assert proposals.scores.tolist() == [0.5, 1.0, 1.0]
    store.keep_detections(SimpleNamespace(header=Header(stamp=Time(nanosec=6)), detections=[]))
    assert tuple(store.of(frame).proposals().phrases) == ("cup", "saw", ""), "those of its own stamp"


@pytest.mark.parametrize("kind", ["u1", "u2", "i4"])
def test_every_encoding_and_padded_rows(kind):
    names = {"u1": "mono8", "u2": "mono16", "i4": "32SC1"}
    rng = np.random.default_rng(1)
    labels = rng.integers(-1 if kind == "i4" else 0, 6, (9, 14)).astype(kind)
    header = Header(stamp=Time(nanosec=7))
    wide = np.zeros((9, 20), kind)
    wide[:, :14] = labels
    image = Image(header=header, height=9, width=14, encoding=names[kind], step=20 * wide.itemsize)
    image.data.frombytes(wide.tobytes())
    store = given()
    store.keep_labels(serialize_message(image))
    frame = frame_of(message(7, np.zeros((9, 14, 3), np.uint8), "rgb8"))
    crops = store.of(frame).proposals().crops
    assert [crop.label for crop in crops] == [value for value in range(1, 6) if (labels == value).any()]
    for crop in crops:
        assert crop.area == (labels == crop.label).sum()
        plane = np.zeros((9, 14), bool)
        plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
        np.testing.assert_array_equal(plane, labels == crop.label)


def test_broken_and_too_detailed_labels():
    store, frame = given(), frame_of(message(7, np.zeros((300, 400, 3), np.uint8), "rgb8"))
    store.keep_labels(b"\x00\x01\x00\x00rubbish")
    with pytest.raises(NoImage, match="cannot be read"):
        store.of(frame)
    noise = np.random.default_rng(0).integers(0, 60_000, (300, 400)).astype(np.uint16)
    assert noise.nbytes > MOST_PACKED
    store.keep_labels(message(7, noise, "mono16"))
    with pytest.raises(ImageError, match="too detailed"):
        store.of(frame)
    cut = Image(header=Header(stamp=Time(nanosec=7)), height=300, width=400, encoding="mono8", step=400)
    store.keep_labels(serialize_message(cut))
    with pytest.raises(ImageError, match="need 120000"):
        store.of(frame)


def test_frames_wait_for_labels_no_longer_than_their_age(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lisa_ros.ros.given_proposals.time.monotonic", lambda: now[0])
    store, pixels = given(), np.zeros((4, 4, 3), np.uint8)
    for number in range(1, 6):
        store.keep_frame(message(number, pixels, "rgb8"))
        now[0] += 0.1
    store.keep_labels(message(2, np.ones((4, 4), np.uint8), "mono8"))
    store.keep_labels(message(4, np.ones((4, 4), np.uint8), "mono8"))
    assert store.newest_frame() == message(4, pixels, "rgb8")
    now[0] += 2.0
    with pytest.raises(NoImage, match="for an image of the last 2 s"):
        store.newest_frame()


@pytest.mark.parametrize("wrong", [(), ("model", "labels"), ("a", "b", "c"), ("a topic",), ("",)])
def test_a_parameter_that_cannot_be_used(wrong):
    with pytest.raises(ConfigError, match="proposals is"):
        Parameters(proposals=wrong)
    assert Parameters(proposals=("sam",)).engine_options == {"proposer": "sam"}
    assert Parameters(proposals=("~/labels", "/detections")).proposal_topics == ("~/labels", "/detections")
