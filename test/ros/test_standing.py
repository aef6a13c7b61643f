"""Over DDS: ~/watch, ~/enable, min_score, ~/CAMERA/command, ~/progress and ~/tracked_overlay/compressed."""

import itertools
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from machine_speed import limit
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.msg import ParameterType as Kind
from rcl_interfaces.srv import SetParameters
from rclpy.qos import qos_profile_sensor_data
from robot import MANY, SIZE, TRUTH, scene, stamped
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status, TrackedMasks, Watch


@pytest.fixture
def watcher(client):
    """Publishes on ~/watch; what stands is ended afterwards, and commands are enabled."""
    publisher = client.node.create_publisher(Watch, f"{client.lisa.name}/watch", MANY)
    client.wait(lambda: publisher.get_subscription_count() > 0, "subscription to watch")
    yield publisher
    publisher.publish(Watch())
    client.wait(lambda: node_values(client)["watch"] == "", "end of the watch")
    client.node.destroy_publisher(publisher)


@pytest.fixture
def enable(client):
    """enable(bool) calls ~/enable; commands are enabled afterwards."""
    service = client.node.create_client(SetBool, f"{client.lisa.name}/enable")

    def enable(on: bool) -> SetBool.Response:
        client.wait(service.service_is_ready, "service enable")
        return client.insist(lambda: service.call_async(SetBool.Request(data=on)), "reply of enable")

    yield enable
    enable(True)
    client.node.destroy_client(service)


def node_status(client):
    """The node's next status on /diagnostics."""
    heard = client.heard.get("diagnostics")
    if heard is None:
        heard = client.heard["diagnostics"] = []
        client.node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    heard.clear()

    def newest():
        return [s for m in heard for s in m.status if s.name == f"{client.lisa.name}: node"]

    return client.wait(newest, "diagnostics")[-1]


def node_values(client) -> dict[str, str]:
    return {pair.key: pair.value for pair in node_status(client).values}


def watched(client, command: str | None = None) -> list[Segmentation]:
    results = [r for r in client.heard["result"] if r.source == "watch"]
    return [r for r in results if command is None or r.command == command]


def set_parameter(client, name: str, value: float) -> None:
    new = Parameter(name=name, value=ParameterValue(type=Kind.PARAMETER_DOUBLE, double_value=value))
    reply = client.insist(lambda: client.setter.call_async(SetParameters.Request(parameters=[new])), "reply")
    assert reply.results[0].successful, reply.results[0].reason


# --- ~/watch


def test_a_standing_command_is_answered_until_an_empty_one_ends_it(client, watcher):
    client.show(scene())
    begun = time.monotonic()
    watcher.publish(Watch(command="the box", rate=5.0))
    client.wait(lambda: len(watched(client)) >= 4, "four answers")
    assert len(watched(client)) <= 5.0 * (time.monotonic() - begun) + 2  # not above its rate
    answer = watched(client)[-1]
    assert (answer.status, answer.command, answer.camera) == (Segmentation.SUCCESS, "the box", "")
    assert answer.masks[0].area == TRUTH.sum()
    stamps = [r.header.stamp.sec + r.header.stamp.nanosec / 1e9 for r in watched(client)]
    assert stamps == sorted(set(stamps))  # each is about a newer frame
    watcher.publish(Watch())
    client.wait(lambda: node_values(client)["watch"] == "", "end of the watch")
    count = len(watched(client))
    client.works()
    assert node_values(client)["watch"] == "" and len(watched(client)) == count


def test_a_new_standing_command_replaces_the_old_one(client, watcher):
    client.show(scene())
    watcher.publish(Watch(command="the slow box", rate=5.0))
    client.wait(lambda: node_values(client)["watch"] == "the slow box", "watch")
    watcher.publish(Watch(command="the other box", rate=5.0))
    client.wait(lambda: len(watched(client, "the other box")) >= 2, "answers to the new one")
    assert not watched(client, "the slow box")


def test_a_persons_command_comes_before_a_standing_one(client, watcher):
    """The standing one is slower than its rate: its ticks are skipped, and its open request is given up."""
    client.show(scene())
    watcher.publish(Watch(command="the slow box", rate=30.0))
    client.wait(lambda: node_values(client)["watch"] == "the slow box", "watch")
    slow_s = limit(60) * 0.02
    for _ in range(3):
        begun = time.monotonic()
        answer = client.call("the box")
        assert answer.status == Segmentation.SUCCESS, answer.message
        assert time.monotonic() - begun < slow_s
    refused = [r for r in watched(client) if r.status not in (Segmentation.SUCCESS, Segmentation.NOT_FOUND)]
    assert not refused  # what is given up is not published
    assert client.heard["status"][-1].queued == 0
    client.wait(lambda: watched(client), "an answer to the standing command, when nobody asks", limit(60))


