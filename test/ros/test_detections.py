"""Answers as vision_msgs where that package is there, and a word in the log where it is not."""

from __future__ import annotations

import importlib.util

import pytest
from depth_camera import DepthCamera
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import Client, scene, stamped

from lisa_ros.msg import Segmentation

INSTALLED = importlib.util.find_spec("vision_msgs") is not None
TOPICS = ("detections", "detections_3d", "label_info")


@pytest.mark.skipif(INSTALLED, reason="vision_msgs is installed here")
def test_without_vision_msgs_the_node_says_so_once_and_works(client: Client) -> None:
    for _ in range(2):
        assert client.call("the box", stamped(client.node, scene())).status == Segmentation.SUCCESS
    assert client.lisa.said().count("vision_msgs is not installed") == 1
    assert not any(client.node.count_publishers(f"{client.lisa.name}/{topic}") for topic in TOPICS)


@pytest.fixture
def listening(client: Client):
    msg = pytest.importorskip("vision_msgs.msg", reason="there is no wheel of vision_msgs; ROS installations have it")
    camera = DepthCamera(client)
    for topic, kind in zip(TOPICS, (msg.Detection2DArray, msg.Detection3DArray), strict=False):
        if topic not in client.heard:
            client.listen(topic, kind)
        client.wait(lambda topic=topic: client.node.count_publishers(f"{client.lisa.name}/{topic}"), topic)
        client.heard[topic].clear()
    client.show(scene())
    yield client
    camera.close()


def heard(client: Client, topic: str):
    client.wait(lambda: client.heard[topic], topic)
    return client.heard[topic].pop(0)


def test_an_answer_is_detections_in_the_image_and_in_metres(listening: Client) -> None:
    from vision_msgs.msg import LabelInfo

    answer = listening.say("the box")
    flat, solid = heard(listening, "detections"), heard(listening, "detections_3d")
    assert flat.header == solid.header == answer.header
    (one,), (other,) = flat.detections, solid.detections
    assert (one.id, other.id, one.header, other.header) == ("1", "1", answer.header, answer.header)
    for found in (one.results[0].hypothesis, other.results[0].hypothesis):
        assert found.class_id == "the box"
        assert found.score == pytest.approx(answer.masks[0].score)
    roi, box = answer.masks[0].roi, one.bbox
    assert (box.size_x, box.size_y) == (roi.width, roi.height)
    assert box.center.position.x - (box.size_x - 1) / 2 == roi.x_offset
    assert box.center.position.y - (box.size_y - 1) / 2 == roi.y_offset
    assert (other.bbox.center, other.bbox.size) == (answer.objects[0].box, answer.objects[0].size)
    assert other.results[0].pose.pose == answer.objects[0].box
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listening.listen("label_info", LabelInfo, latched)  # only now: it is kept for those who come late
    info = heard(listening, "label_info")
    assert info.header == answer.header
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(1, "the box")]


def test_the_class_is_the_phrase_where_the_engine_gives_one(listening: Client) -> None:
    listening.say("the box with a phrase")
    for topic in TOPICS[:2]:
        assert heard(listening, topic).detections[0].results[0].hypothesis.class_id == "bright box"


def test_not_found_is_empty_arrays(listening: Client) -> None:
    answer = listening.say("nothing")
    for topic in TOPICS[:2]:
        array = heard(listening, topic)
        assert (array.header, list(array.detections)) == (answer.header, [])
