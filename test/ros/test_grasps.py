"""~/grasps beside an answer, and frames through a stand-in for tf2_ros, of which there is no wheel."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from depth_camera import BOX_M, BOX_SIZE, DepthCamera, box_centre
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from robot import Client, scene
from std_msgs.msg import Header

from lisa_ros.msg import Grasp, Grasps
from lisa_ros.perception.geometry import Object3D, fit_box, quaternion
from lisa_ros.ros.frames import Frames, matrix_of
from lisa_ros.ros.parameters import Parameters


@pytest.fixture
def listening(client: Client):
    """The shared client with a depth camera and ears for grasps."""
    camera = DepthCamera(client)
    if "grasps" not in client.heard:
        client.listen("grasps", Grasps)
    client.wait(lambda: client.node.count_publishers(f"{client.lisa.name}/grasps"), "publisher of grasps")
    client.heard["grasps"].clear()
    client.show(scene())
    set_opening(client, 0.2)  # the box is 14 cm wide
    yield client
    set_opening(client, Parameters().gripper_opening_m)
    camera.close()


def set_opening(client: Client, metres: float) -> None:
    parameter = Parameter("gripper_opening_m", value=metres).to_parameter_msg()
    reply = client.done(client.setter.call_async(SetParameters.Request(parameters=[parameter])))
    assert reply.results[0].successful


def newest(client: Client) -> Grasps:
    client.wait(lambda: client.heard["grasps"], "grasps")
    return client.heard["grasps"].pop(0)


def test_an_answer_has_points_and_a_jaw_for_its_object(listening: Client) -> None:
    answer = listening.say("the box")
    grasps = newest(listening)
    assert grasps.header == answer.header
    assert (grasps.request_id, grasps.command) == (answer.request_id, answer.command)
    kinds = [grasp.kind for grasp in grasps.grasps]
    assert kinds[0] == Grasp.SUCTION
    assert kinds[-1] == Grasp.JAW
    for grasp in grasps.grasps:
        assert (grasp.label, grasp.piece) == (1, 0)
        pose = matrix_of(grasp.pose.orientation, grasp.pose.position)
        assert pose[2, 3] == pytest.approx(BOX_M, abs=0.01)
        assert pose[2, 2] > 0.7  # into the object, away from the camera
        assert np.abs(pose[:2, 3] - box_centre()[:2]).max() < max(BOX_SIZE) / 2
        np.testing.assert_allclose([grasp.middle.x, grasp.middle.y], box_centre()[:2], atol=0.01)
        assert 0 < grasp.score <= 1
    assert grasps.grasps[-1].width == pytest.approx(min(BOX_SIZE), abs=0.01)


def test_a_jaw_that_does_not_open_wide_enough_is_left_out(listening: Client) -> None:
    set_opening(listening, 0.1)
    listening.say("the box")
    assert {grasp.kind for grasp in newest(listening).grasps} == {Grasp.SUCTION}


def test_an_answer_without_a_mask_has_an_empty_message(listening: Client) -> None:
    answer = listening.say("nothing")
    grasps = newest(listening)
    assert grasps.header == answer.header
    assert list(grasps.grasps) == []


# --- tf2


class Buffer:
    """tf2_ros.Buffer with one transform, or none."""

    known: TransformStamped | None = None

    def lookup_transform(self, target: str, source: str, time: object) -> TransformStamped:
        if Buffer.known is None:
            raise LookupError(f'"{target}" passed to lookupTransform does not exist')
        assert (target, source) == ("base", "camera")
        return Buffer.known


class Broadcaster:
    sent: list[TransformStamped] = []  # noqa: RUF012 - of the whole test

    def __init__(self, node: object) -> None:
        del node

    def sendTransform(self, transforms: list[TransformStamped]) -> None:
        Broadcaster.sent += transforms


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tf2_ros")
    module.Buffer, module.TransformBroadcaster = Buffer, Broadcaster
    module.TransformListener = lambda buffer, node: None
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    monkeypatch.setattr(Buffer, "known", None)
    monkeypatch.setattr(Broadcaster, "sent", [])


HEADER = Header(stamp=Time(sec=5), frame_id="camera")


def frames(**parameters) -> Frames:
    return Frames(SimpleNamespace(), lambda: Parameters(**parameters))


def test_the_transform_to_the_target_frame_is_tf2s(tf2: None, monkeypatch: pytest.MonkeyPatch) -> None:
    known = TransformStamped()
    known.transform.translation = Vector3(x=1.0, y=2.0, z=3.0)
    known.transform.rotation = Quaternion(x=math.sin(0.3), w=math.cos(0.3))
    monkeypatch.setattr(Buffer, "known", known)
    pose = frames(target_frame="base").to_target(HEADER)
    assert pose is not None
    np.testing.assert_allclose(pose[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(pose[:3, 1], [0, math.cos(0.6), math.sin(0.6)], atol=1e-12)
    np.testing.assert_allclose(quaternion(pose[:3, :3]), [math.sin(0.3), 0, 0, math.cos(0.3)], atol=1e-9)


def test_an_unknown_transform_is_said_once(tf2: None, caplog: pytest.LogCaptureFixture) -> None:
    unknown = frames(target_frame="base")
    assert unknown.to_target(HEADER) is None
    assert unknown.to_target(HEADER) is None
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "no transform from 'camera' to target_frame 'base'"
    ]


def test_without_tf2_the_log_says_what_to_install(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    assert frames(target_frame="base").to_target(HEADER) is None
    assert "tf2_ros is not installed, so target_frame has no effect" in caplog.text


def test_without_a_target_tf2_is_not_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    assert frames().to_target(HEADER) is None
    assert not caplog.records


def test_objects_are_frames_on_request(tf2: None) -> None:
    points = np.random.default_rng(0).uniform([-0.05, -0.05, 0.95], [0.05, 0.05, 1.05], (200, 3)).astype(np.float32)
    box = fit_box(points)
    thing = Object3D(2, points, np.zeros((200, 2), np.int32), points.mean(axis=0), box, 1.0)
    boxless = Object3D(3, points[:0], np.zeros((0, 2), np.int32), np.full(3, np.nan), None, 0.0)
    result = SimpleNamespace(frame=object(), header=HEADER, objects=[thing, boxless])
    frames().take_result(result)
    assert not Broadcaster.sent
    frames(object_frames=True).take_result(result)
    (sent,) = Broadcaster.sent
    assert (sent.header, sent.child_frame_id) == (HEADER, "object_2")
    assert box is not None
    np.testing.assert_allclose(matrix_of(sent.transform.rotation, sent.transform.translation)[:3, 3], box.centre)