def test_masks_of_a_person_stay_followed_while_something_is_watched(client, watcher):
    tracked = client.listen("tracked", TrackedMasks)
    client.show(scene())
    mine = client.say("the box")
    client.wait(lambda: any(m.request_id == mine.request_id for m in tracked), "followed masks")
    watcher.publish(Watch(command="something else", rate=5.0))
    client.wait(lambda: len(watched(client)) >= 3, "answers")
    tracked.clear()
    client.wait(lambda: len(tracked) >= 3, "followed masks")
    assert {m.request_id for m in tracked} == {mine.request_id}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"rate": 0.0}, "rate is 0 Hz"),
        ({"rate": float("nan")}, "rate is nan Hz"),
        ({"rate": 1000.0}, "rate is 1000 Hz"),
        ({"rate": 2.0, "camera": "rear"}, "no camera 'rear'"),
        ({"rate": 2.0, "command": "x" * 5000}, "5000 characters"),
    ],
    ids=["no rate", "nan", "too fast", "unknown camera", "too long"],
)
def test_what_cannot_be_watched_is_logged_and_on_diagnostics(client, watcher, wrong, why):
    watcher.publish(Watch(**{"command": "the box", **wrong}))
    client.wait(lambda: why in node_status(client).message, "trouble on diagnostics")
    assert why in client.lisa.said()
    assert node_values(client)["watch"] == ""
    client.works()


def test_a_watch_without_images_says_so_and_goes_on_when_they_come(client, watcher):
    watcher.publish(Watch(command="the box", rate=5.0))
    client.wait(lambda: "NO_IMAGE" in node_status(client).message, "trouble on diagnostics")
    assert not watched(client)
    client.show(scene())
    client.wait(lambda: watched(client), "an answer")


# --- ~/enable


def test_disabled_commands_are_answered_not_ready_with_the_remedy(client, watcher, enable):
    client.show(scene())
    tracked = client.listen("tracked", TrackedMasks)
    mine = client.say("the box")
    watcher.publish(Watch(command="the box", rate=10.0))
    client.wait(lambda: watched(client) and tracked, "answers")
    slow = client.goal("the slow box")
    slow.reach(3)

    assert enable(False).success
    assert slow.result()[1].status == Segmentation.NOT_READY
    for answer in (client.call("the box"), client.say("the box")):
        assert answer.status == Segmentation.NOT_READY
        assert "~/enable" in answer.message
    client.state(Status.INACTIVE, "disabled node")
    assert "~/enable" in client.heard["status"][-1].message
    assert node_values(client)["enabled"] == "False"
    client.spin(0.2)
    tracked.clear()
    count = len(watched(client))
    shown = len(client.shown)
    client.wait(lambda: len(client.shown) >= shown + 10, "frames")
    assert not tracked and len(watched(client)) == count

    reply = enable(True)
    assert reply.success and "taken" in reply.message
    client.state(Status.READY, "enabled node")
    client.wait(lambda: tracked and len(watched(client)) > count, "followed masks and answers")
    assert mine.status == Segmentation.SUCCESS
    client.works()


# --- min_score


def test_masks_below_min_score_are_left_out(client):
    image = stamped(client.node, scene())
    first = client.call("the box twice", image)
    scores = [mask.score for mask in first.segmentation.masks]
    assert len(scores) == 2 and max(scores) < 0.95
    try:
        set_parameter(client, "min_score", 0.95)
        goal = client.goal("the box twice", image)
        answer = goal.result()[1]
        assert answer.status == Segmentation.NOT_FOUND and not answer.segmentation.masks
        assert "min_score" in answer.message and f"{max(scores):.2f}" in answer.message
        assert not any(feedback.masks for feedback in goal.feedback)
        set_parameter(client, "min_score", min(scores))
        assert len(client.call("the box twice", image).segmentation.masks) == 2
    finally:
        set_parameter(client, "min_score", 0.0)
    assert len(client.call("the box twice", image).segmentation.masks) == 2


# --- ~/CAMERA/command


