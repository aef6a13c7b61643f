"""Commands by topic, action and service become masks and answers."""

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import SIZE, TRUTH, pixels_of, scene, stamp, stamped
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status


def outputs(client, header, *topics):
    """The newest message of each topic that is about the frame of ``header``, once each has one."""

    def of(topic):
        return [message for message in client.heard[topic] if message.header == header]

    client.wait(lambda: all(of(topic) for topic in topics), f"messages on {topics}")
    return [of(topic)[-1] for topic in topics]


def test_a_command_on_the_topic_publishes_the_mask_of_the_frame(client):
    client.show(scene())
    answer = client.say("the box")
    mask, labels, info = outputs(client, answer.header, "mask", "labels", "camera_info")
    assert (answer.status, answer.message, answer.command) == (Segmentation.SUCCESS, "", "the box")
    assert answer.answer.startswith("Sure, [SEG].")
    assert stamp(answer.header) in client.shown
    assert mask.header.frame_id == "camera_optical"
    assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", *SIZE, SIZE[1])
    np.testing.assert_array_equal(pixels_of(mask), np.where(TRUTH, 255, 0))
    np.testing.assert_array_equal(pixels_of(labels), np.where(TRUTH, 1, 0))
    assert (info.height, info.width) == SIZE
    assert client.wait(lambda: client.heard["answer"], "words")[-1].data == answer.answer


def test_a_result_has_the_mask_as_a_crop_with_its_measures(client):
    client.show(scene())
    result = client.say("the box")
    [mask] = result.masks
    assert (mask.roi.x_offset, mask.roi.y_offset, mask.roi.width, mask.roi.height) == (100, 60, 120, 60)
    assert (mask.label, mask.area, mask.pixels.encoding) == (1, 120 * 60, "mono8")
    assert (mask.centroid_px.x, mask.centroid_px.y) == (159.5, 89.5)
    assert mask.score == pytest.approx(0.9)
    assert set(mask.pixels.data) == {255}
    assert mask.pixels.header == result.header
    assert (result.model, result.precision) == ("stand-in", "fp32")
    assert 0 < result.generate_s <= result.total_s
    assert 0 <= result.image_age_s < 5


def test_nothing_found_is_an_all_zero_mask_with_the_stamp_of_the_frame(client):
    client.show(scene())
    result = client.say("nothing")
    [mask] = outputs(client, result.header, "mask")
    assert result.status == Segmentation.NOT_FOUND
    assert (result.answer.split(" frame")[0], result.masks) == ("There is none.", [])
    assert stamp(mask.header) in client.shown
    assert pixels_of(mask).shape == SIZE
    assert not pixels_of(mask).any()


def test_several_masks_have_labels_of_their_own(client):
    client.show(scene())
    result = client.say("twice")
    mask, labels = outputs(client, result.header, "mask", "labels")
    assert [m.label for m in result.masks] == [1, 2]
    np.testing.assert_array_equal(pixels_of(mask) > 0, TRUTH)
    assert set(np.unique(pixels_of(labels))) == {0, 1, 2}
    assert [m.header for m in client.heard["mask"]].count(result.header) == 1  # one for a command, complete


def test_masks_go_out_early_where_that_is_wanted(launch):
    client = launch(early_mask="true")
    client.ready()
    client.show(scene())
    result = client.say("twice")
    client.wait(lambda: [m.header for m in client.heard["mask"]] == [result.header] * 2, "two masks of one frame")
    np.testing.assert_array_equal(pixels_of(client.heard["mask"][-1]) > 0, TRUTH)


def test_the_action_shows_stages_words_and_masks_before_its_result(client):
    client.show(scene())
    goal = client.goal("slow box")
    goal.reach(Segment.Feedback.STAGE_GENERATING)
    client.wait(lambda: any(f.masks for f in goal.feedback), "masks in the feedback")
    assert not goal.result_future.done()
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Segmentation.SUCCESS)
    with_mask = next(f for f in goal.feedback if f.masks)
    assert with_mask.masks[0] == result.segmentation.masks[0]
    partial = [f.partial_answer for f in goal.feedback]
    assert all(result.segmentation.answer.startswith(text) for text in partial)
    assert sorted(partial, key=len) == partial
    assert result.segmentation == client.heard_result(goal.request_id)


