"""A recording is replayed into the real node, as `ros2 bag play` does it."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.msg import Segmentation

pytest.importorskip("rosbags", reason="the recording is made with rosbags: pip install 'lisa_ros[bag]'")

from recordings import SIZE, header, raw, record, truth
from robot import pixels_of, stamp
from rosbags.rosbag2 import Reader

from lisa_ros.bag.messages import typestore

COUNT = 6


def camera_info(number):
    kinds = typestore().types
    return kinds["sensor_msgs/msg/CameraInfo"](
        header=header(number),
        height=SIZE[0],
        width=SIZE[1],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([200.0, 0, 80, 0, 200, 60, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=kinds["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    topics = {"image": [raw(n) for n in range(COUNT)], "camera_info": [camera_info(n) for n in range(COUNT)]}
    return record(tmp_path_factory.mktemp("bag") / "in", topics)


def replay(client, recording):
    """Publish a recording once, message by message as its bytes say. Yields after every image, with its stamp."""
    client.wait(lambda: client.images.get_subscription_count() > 0, "subscription to image")
    client.wait(lambda: client.infos.get_subscription_count() > 0, "subscription to camera_info")
    with Reader(recording) as reader:
        # Of one moment, the calibration first.
        for connection, _, serialized in sorted(reader.messages(), key=lambda m: (m[1], m[0].topic)):
            if connection.topic == "camera_info":
                client.infos.publish(deserialize_message(bytes(serialized), CameraInfo))
            else:
                image = deserialize_message(bytes(serialized), Image)
                client.images.publish(image)
                yield image


def answer_about(client, image) -> Segmentation:
    """Ask until the answer is about ``image``: it is still on its way at first."""
    return client.wait(
        lambda: (r := client.say("the box")).header == image.header and r, f"answer about {stamp(image.header)}"
    )


def heard_about(client, topic, image):
    """The message under the header of ``image``; asked again, for calibration may reach the node after its image."""

    def found():
        return next((message for message in client.heard[topic] if message.header == image.header), None)

    return client.wait(lambda: found() or (client.say("the box") and found()), f"{topic} of {stamp(image.header)}")


def test_results_have_the_recordings_stamps(client, recording):
    for number, image in enumerate(replay(client, recording)):
        result = answer_about(client, image)
        assert result.status == Segmentation.SUCCESS
        assert stamp(result.header) == stamp(header(number))
        assert result.header.frame_id == "camera_optical"
        assert result.image_age_s > 86400  # recorded long ago, and said so; used all the same
        assert np.array_equal(pixels_of(heard_about(client, "mask", image)) == 255, truth(number))
        assert heard_about(client, "camera_info", image).k[0] == 200.0


def test_a_recording_that_loops_is_survived(client, recording):
    """The stamps jump back at every turn; the answer is about the newest frame, whatever its stamp."""
    seen = []
    for _ in range(3):
        for image in replay(client, recording):
            if stamp(image.header) in (stamp(header(0)), stamp(header(COUNT - 1))):
                seen.append(stamp(answer_about(client, image).header))
    assert seen == [stamp(header(0)), stamp(header(COUNT - 1))] * 3
    client.works()
