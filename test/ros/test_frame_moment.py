"""Depth and calibration of the moment that a frame is of, also where stamps say nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from lisa_ros.engine.api import MaskCrop
from lisa_ros.ros.depths import Depths
from lisa_ros.ros.frame_store import FrameStore
from lisa_ros.ros.messages import image_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Frame

SIZE = HEIGHT, WIDTH = 48, 64
FOCAL = 60.0
CROP = MaskCrop(1, 16, 12, 32, 24, np.full((24, 32), 255, np.uint8), 1.0, 32 * 24, (31.5, 23.5))
PLUMB_BOB = {"distortion_model": "plumb_bob", "d": [-0.2, 0.1, 0.0, 0.0, 0.0]}


def header(seconds: float) -> Header:
    made = Header(frame_id="optical")
    made.stamp.sec, made.stamp.nanosec = divmod(round(seconds * 1e9), 10**9)
    return made


def matrix(focal: float) -> list[float]:
    return [focal, 0.0, (WIDTH - 1) / 2, 0.0, 0.0, focal, (HEIGHT - 1) / 2, 0.0, 0.0, 0.0, 1.0, 0.0]


class Rig:
    """A frame store and its depths, fed with serialized messages."""

    def __init__(self, topic: str = "/camera/image_raw", now_s: float = 100.0) -> None:
        self.now_s = now_s
        self.frames = FrameStore(Parameters, lambda: topic, lambda: self.now_s)
        self.depths = Depths(Parameters, lambda: topic, self.frames.camera_info)

    def info(self, seconds: float, focal: float = FOCAL, **fields) -> None:
        fields = {"height": HEIGHT, "width": WIDTH, "p": matrix(focal), **fields}
        self.frames.keep_info(serialize_message(CameraInfo(header=header(seconds), **fields)))

    def depth(self, seconds: float, value: float, kind=np.uint16, size=SIZE) -> None:
        pixels = np.full(size, value, kind)
        encoding = "16UC1" if kind is np.uint16 else "32FC1"
        message = image_message(header(seconds), pixels.view(np.uint8).reshape(*size, -1), encoding)
        self.depths.keep(serialize_message(message))

    def frame(self, seconds: float, **fields) -> Frame:
        frame = Frame(header(seconds), np.zeros((*SIZE, 3), np.uint8), **fields)
        self.frames.hold(frame)
        self.depths.hold(frame)
        return frame

    def measured(self, frame: Frame):
        """The only object; None without metres."""
        measurement = self.depths.measurement(frame, [CROP])
        things = measurement() if measurement is not None else []
        return things[0] if things else None

    def distance(self, frame: Frame) -> float | None:
        thing = self.measured(frame)
        return None if thing is None else round(float(thing.centroid[2]), 3)


@pytest.fixture
def rig(caplog) -> Rig:
    caplog.set_level(logging.WARNING)
    return Rig()


def test_without_stamps_the_newest_depth_of_the_frames_moment_is_measured(rig: Rig, caplog) -> None:
    rig.info(0)
    for value in (700, 600, 500):
        rig.depth(0, value)
    frame = rig.frame(0)
    rig.depth(0, 400)  # after the frame
    assert rig.distance(frame) == 0.5
    assert rig.distance(rig.frame(0)) == 0.4
    assert caplog.text.count("image and depth have no stamps") == 1


def test_stamps_that_stand_still_say_nothing_of_time(rig: Rig, caplog) -> None:
    rig.info(7)
    for value in (700, 600, 500):
        rig.depth(7, value)
    assert rig.distance(rig.frame(7)) == 0.5
    assert caplog.text.count("stamps that stand still") == 1


def test_a_stamp_decides_where_stamps_differ(rig: Rig, caplog) -> None:
    rig.info(1)
    for tenth, value in enumerate((700, 600, 500)):
        rig.depth(1 + tenth / 10, value)
    assert rig.distance(rig.frame(1.1)) == 0.6
    assert not caplog.text


def test_a_callers_image_without_a_stamp_is_of_no_moment(rig: Rig) -> None:
    rig.info(0)
    rig.depth(0, 700)
    assert rig.distance(rig.frame(0, sent=True)) is None


def test_an_image_without_a_stamp_is_not_measured_with_depth_that_has_one(rig: Rig, caplog) -> None:
    rig.info(0)
    rig.depth(5, 700)
    assert rig.distance(rig.frame(0)) is None
    assert "the image has no stamp (0)" in caplog.text
    assert "the image has no stamp (0)" in rig.depths.trouble


def test_a_zooming_camera_is_measured_with_the_calibration_of_the_frame(rig: Rig) -> None:
    for tenth in range(5):
        rig.info(1 + tenth / 10, focal=FOCAL + 10 * tenth)
    for seconds, focal in ((1.2, 80.0), (1.25, 80.0), (0.5, 100.0), (9.0, 100.0)):
        info = rig.frames.camera_info(header(seconds), SIZE)
        assert info is not None
        assert info.p[0] == focal, seconds
        assert info.header == header(seconds)


def test_the_calibration_of_a_frame_is_held_while_it_is_worked_on(rig: Rig) -> None:
    rig.info(1, focal=70.0)
    frame = rig.frame(1)
    for tenth in range(1, 100):
        rig.info(1 + tenth / 10, focal=90.0)
    assert rig.frames.camera_info(frame.header, SIZE).p[0] == 70.0


def test_without_stamps_the_calibration_is_of_the_moment_the_frame_was_taken(rig: Rig) -> None:
    rig.info(0, focal=60.0)
    rig.info(0, focal=70.0)
    frame = rig.frame(0)
    rig.info(0, focal=80.0)
    assert rig.frames.camera_info(frame.header, SIZE).p[0] == 70.0
    assert rig.frames.camera_info(header(0), SIZE).p[0] == 80.0


def test_calibration_that_comes_after_its_frame_is_taken(rig: Rig) -> None:
    rig.info(1.0, focal=60.0)
    frame = rig.frame(1.1)
    rig.info(1.1, focal=70.0)
    assert rig.frames.camera_info(frame.header, SIZE).p[0] == 70.0


def test_calibration_of_the_whole_sensor_belongs_to_a_binned_part_of_it(rig: Rig) -> None:
    roi = RegionOfInterest(x_offset=32, y_offset=0, width=2 * WIDTH, height=2 * HEIGHT)
    p = [2 * FOCAL, 0.0, 32 + WIDTH - 1.0, 0.0, 0.0, 2 * FOCAL, HEIGHT - 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    rig.info(1, width=4 * WIDTH, height=2 * HEIGHT, binning_x=2, binning_y=2, roi=roi, p=p)
    rig.depth(1, 600)
    thing = rig.measured(rig.frame(1))
    assert thing is not None
    np.testing.assert_allclose(thing.centroid, [0.0, 0.0, 0.6], atol=0.01)
    assert thing.box is not None
    np.testing.assert_allclose(sorted(thing.box.size)[1:], [0.6 * 24 / FOCAL, 0.6 * 32 / FOCAL], atol=0.015)


@pytest.mark.parametrize(
    "p", [[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0], [*matrix(FOCAL)[:2], 900.0, *matrix(FOCAL)[3:]]]
)
def test_a_matrix_that_cannot_be_of_the_image_gives_no_metres(rig: Rig, caplog, p) -> None:
    rig.info(1, p=p)
    rig.depth(1, 600)
    for _ in range(2):
        assert rig.measured(rig.frame(1)) is None
    assert caplog.text.count("cannot be that of images of 64 x 48 pixels") == 1


@pytest.mark.parametrize(
    ("topic", "warnings"), [("/camera/image_raw", 1), ("/camera/image_rect", 0), ("/camera/image_rect_color", 0)]
)
def test_an_image_that_is_not_rectified_is_named_with_the_remedy(caplog, topic, warnings) -> None:
    rig = Rig(topic)
    rig.info(1, **PLUMB_BOB)
    rig.depth(1, 600)
    for _ in range(2):
        assert rig.distance(rig.frame(1)) == 0.6
    says = "camera_info has distortion (plumb_bob) and /camera/image_raw does not look rectified"
    assert caplog.text.count(says) == warnings
    assert caplog.text.count("remap image:=/camera/image_rect") == warnings


def test_a_value_that_stands_for_nothing_is_no_distance(rig: Rig) -> None:
    rig.info(1)
    rig.depth(1, 65535)
    thing = rig.measured(rig.frame(1))
    assert thing is not None
    assert (thing.box, thing.valid_share) == (None, 0.0)
    assert np.isnan(thing.centroid).all()


def test_the_end_of_a_cameras_range_is_no_distance_and_is_said_once(rig: Rig, caplog) -> None:
    rig.info(1)
    rig.depth(1, 10_000)
    for _ in range(2):
        thing = rig.measured(rig.frame(1))
        assert thing is not None
        assert thing.valid_share == 0.0
    assert caplog.text.count("depth ends at 10000 mm") == 1


def test_float_depth_in_millimetres_is_refused(rig: Rig, caplog) -> None:
    rig.info(1)
    rig.depth(1, 700.0, np.float32)
    assert rig.measured(rig.frame(1)) is None
    assert "32FC1 depth begins at 700 m" in caplog.text
    assert "in millimetres" in rig.depths.trouble
    rig.depth(2, 0.7, np.float32)
    assert rig.distance(rig.frame(2)) == 0.7
    assert not rig.depths.trouble


def test_depth_of_another_size_is_refused_also_where_no_mask_is_measured(rig: Rig) -> None:
    rig.info(1)
    rig.depth(1, 700, size=(HEIGHT // 2, WIDTH // 2))
    frame = rig.frame(1)
    assert rig.depths.of(frame) is None
    assert rig.measured(frame) is None
    assert "depth of 32x24 with a camera of 64x48" in rig.depths.trouble


@pytest.mark.parametrize(
    ("stamp_s", "now_s", "age_s"),
    [(98.0, 100.0, 2.0), (0.0, 100.0, 0.0), (1.8e9, 0.0, 0.0), (1.8e9, 50.0, 0.0), (100.5, 100.0, -0.5)],
    ids=["usual", "no stamp", "the clock has not started", "a stamp of another clock", "a clock that is a little late"],
)
def test_the_age_of_an_image_is_zero_where_clock_or_stamp_say_nothing(stamp_s, now_s, age_s) -> None:
    rig = Rig(now_s=now_s)
    message = image_message(header(stamp_s), np.zeros((*SIZE, 3), np.uint8), "rgb8")
    assert rig.frames.take(message).age_s == pytest.approx(age_s)
