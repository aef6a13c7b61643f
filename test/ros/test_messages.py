"""Codes, messages and topics agree with the interface files."""

import numpy as np
import pytest
import rclpy
from robot import scene
from std_msgs.msg import Header

from lisa_ros.action import Segment
from lisa_ros.engine.api import Ask, Region, crop_mask
from lisa_ros.msg import Segmentation
from lisa_ros.msg import Status as StatusMessage
from lisa_ros.perception.geometry import Camera, locate
from lisa_ros.ros.diagnostics import Mismatches
from lisa_ros.ros.messages import (
    compact_segmentation,
    feedback_message,
    image_message,
    segmentation_message,
)
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.pictures import Pictures
from lisa_ros.ros.publishers import Publishers
from lisa_ros.runtime.requests import Frame, Progress, Result
from lisa_ros.runtime.status import Stage, State, Status
from lisa_ros.srv import SegmentImage


def constants(kind):
    """Names and values of a message's constants."""
    return {name: getattr(kind, name) for name in dir(kind) if name.isupper() and isinstance(getattr(kind, name), int)}


@pytest.mark.parametrize("kind", [Segmentation, Segment.Result, SegmentImage.Response])
def test_statuses_are_those_of_the_files(kind):
    assert constants(kind) == {status.name: status.value for status in Status}


def test_states_and_stages_are_those_of_the_files():
    assert constants(StatusMessage) == {state.name: state.value for state in State}
    assert constants(Segment.Feedback) == {f"STAGE_{stage.name}": stage.value for stage in Stage}


def test_an_image_message_holds_the_pixels_row_by_row():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    message = image_message(Header(frame_id="x"), pixels[:, ::2], "mono8")
    assert (message.height, message.width, message.step, message.header.frame_id) == (4, 3, 3, "x")
    assert bytes(message.data) == pixels[:, ::2].tobytes()


def test_a_refusal_without_an_image_has_an_empty_header():
    message = segmentation_message(Result(Status.BUSY, "later", "id", Ask("the box")))
    assert (message.header, message.status, message.message) == (Header(), Segmentation.BUSY, "later")


def test_a_listener_that_fails_keeps_no_other_from_the_answer(context):
    node = rclpy.create_node("publishers_test", context=context)
    publishers = Publishers(node, Parameters, Mismatches(node), lambda call: call())
    heard, refusal = [], Result(Status.BUSY, "later", "id", Ask("the box"))
    publishers.listeners[:] = [lambda result: 1 / 0, heard.append]
    publishers.publish_result(refusal)
    assert heard == [refusal]
    node.destroy_node()


def test_masks_without_a_subscriber_are_not_rendered_and_a_result_becomes_a_message_once(context, monkeypatch):
    node = rclpy.create_node("publishers_test", context=context)
    publishers = Publishers(node, Parameters, Mismatches(node), lambda call: call())
    rendered, made = [], []
    monkeypatch.setattr("lisa_ros.ros.publishers.union_image", lambda *_: rendered.append("mask"))
    monkeypatch.setattr("lisa_ros.ros.publishers.labels_image", lambda *_: rendered.append("labels"))
    message = segmentation_message
    monkeypatch.setattr("lisa_ros.ros.messages.segmentation_message", lambda one: made.append(one) or message(one))
    result = Result(Status.SUCCESS, "", "id", Ask("the box"), header=Header(), frame=frame_of(Header()))
    publishers.publish_result(result)
    assert publishers.messages.of(result).command == "the box"
    assert (rendered, made) == ([], [result])
    node.destroy_node()


def frame_of(header):
    return Frame(header, scene())


def boxes():
    """Two regions as an engine gives them."""
    mask = scene()[:, :, 0] > 100
    return [Region(crop_mask(mask, n, 0.5), 0.5, name, spans=((0, 3), (4, 7))) for n, name in ((1, "cup"), (2, "mug"))]


