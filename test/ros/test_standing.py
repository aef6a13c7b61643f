"""Standing commands, the switch of the node, command topics of cameras, the least score, progress for everybody."""

from __future__ import annotations

import io

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, KeyValue
from PIL import Image as Picture
from robot import TRUTH, Client, scene, stamped
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from std_srvs.srv import SetBool

from lisa_ros.msg import Progress, Segmentation, Status, TrackedMasks, Watch
from lisa_ros.ros.endpoints import REQUESTS


@pytest.fixture
def watch(client: Client):
    """watch(command, rate): publishes a standing command; ended after the test."""
    publisher = client.node.create_publisher(Watch, f"{client.lisa.name}/watch", REQUESTS)

    def watch(command: str, rate: float = 20.0, camera: str = "") -> None:
        client.wait(lambda: publisher.get_subscription_count() > 0, "subscription to watch")
        publisher.publish(Watch(command=command, rate=rate, camera=camera))

    client.show(scene())
    yield watch
    watch("")
    client.node.destroy_publisher(publisher)


def of_watch(client: Client) -> list[Segmentation]:
    return [result for result in client.heard["result"] if result.source == "watch"]


def test_a_standing_command_is_answered_again_and_again_until_it_ends(client: Client, watch) -> None:
    watch("the box")
    client.wait(lambda: len(of_watch(client)) >= 5, "five answers")
    assert all(result.status == Segmentation.SUCCESS and result.command == "the box" for result in of_watch(client))
    assert len({result.request_id for result in of_watch(client)}) == len(of_watch(client))
    watch("nothing")  # a new one replaces it
    client.wait(lambda: of_watch(client)[-1].status == Segmentation.NOT_FOUND, "answer to the new one")
    watch("")
    client.works()
    count = len(of_watch(client))
    for _ in range(3):  # each is answered after what came before it
        client.works()
    assert len(of_watch(client)) <= count + 1  # one may have been under way


def test_people_come_before_a_standing_command(client: Client, watch) -> None:
    heard = client.listen("progress", Progress)
    watch("slowly, the box")
    client.wait(lambda: any(one.source == "watch" for one in heard), "work on the standing command")
    answer = client.call("the box")
    assert answer.status == Segmentation.SUCCESS
    client.wait(lambda: of_watch(client), "end of the running one")
    assert of_watch(client)[0].status == Segmentation.CANCELED
    assert "a person's command comes first" in of_watch(client)[0].message


@pytest.mark.parametrize(
    ("rate", "camera", "reason"),
    [
        (0.0, "", "0 Hz"),
        (-1.0, "", "-1 Hz"),
        (float("nan"), "", "nan Hz"),
        (31.0, "", "31 Hz"),
        (1e-30, "", "1e-30 Hz"),
        (5.0, "roof", "roof"),
    ],
)
def test_a_standing_command_that_cannot_be_is_answered_once(client: Client, watch, rate, camera, reason) -> None:
    def refused() -> list[Segmentation]:
        return [result for result in of_watch(client) if result.status == Segmentation.INVALID_COMMAND]

    watch("the box", rate, camera)
    client.wait(refused, "answer")
    client.works()
    client.works()
    (answer,) = refused()
    assert reason in answer.message


def test_a_disabled_node_takes_no_commands_and_no_pictures(client: Client, watch) -> None:
    enable = client.node.create_client(SetBool, f"{client.lisa.name}/enable")
    client.wait(enable.service_is_ready, "service enable")
    watch("the box")
    client.wait(lambda: of_watch(client), "an answer")
    assert client.done(enable.call_async(SetBool.Request(data=False))).success
    client.state(Status.INACTIVE, "state of a disabled node")
    client.wait(lambda: client.images.get_subscription_count() == 0, "the end of the subscription")
    answer = client.call("the box", stamped(client.node, scene()))
    assert answer.status == Segmentation.NOT_READY
    assert "~/enable" in answer.message
    count = len(of_watch(client))
    assert client.done(enable.call_async(SetBool.Request(data=True))).success
    client.state(Status.READY, "enabled node")
    client.wait(lambda: len(of_watch(client)) > count, "the standing command goes on")
    client.works()


def test_a_standing_command_waits_for_pictures_and_is_on_diagnostics(client: Client, watch) -> None:
    heard: list[DiagnosticArray] = []
    subscription = client.node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
    client.view = None
    client.wait(lambda: client.call("the box").status == Segmentation.NO_IMAGE, "old pictures")
    watch("the box")
    client.wait(lambda: of_watch(client), "an answer")
    assert of_watch(client)[-1].status == Segmentation.NO_IMAGE
    name = f"{client.lisa.name}: node"
    values = "the box (20 Hz)"
    client.wait(
        lambda: any(
            KeyValue(key="watch", value=values) in one.values for a in heard for one in a.status if one.name == name
        ),
        "the standing command on /diagnostics",
    )
    client.show(scene())
    client.wait(lambda: of_watch(client)[-1].status == Segmentation.SUCCESS, "an answer with a picture")
    client.node.destroy_subscription(subscription)


def test_masks_below_the_least_score_are_left_out(launch) -> None:
    client = launch(min_score=0.95)  # the stand-in's are 0.9
    client.ready()
    client.show(scene())
    goal = client.goal("the box")
    _, result = goal.result()
    assert result.status == Segmentation.NOT_FOUND
    assert "the best has 0.90, 0.95 is needed" in result.message
    assert not any(feedback.masks for feedback in goal.feedback)
    assert not result.segmentation.masks


def test_each_camera_has_a_command_topic(launch) -> None:
    client = launch(cameras="[left, right]")
    client.ready()
    publisher = client.node.create_publisher(String, f"{client.lisa.name}/right/command", REQUESTS)
    client.wait(lambda: publisher.get_subscription_count() > 0, "subscription")
    publisher.publish(String(data="the box"))
    client.wait(lambda: client.heard["result"], "answer")
    assert (client.heard["result"][0].camera, client.heard["result"][0].status) == ("right", Segmentation.NO_IMAGE)


def test_followed_masks_are_drawn_on_their_frames(client: Client) -> None:
    tracked = client.listen("tracked", TrackedMasks)
    drawn = client.listen("tracked_overlay/compressed", CompressedImage)
    client.show(scene())
    assert client.say("the box").status == Segmentation.SUCCESS
    client.wait(lambda: drawn and tracked, "followed masks")
    rgb = np.asarray(Picture.open(io.BytesIO(drawn[-1].data)).convert("RGB")).astype(int)
    assert rgb.shape[:2] == TRUTH.shape
    coloured = rgb.max(axis=2) - rgb.min(axis=2) > 40
    assert (coloured & TRUTH).sum() > 0.8 * TRUTH.sum()
    assert drawn[-1].header.frame_id == "camera_optical"
