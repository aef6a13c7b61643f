"""Boxes in RViz, over DDS, and the file that shows them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml
from depth_camera import BOX_SIZE, DepthCamera, box_centre
from film import Film
from robot import Client, scene
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from lisa_ros.msg import Segmentation, TrackedMasks


@pytest.fixture
def shown(client: Client):
    """The shared client with a depth camera and ears for markers."""
    camera = DepthCamera(client)
    if "markers" not in client.heard:
        client.listen("markers", MarkerArray)
    client.wait(lambda: client.node.count_publishers(f"{client.lisa.name}/markers"), "publisher of markers")
    client.show(scene())
    client.heard["markers"].clear()
    yield client
    camera.close()


def newest(client: Client) -> list[Marker]:
    client.wait(lambda: client.heard["markers"], "markers")
    return client.heard["markers"].pop(0).markers


def xyz(point) -> list[float]:
    return [point.x, point.y, point.z]


def test_a_label_is_the_phrase_where_the_engine_gives_one(shown: Client) -> None:
    shown.say("the box with a phrase")
    assert newest(shown)[-1].text.startswith("1: bright box\n28 x 14 x")


def test_an_answer_has_a_box_with_edges_and_a_label(shown: Client) -> None:
    answer = shown.say("the box")
    first, *markers = newest(shown)
    assert first.action == Marker.DELETEALL
    assert [(m.ns, m.id, m.type) for m in markers] == [
        ("box", 1, Marker.CUBE),
        ("edges", 1, Marker.LINE_LIST),
        ("label", 1, Marker.TEXT_VIEW_FACING),
    ]
    box, edges, label = markers
    assert all(m.header == answer.header and m.action == Marker.ADD and m.color.a > 0 for m in markers)
    np.testing.assert_allclose(xyz(box.pose.position), box_centre(), atol=0.01)
    assert (box.pose, box.scale) == (answer.objects[0].box, answer.objects[0].size)
    lengths = [np.linalg.norm(np.subtract(xyz(a), xyz(b))) for a, b in zip(edges.points[::2], edges.points[1::2])]  # noqa: B905
    assert len(lengths) == 12
    np.testing.assert_allclose(sorted(lengths)[-4:], BOX_SIZE[0], atol=0.01)
    assert label.text.startswith("1: the box\n28 x 14 x")
    assert label.pose.position.y < min(point.y for point in edges.points)


def test_no_answer_and_clear_delete_the_boxes(shown: Client) -> None:
    shown.say("nothing")
    assert [m.action for m in newest(shown)] == [Marker.DELETEALL]
    clear = shown.node.create_client(Trigger, f"{shown.lisa.name}/clear")
    shown.wait(clear.service_is_ready, "service clear")
    assert shown.done(clear.call_async(Trigger.Request())).success
    assert [m.action for m in newest(shown)] == [Marker.DELETEALL]
    assert shown.say(" ").status == Segmentation.INVALID_COMMAND
    shown.spin(0.1)
    assert not shown.heard["markers"]


def test_boxes_move_with_what_is_followed_and_go_when_it_is_lost(launch) -> None:
    client = launch(search_s=0.3, redetect_period_s=0.0, marker_lifetime_s=2.5)
    client.ready()
    heard = client.listen("markers", MarkerArray)
    client.listen("tracked", TrackedMasks)
    film = Film(client, depth=True)
    film.run(0.5)
    client.wait(lambda: client.say("the thing").objects, "an answer in metres")  # depth may be late on a busy machine
    first = newest(client)
    assert first[0].action == Marker.DELETEALL
    assert first[1].lifetime.sec + first[1].lifetime.nanosec / 1e9 == 2.5
    places = []

    def moved() -> bool:
        boxes = [m for array in heard for m in array.markers if (m.ns, m.id) == ("box", 1)]
        places[:] = [xyz(m.pose.position)[:2] for m in boxes]
        return len(places) > 1 and float(np.ptp(places, axis=0).max()) > 0.03

    client.wait(moved, "a box that moves")
    film.hidden = True
    client.wait(lambda: heard[-1].markers[-1].action == Marker.DELETEALL, "no box")
    deleted = {(m.ns, m.id) for array in heard for m in array.markers if m.action == Marker.DELETE}
    assert deleted == {("box", 1), ("edges", 1), ("label", 1)}
    film.close()


def test_the_rviz_file_shows_topics_that_there_are(repository) -> None:
    config = yaml.safe_load((repository / "config" / "lisa.rviz").read_text())
    displays = {display["Class"]: display for display in config["Visualization Manager"]["Displays"]}
    assert {
        "rviz_default_plugins/Image",
        "rviz_default_plugins/PointCloud2",
        "rviz_default_plugins/MarkerArray",
    } <= set(displays)
    topics = [d["Topic"]["Value"] for d in config["Visualization Manager"]["Displays"] if "Topic" in d]
    ours = {topic.replace("/lisa/", "~/") for topic in topics if topic.startswith("/lisa/")}
    assert ours == {"~/overlay", "~/points", "~/markers", "~/tracked_overlay/compressed"}
    assert ours <= documented(repository)
    launch = (repository / "launch" / "lisa.launch.py").read_text()
    (image,) = [topic for topic in topics if not topic.startswith("/lisa/")]
    assert f'"image_topic", default_value="{image}"' in launch


def test_the_foxglove_layout_shows_topics_that_there_are(repository) -> None:
    layout = json.loads((repository / "config" / "foxglove_layout.json").read_text())
    topics = set(re.findall(r"/lisa/[\w/]+", json.dumps(layout)))
    assert {topic.replace("/lisa/", "~/") for topic in topics} <= documented(repository)
    panels = set(re.findall(r"\w+!\w+", json.dumps(layout["layout"])))
    assert panels == set(layout["configById"])


def documented(repository) -> set[str]:
    """Topics of the page of interfaces."""
    return set(re.findall(r"^\| `(~/[\w/]+)`", (repository / "docs" / "interfaces.md").read_text(), re.M))
