"""What a question may have beside its words: targets, points, a box, and masks without pixels; phrases and absent."""

import numpy as np
import pytest
from film import Film
from geometry_msgs.msg import Point32
from robot import TRUTH, pixels_of, scene, stamped
from sensor_msgs.msg import Image, RegionOfInterest

from lisa_ros.msg import Segmentation, TrackedMasks


def own_image(client) -> Image:
    return stamped(client.node, scene())


def test_targets_need_no_command_and_what_is_not_there_is_absent(client):
    answer = client.call("", own_image(client), targets=["the box", "nothing"])
    assert answer.status == Segmentation.SUCCESS, answer.message
    result = answer.segmentation
    assert [mask.phrase for mask in result.masks] == ["the box"]
    assert (result.absent, result.command) == (["nothing"], "")
    (begin,), (end,) = result.masks[0].text_begin, result.masks[0].text_end
    assert result.answer[begin:end] == "[SEG]"
    _, result = client.goal("", own_image(client), targets=["nothing"]).result()
    assert (result.status, result.segmentation.absent) == (Segmentation.NOT_FOUND, ["nothing"])


def test_two_hundred_targets_have_labels_of_their_own(client):
    names = [f"box {number}" for number in range(200)]
    result = client.call("", own_image(client), targets=names).segmentation
    assert [mask.phrase for mask in result.masks] == names
    assert [mask.label for mask in result.masks] == list(range(1, 201))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"points": [Point32(x=1.0, y=2.0)]}, "it supports explain, history"),
        ({"box": RegionOfInterest(width=5, height=5)}, "it supports explain, history"),
        ({"targets": ["cup"] * 256}, "256 targets; at most 255"),
        ({"targets": [" "]}, "a target is empty"),
    ],
)
def test_what_the_engine_cannot_be_asked_is_an_invalid_command_with_the_reason(client, fields, says):
    for answer in (
        client.call("the box", own_image(client), **fields),
        client.goal("the box", own_image(client), **fields).result()[1],
    ):
        assert answer.status == Segmentation.INVALID_COMMAND
        assert says in answer.message


def test_points_and_box_reach_an_engine_that_takes_them(launch):
    client = launch(options="[capabilities=points]")
    client.ready()
    points = [Point32(x=10.5, y=20.0), Point32(x=1.0, y=2.0)]
    box = RegionOfInterest(x_offset=1, y_offset=2, width=30, height=40)
    answer = client.call("", own_image(client), points=points, point_labels=[1, 0], box=box)
    assert answer.status == Segmentation.SUCCESS, answer.message
    assert "points [(10.5, 20.0), (1.0, 2.0)] [1, 0] box (1.0, 2.0, 30.0, 40.0)" in answer.segmentation.answer
    wrong = client.call("", own_image(client), points=points, point_labels=[1])
    assert (wrong.status, "give one for each" in wrong.message) == (Segmentation.INVALID_COMMAND, True)


def test_a_compact_goal_gets_masks_without_pixels_and_the_topics_have_them(client):
    goal = client.goal("twice slow", own_image(client), compact=True)
    result = goal.result()[1].segmentation
    masks = [mask for feedback in goal.feedback for mask in feedback.masks] + list(result.masks)
    assert len(masks) > 2
    for mask in masks:
        assert (mask.pixels.header, mask.pixels.encoding) == (result.header, "mono8")
        assert (mask.pixels.height, mask.pixels.width, len(mask.pixels.data)) == (0, 0, 0)
        assert mask.area == mask.roi.width * mask.roi.height
    full = client.heard_result(goal.request_id)
    assert [pixels_of(mask.pixels).all() for mask in full.masks] == [True, True]
    mask = client.wait(lambda: [m for m in client.heard["mask"] if m.header == result.header], "mask")[-1]
    np.testing.assert_array_equal(pixels_of(mask) > 0, TRUTH)
    answer = client.call("the box", own_image(client), compact=True).segmentation
    assert [len(mask.pixels.data) for mask in answer.masks] == [0]


def test_feedback_sends_the_pixels_of_each_mask_once_and_names_all_masks_each_time(client):
    goal = client.goal("twice slow", own_image(client))
    result = goal.result()[1].segmentation
    with_pixels = [mask.label for feedback in goal.feedback for mask in feedback.masks if len(mask.pixels.data)]
    assert with_pixels == [1, 2]
    counts = [len(feedback.masks) for feedback in goal.feedback]
    assert counts == sorted(counts)
    assert counts.count(2) > 10
    assert all(len(mask.pixels.data) for mask in result.masks)


def test_a_result_names_its_camera(launch):
    client = launch(cameras="[left, right]")
    client.ready()
    left = Film(client, camera="left")
    left.run(0.3)
    by_camera = client.wait(
        lambda: (answer := client.call("the box", camera="left")).status == Segmentation.SUCCESS and answer, "answer"
    )
    assert by_camera.segmentation.camera == "left"
    assert client.call("the box", own_image(client), camera="left").segmentation.camera == ""
    left.close()


def test_what_is_followed_keeps_its_phrase(launch):
    client = launch()
    client.ready()
    client.listen("tracked", TrackedMasks)
    film = Film(client)
    film.run(0.3)
    answer = client.say("the thing with a phrase")
    assert [mask.phrase for mask in answer.masks] == ["bright box"]
    client.wait(lambda: client.heard["tracked"], "tracked masks")
    assert [one.mask.phrase for one in client.heard["tracked"][-1].masks] == ["bright box"]
    film.close()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("wrong answer", "returned dict instead of an Answer"),
        ("wrong event", "event of type str"),
        ("be speechless", "Speechless: (no text)"),
        ("exit", "the engine has had enough"),
        ("outside", "320 x 240"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_an_internal_error_with_the_reason(client, command, says):
    worker = client.lisa.worker
    answer = client.call(command, own_image(client))
    assert answer.status == Segmentation.INTERNAL_ERROR
    assert says in answer.message
    client.works()
    assert client.lisa.worker.pid == worker.pid