def test_the_action_takes_an_image_of_the_callers_own(client):
    image = stamped(client.node, scene()[:, :, ::-1].copy(), "bgr8", "hand_camera")
    status, result = client.goal("the box", image).result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Segmentation.SUCCESS)
    assert result.segmentation.header == image.header
    assert outputs(client, image.header, "mask")
    assert not client.heard["camera_info"]  # of another camera: what is known is not about this image


def test_the_service_answers_about_the_image_it_gets(client):
    image = stamped(client.node, scene())
    answer = client.call("the box", image)
    assert (answer.status, answer.message) == (Segmentation.SUCCESS, "")
    assert answer.segmentation.header == image.header
    assert answer.segmentation == client.heard_result(answer.segmentation.request_id)


def test_the_service_without_an_image_takes_the_cameras(client):
    client.show(scene())
    answer = client.call("the box")
    assert answer.status == Segmentation.SUCCESS
    assert stamp(answer.segmentation.header) in client.shown


def test_a_frame_is_encoded_once_for_several_commands(client):
    image = stamped(client.node, scene())
    first, second = client.call("the box", image), client.call("the box again", image)
    assert first.segmentation.answer.split("frame")[1] == second.segmentation.answer.split("frame")[1]
    assert second.segmentation.encode_s == 0


def test_a_session_remembers_and_is_cleared_on_request(client):
    image = stamped(client.node, scene())
    turns = [client.call("the box", image, session="kitchen").segmentation.answer for _ in range(2)]
    assert ["turn 0" in turns[0], "turn 1" in turns[1]] == [True, True]
    assert "turn 0" in client.call("the box", image, session="garage").segmentation.answer
    assert "turn" not in client.call("the box", image).segmentation.answer
    cleared = client.done(client.clear.call_async(Trigger.Request()))
    assert cleared.success
    assert "turn 0" in client.call("the box", image, session="kitchen").segmentation.answer


def test_the_overlay_is_published_to_those_who_look(client):
    client.show(scene())
    overlays = client.listen("overlay", Image)
    client.wait(lambda: client.node.count_publishers(f"{client.lisa.name}/overlay") > 0, "overlay publisher")
    # The subscription is seen by the node some time after it is made.
    client.wait(lambda: client.say("the box") and overlays, "overlay")
    overlay = overlays[-1]
    picture = np.frombuffer(overlay.data, np.uint8).reshape(*SIZE, 3)
    assert (overlay.encoding, stamp(overlay.header) in client.shown) == ("rgb8", True)
    np.testing.assert_array_equal(picture[200:], scene()[200:])
    assert (picture[80:100, 120:200] != 250).any(axis=2).all()


def test_a_late_listener_learns_the_state(client):
    late, latched = [], QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listener = client.node.create_subscription(Status, f"{client.lisa.name}/status", late.append, latched)
    client.wait(lambda: late, "status")
    client.node.destroy_subscription(listener)
    assert (late[-1].state, late[-1].progress, late[-1].model) == (Status.READY, 1.0, "stand-in")
    assert (late[-1].device, late[-1].precision) == ("cpu", "fp32")


def test_loading_is_shown_and_commands_meanwhile_are_not_ready(launch, tmp_path):
    gate = tmp_path / "gate"
    client = launch(options=f"[loading=gated, 'gate={gate}']")
    client.wait(client.service.service_is_ready, "service")
    client.meet()
    for answer in (
        client.call("the box", stamped(client.node, scene())),
        client.goal("the box", stamped(client.node, scene())).result()[1],
        client.say("the box"),
    ):
        assert answer.status == Segmentation.NOT_READY
        assert "being loaded" in answer.message
    client.state(Status.LOADING, "loading state")
    gate.touch()
    client.ready()
    progress = [s.progress for s in client.heard["status"] if s.state == Status.LOADING]
    assert (progress, progress[-1]) == (sorted(progress), 1.0)
    client.works()


def test_what_the_worker_logs_is_in_the_nodes_log(client):
    client.call("log the box", stamped(client.node, scene()))
    client.wait(lambda: "logged by the worker" in client.lisa.said(), "line in the log")