def test_a_mask_has_its_phrase_and_the_places_that_mention_it():
    result = Result(Status.SUCCESS, "", "id", Ask("x"), regions=boxes(), absent=["unicorn"], camera="left")
    message = segmentation_message(result)
    assert (message.camera, message.absent) == ("left", ["unicorn"])
    assert [mask.phrase for mask in message.masks] == ["cup", "mug"]
    assert [(list(mask.text_begin), list(mask.text_end)) for mask in message.masks] == [([0, 4], [3, 7])] * 2


def test_a_compact_result_has_everything_but_pixels_and_the_full_one_is_left_alone():
    full = segmentation_message(
        Result(Status.SUCCESS, "", "id", Ask("x"), header=Header(frame_id="f"), regions=boxes())
    )
    compact = compact_segmentation(full)
    for small, large in zip(compact.masks, full.masks, strict=True):
        assert (small.pixels.header, small.pixels.encoding) == (large.pixels.header, "mono8")
        assert (small.pixels.height, small.pixels.width, len(small.pixels.data)) == (0, 0, 0)
        assert len(large.pixels.data) == large.roi.height * large.roi.width > 0
        small.pixels = large.pixels
    assert compact == full


def test_feedback_has_the_pixels_of_new_masks_only():
    progress = Progress(Stage.GENERATING, "Both", boxes(), new=1, frame=frame_of(Header()))
    assert [len(mask.pixels.data) > 0 for mask in feedback_message(progress).masks] == [False, True]
    assert not any(len(mask.pixels.data) for mask in feedback_message(progress, compact=True).masks)


class Publisher:
    """Of pictures, to so many."""

    def __init__(self, subscribers):
        self.subscribers, self.published = subscribers, []
        self.publish = self.published.append

    def get_subscription_count(self):
        return self.subscribers


class Album:
    """Pictures with everything around them made up. later: what is to be done on the other thread."""

    def __init__(self, overlay=1, points=1):
        self.overlay, self.points = Publisher(overlay), Publisher(points)
        self.later = []
        self.pictures = Pictures(self.overlay, self.points, Parameters, self.later.append)

    def answer(self, **fields):
        header = Header(frame_id=f"frame {len(self.later)}")
        usual = {"header": header, "frame": Frame(header, scene()), "regions": boxes()[:1]}
        self.pictures.take_result(Result(Status.SUCCESS, "", "id", Ask("the box"), **{**usual, **fields}))

    def draw(self):
        while self.later:
            self.later.pop(0)()


def test_pictures_are_drawn_elsewhere_and_of_the_frame_that_the_answer_is_about():
    album = Album()
    depth = np.ones(scene().shape[:2], np.float32)
    crop = crop_mask(scene()[:, :, 0] > 100, 1, 0.5)
    thing = locate(crop, depth, Camera.from_matrix([300, 0, 160, 0, 300, 120, 0, 0, 1], 320, 240))
    album.answer(objects=[thing])
    assert not album.overlay.published
    album.draw()
    [overlay], [cloud] = album.overlay.published, album.points.published
    assert overlay.header == cloud.header == Header(frame_id="frame 0")
    assert np.frombuffer(overlay.data, np.uint8).reshape(scene().shape)[0, 0].tolist() == [20, 20, 20]
    assert cloud.width == len(thing.points)


def test_nothing_is_drawn_for_nobody_of_no_answer_and_without_depth():
    album = Album(overlay=0, points=1)
    album.answer()
    album.answer(frame=None)
    assert not album.later
    album = Album(overlay=1)
    album.answer(frame=None)
    assert not album.later


def test_older_pictures_are_left_out_where_drawing_does_not_keep_up():
    album = Album(points=0)
    for _ in range(5):
        album.answer()
    album.draw()
    assert [picture.header.frame_id for picture in album.overlay.published] == ["frame 3", "frame 4"]
    album.answer()
    album.draw()
    assert len(album.overlay.published) == 3


def test_a_picture_that_fails_keeps_no_other_back(caplog):
    album = Album(points=0)
    album.answer(regions=["no region"])
    album.answer()
    album.draw()
    assert len(album.overlay.published) == 1
    assert "Traceback" in caplog.text