def test_every_named_camera_has_a_command_topic(launch):
    client = launch(cameras="[front,arm/wrist]")
    client.ready()
    results = []
    for name, area in (("front", (0, 40)), ("arm/wrist", (40, 120))):
        images = client.node.create_publisher(Image, f"{name}/image", qos_profile_sensor_data)
        commands = client.node.create_publisher(String, f"{client.lisa.name}/{name}/command", MANY)
        client.wait(lambda c=commands: c.get_subscription_count() > 0, "subscription")
        truth = np.zeros(SIZE, bool)
        truth[area[0] : area[1], 100:200] = True
        client.node.create_timer(
            0.05, lambda p=images, t=truth: p.publish(stamped(client.node, scene(truth=t), frame_id="x"))
        )
        client.wait(lambda p=images: p.get_subscription_count() > 0, "subscription to the image")

        def answer(commands=commands, name=name):
            commands.publish(String(data="the box"))
            client.spin(0.2)
            done = [r for r in client.heard["result"] if r.status == Segmentation.SUCCESS and r.camera == name]
            return done or None

        results.append((client.wait(answer, f"answer about {name}")[-1], truth.sum()))
    assert [result.camera for result, _ in results] == ["front", "arm/wrist"]
    assert [int(result.masks[0].area) for result, _ in results] == [int(area) for _, area in results]
    assert {result.source for result, _ in results} == {"topic"}


# --- ~/progress

LISTENER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile
from lisa_ros.msg import Progress, Segmentation
rclpy.init()
node = rclpy.create_node("somebody_else")
heard, ended = [], []
node.create_subscription(Progress, sys.argv[1] + "/progress", heard.append, QoSProfile(depth=100))
node.create_subscription(Segmentation, sys.argv[1] + "/result", ended.append, QoSProfile(depth=100))
while not (node.count_publishers(sys.argv[1] + "/progress") and node.count_publishers(sys.argv[1] + "/result")):
    rclpy.spin_once(node, timeout_sec=0.05)
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and not any(r.command == "the slow box twice" for r in ended):
    rclpy.spin_once(node, timeout_sec=0.05)
for p in heard:
    print(p.request_id, p.source, p.stage, p.masks, p.command, "|", p.partial_answer, flush=True)
rclpy.shutdown()
"""


def test_a_goal_of_one_client_is_seen_by_another_process(client):
    topic = f"{client.lisa.name}/progress"
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER, client.lisa.name, str(limit(60))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        client.wait(
            lambda: any(i.node_name == "somebody_else" for i in client.node.get_subscriptions_info_by_topic(topic)),
            "the other process's subscription",
        )
        goal = client.goal("the slow box twice", stamped(client.node, scene()))
        assert goal.result()[1].status == Segmentation.SUCCESS
        lines = process.communicate(timeout=limit(90))[0].splitlines()
    finally:
        process.kill()
        process.wait()
    fields = [line.split(" ", 4) for line in lines if "the slow box twice" in line]
    assert fields and {f[0] for f in fields} == {goal.request_id} and {f[1] for f in fields} == {"action"}
    stages = [int(f[2]) for f in fields]
    assert {Segment.Feedback.STAGE_ENCODING, Segment.Feedback.STAGE_GENERATING} <= set(stages)
    assert [int(f[3]) for f in fields] == sorted(int(f[3]) for f in fields) and int(fields[-1][3]) == 2
    texts = [f[4].split("| ", 1)[1] for f in fields]
    assert any(texts) and all(new.startswith(old) for old, new in itertools.pairwise(texts))


# --- ~/tracked_overlay/compressed


def test_followed_masks_are_drawn_on_live_frames_for_a_subscriber_only(client):
    client.show(scene())
    client.say("the box")
    pictures = client.listen("tracked_overlay/compressed", CompressedImage, qos_profile_sensor_data)
    client.wait(lambda: len(pictures) >= 3, "drawn frames")
    newest = pictures[-1]
    assert "jpeg" in newest.format
    assert (newest.header.stamp.sec, newest.header.stamp.nanosec) in client.shown
    assert newest.header.frame_id == "camera_optical"
    picture = cv2.imdecode(np.frombuffer(newest.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (*SIZE, 3)
    inside, outside = picture[80:110, 120:200].reshape(-1, 3), picture[150:230, 20:300].reshape(-1, 3)
    assert np.ptp(inside.mean(axis=0)) > 30  # the box was grey: it has its mask's colour now
    assert np.ptp(outside.mean(axis=0)) < 5
