"""An image is read from its bytes as rclpy reads it, and bytes that are none are an ImageError."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from lisa_ros.errors import ImageError
from lisa_ros.ros.serialized_image import read_image

numbers = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=20)


def message(sec, nanosec, frame_id, height, width, encoding, is_bigendian, step, data):
    image = Image(height=height, width=width, encoding=encoding, is_bigendian=is_bigendian, step=step)
    image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id = sec, nanosec, frame_id
    image.data.frombytes(data)
    return image


messages = st.builds(
    message,
    st.integers(-(2**31), 2**31 - 1),
    numbers,
    texts,
    numbers,
    numbers,
    texts,
    st.integers(0, 255),
    numbers,
    st.binary(max_size=100),
)


@given(messages)
def test_every_field_is_what_was_sent(image):
    read = read_image(serialize_message(image))
    assert read.header == image.header
    for name in ("height", "width", "encoding", "is_bigendian", "step"):
        assert getattr(read, name) == getattr(image, name)
    assert bytes(read.data) == bytes(image.data)


def test_big_endian_bytes_are_read_too():
    serialized = bytes.fromhex(
        "00000000"
        "00000007 00000008"  # stamp
        "00000002 6300 0000"  # frame_id "c"
        "00000001 00000002"  # height, width
        "00000006 6d6f6e6f3800"  # "mono8"
        "00 00"  # is_bigendian; the next number lies at a multiple of 4
        "00000002 00000002 0a0b"
    )
    read = read_image(serialized)
    assert (read.header.stamp.sec, read.header.stamp.nanosec, read.header.frame_id) == (7, 8, "c")
    assert (read.height, read.width, read.encoding, read.step, bytes(read.data)) == (1, 2, "mono8", 2, b"\x0a\x0b")


@given(messages, st.data())
def test_a_message_that_is_cut_off_is_an_image_error(image, data):
    serialized = serialize_message(image)
    whole = len(serialized) - (-len(image.data) % 4)  # some implementations pad the end
    with pytest.raises(ImageError):
        read_image(serialized[: data.draw(st.integers(0, whole - 1))])


@given(st.binary(max_size=300))
@example(b"\x00\x01\x00\x00" + b"\xff" * 100)
def test_arbitrary_bytes_are_an_image_or_an_image_error(data):
    with suppress(ImageError):
        read_image(data)
