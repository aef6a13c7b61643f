"""Masks in metres, over DDS: depth and image are matched by stamp, and unusable depth costs only the metres."""

from __future__ import annotations

import numpy as np
import pytest
from depth_camera import BOX_M, BOX_SIZE, FOCAL, DepthCamera, K, box_centre
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from robot import SIZE, TRUTH, Client, scene, stamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from lisa_ros.msg import Object3D, Segmentation
from lisa_ros.ros.messages import POINT, image_message


@pytest.fixture(scope="module")
def camera(shared_client: Client):
    camera = DepthCamera(shared_client)
    yield camera
    camera.close()


@pytest.fixture
def seen(client: Client, camera: DepthCamera):
    """The client with both cameras running, and the depth one as usual afterwards."""
    client.show(scene())
    yield client
    camera.usual()


def answer_of(client: Client, what: str = "the box") -> Segmentation:
    answer = client.say(what)
    assert answer.status == Segmentation.SUCCESS, answer.message
    assert len(answer.masks) == 1
    return answer


def position(point) -> np.ndarray:
    return np.array([point.x, point.y, point.z])


def assert_the_box(thing: Object3D) -> None:
    assert thing.label == 1
    assert thing.valid_share == 1.0
    np.testing.assert_allclose(position(thing.centroid), box_centre(), atol=0.005)
    assert thing.has_box
    np.testing.assert_allclose([thing.size.x, thing.size.y], BOX_SIZE, atol=0.01)
    assert thing.size.z < 0.01
    q = thing.box.orientation
    assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0)
    np.testing.assert_allclose(position(thing.box.position), box_centre(), atol=0.01)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_mask_is_measured_in_metres(seen: Client, camera: DepthCamera, kind) -> None:
    if kind is np.float32:
        camera.depth = (camera.depth / 1000).astype(np.float32)
        seen.show(scene())
    (thing,) = answer_of(seen).objects
    assert_the_box(thing)


def test_action_and_service_give_metres_too(seen: Client) -> None:
    _, result = seen.goal("the box").result()
    assert_the_box(result.segmentation.objects[0])
    assert_the_box(seen.call("the box").segmentation.objects[0])


def test_a_sent_image_with_a_known_stamp_is_measured(seen: Client) -> None:
    image = list(seen.shown.values())[-1]
    assert_the_box(seen.call("the box", image).segmentation.objects[0])


def test_a_sent_image_of_another_time_is_not_measured(seen: Client) -> None:
    image = stamped(seen.node, scene())
    image.header.stamp.sec -= 100
    answer = seen.call("the box", image)
    assert answer.status == Segmentation.SUCCESS
    assert not answer.segmentation.objects


def test_depth_within_the_slop_is_taken(seen: Client, camera: DepthCamera) -> None:
    camera.late_s = 0.01
    seen.show(scene())
    assert_the_box(answer_of(seen).objects[0])


def test_metres_are_of_the_rectified_camera(seen: Client, camera: DepthCamera) -> None:
    camera.k = [0.5 * K[0], *K[1:4], 0.5 * K[4], *K[5:]]
    camera.p = [K[0], 0.0, K[2], 0.0, 0.0, K[4], K[5], 0.0, 0.0, 0.0, 1.0, 0.0]
    camera.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    for _ in range(2):
        seen.show(scene())
        assert_the_box(answer_of(seen).objects[0])
    assert seen.lisa.said().count("camera_info has distortion (unnamed model)") == 1
    assert seen.lisa.said().count(f"remap image:={seen.lisa.namespace}/image_rect") == 1


def test_the_end_of_the_range_is_no_measurement(seen: Client, camera: DepthCamera) -> None:
    camera.depth[TRUTH] = 10_000  # where this camera cuts off: 10 m
    seen.show(scene())
    (thing,) = answer_of(seen).objects
    assert (thing.has_box, thing.valid_share) == (False, 0.0)


