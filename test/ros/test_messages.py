"""Codes, messages and topics agree with the interface files."""

from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from robot import scene, wait_for
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation
from lisa_ros.msg import Status as StatusMessage
from lisa_ros.ros import topics
from lisa_ros.ros.messages import image_message, segmentation_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.requests import Answer, Frame
from lisa_ros.ros.status import Stage, State, Status
from lisa_ros.segmentation import crop_mask
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
    message = segmentation_message(Answer(Status.BUSY, "later", "id", "the box"))
    assert (message.header, message.status, message.message) == (Header(), Segmentation.BUSY, "later")


def test_the_overlay_is_not_drawn_for_nobody(context, monkeypatch):
    drawn = []
    monkeypatch.setattr(topics, "draw_overlay", lambda *values: drawn.append(values) or scene())
    node = rclpy.create_node("overlay_test", context=context)
    frames = SimpleNamespace(pixels=lambda frame: scene(), camera_info=lambda frame: None)
    out = topics.Topics(node, frames, Parameters)
    frame = Frame(Header(), scene().shape[:2], 0.0)
    crops = [crop_mask(scene()[:, :, 0] > 100, 1, 0.5)]
    answer = Answer(Status.SUCCESS, "", "id", "the box", header=frame.header, frame=frame, crops=crops)
    out.publish_answer(answer)
    assert not drawn
    listener = rclpy.create_node("overlay_listener", context=context)
    listener.create_subscription(Image, "/overlay_test/overlay", lambda message: None, 1)
    wait_for(out._overlay.get_subscription_count, "listener to the overlay")
    out.publish_answer(answer)
    assert len(drawn) == 1
    node.destroy_node()
    listener.destroy_node()