def test_what_is_hidden_from_depth_has_no_box(seen: Client, camera: DepthCamera) -> None:
    camera.depth = np.zeros(SIZE, np.uint16)
    seen.show(scene())
    (thing,) = answer_of(seen).objects
    assert (thing.has_box, thing.valid_share) == (False, 0.0)
    assert np.isnan(position(thing.centroid)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frame_id": "depth_optical"}, "publish depth aligned to the colour image"),
        ({"late_s": -100.0}, "more than depth_slop_s"),  # far from every image, also where images come in bursts
        ({"k": [0.0] * 9}, "calibrate the camera"),
        ({"depth": np.zeros((SIZE[0] // 2, SIZE[1] * 2), np.uint16)}, "with a camera of"),
    ],
    ids=["another frame", "another time", "not calibrated", "another size"],
)
def test_unusable_depth_costs_only_the_metres_and_is_said_once(seen: Client, camera: DepthCamera, change, says) -> None:
    for name, value in change.items():
        setattr(camera, name, value)
    for _ in range(12):  # the history forgets what came before
        seen.show(scene())
    for _ in range(2):
        assert not answer_of(seen).objects
    assert seen.lisa.said().count(says) == 1, seen.lisa.said()
    states = []
    topic = seen.node.create_subscription(DiagnosticArray, "/diagnostics", states.append, 10)
    own = f"{seen.lisa.name}: camera"

    def warned():
        reported = [status for array in states for status in array.status if status.name == own]
        return [status for status in reported if status.level == DiagnosticStatus.WARN]

    status = seen.wait(warned, "warning on /diagnostics")[0]
    assert says in status.message
    assert says in {value.key: value.value for value in status.values}["depth"]
    seen.node.destroy_subscription(topic)


def test_without_stamps_the_newest_depth_image_is_measured(seen: Client, camera: DepthCamera) -> None:
    seen.show(None)
    header = Header(frame_id="camera_optical")
    shown = []

    def shoot() -> None:
        shown.append(seen.images.publish(image_message(header, scene(), "rgb8")))
        seen.infos.publish(CameraInfo(header=header, height=SIZE[0], width=SIZE[1]))

    timer = seen.node.create_timer(0.05, shoot)
    for millimetres in (700, 500):
        camera.depth[TRUTH] = millimetres
        count = len(shown)
        seen.wait(lambda since=count: len(shown) >= since + 4, "frames")
        (thing,) = answer_of(seen).objects
        assert thing.centroid.z == pytest.approx(millimetres / 1000, abs=0.01)
    seen.node.destroy_timer(timer)
    assert seen.lisa.said().count("image and depth have no stamps") == 1


@pytest.mark.parametrize("late_s", [0.0, 0.01], ids=["same stamp", "within the slop"])
@pytest.mark.parametrize("command", ["the box", "nothing"])
def test_mask_depth_and_calibration_come_under_one_stamp_to_a_queue_of_one(
    seen: Client, camera: DepthCamera, late_s, command
) -> None:
    heard: dict[str, list] = {"mask": [], "depth": [], "camera_info": []}
    topics = [
        seen.node.create_subscription(
            CameraInfo if name == "camera_info" else Image, f"{seen.lisa.name}/{name}", messages.append, 1
        )
        for name, messages in heard.items()
    ]
    camera.late_s = late_s
    seen.show(scene())

    def together():
        """Asks again: the node sends no depth before it has found who listens."""
        answer = seen.say(command)
        seen.spin(0.2)
        newest = [messages[-1] for messages in heard.values() if messages]
        return len(newest) == 3 and all(m.header == answer.header for m in newest) and newest

    _, depth, info = seen.wait(together, "mask, depth and camera_info under the stamp of the answer")
    assert (depth.encoding, depth.height, depth.width) == ("16UC1", *SIZE)
    np.testing.assert_array_equal(np.frombuffer(depth.data, np.uint16).reshape(SIZE), camera.depth)
    np.testing.assert_array_equal(info.k, K)
    for topic in topics:
        seen.node.destroy_subscription(topic)


def test_depth_that_does_not_belong_to_the_frame_is_not_passed_on(seen: Client, camera: DepthCamera) -> None:
    heard: list[Image] = []
    topic = seen.node.create_subscription(Image, f"{seen.lisa.name}/depth", heard.append, 1)
    seen.wait(lambda: answer_of(seen) and heard, "depth that belongs to the frame")
    camera.frame_id = "depth_optical"
    for _ in range(12):  # the history forgets what came before
        seen.show(scene())
    heard.clear()
    answer_of(seen)
    seen.spin(0.2)
    assert not heard
    seen.node.destroy_subscription(topic)


def test_nothing_found_has_no_objects(seen: Client) -> None:
    answer = seen.say("nothing")
    assert answer.status == Segmentation.NOT_FOUND
    assert not answer.objects


def cloud(client: Client, organized: bool) -> tuple[PointCloud2, np.ndarray]:
    heard = client.listen("points", PointCloud2)
    client.wait(lambda: client.node.count_publishers(f"{client.lisa.name}/points"), "publisher of points")
    stamps = []

    def shown() -> list[PointCloud2]:
        """Asks again: the node makes no cloud before it has found who listens."""
        stamps.append(answer_of(client).header.stamp)
        client.spin(0.2)
        return [c for c in heard if c.header.stamp in stamps]

    message = client.wait(shown, "point cloud")[0]
    assert [(f.name, f.datatype) for f in message.fields][:4] == [
        (n, PointField.FLOAT32) for n in ("x", "y", "z", "rgb")
    ]
    assert message.header.frame_id == "camera_optical"
    points = np.frombuffer(bytes(message.data), POINT).reshape(message.height, message.width)
    assert message.row_step == message.width * message.point_step
    return message, points


def test_points_are_published_to_whoever_listens(seen: Client) -> None:
    message, points = cloud(seen, organized=False)
    assert message.is_dense
    assert points.shape == (1, TRUTH.sum())
    np.testing.assert_allclose(points["z"], BOX_M, atol=1e-5)
    assert set(points["label"].ravel()) == {1}
    assert set(points["rgb"].ravel()) == {250 << 16 | 250 << 8 | 250}


def test_organized_points_lie_where_their_pixels_do(launch) -> None:
    client = launch(organized_points=True)
    DepthCamera(client)
    client.ready()
    client.show(scene())
    message, points = cloud(client, organized=True)
    assert not message.is_dense
    assert points.shape == SIZE
    np.testing.assert_array_equal(np.isfinite(points["z"]), TRUTH)
    row, column = np.argwhere(TRUTH)[100]
    assert points["x"][row, column] == pytest.approx((column - (SIZE[1] - 1) / 2) * BOX_M / FOCAL, abs=1e-5)


def test_without_use_depth_nothing_listens_to_depth(launch) -> None:
    client = launch(use_depth=False)
    camera = DepthCamera(client)
    client.ready()
    client.show(scene())
    assert camera._depths.get_subscription_count() == 0
    assert not answer_of(client).objects
