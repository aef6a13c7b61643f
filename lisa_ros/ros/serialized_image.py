"""A sensor_msgs/Image read where it lies: the serialized bytes, without the two copies that a message is made by.

At 1280 x 720 those cost 0.4 ms on an idle machine and 5 to 15 ms on a busy one: 5 MB of fresh pages are asked for. It
is safer too: bytes that are no message at all are an ImageError here, and whatever the typesupport makes of them there.

The layout is CDR, which every DDS implementation and Zenoh send: little or big endian, each number at a multiple of its
own size after the 4 bytes that say which.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from std_msgs.msg import Header

from lisa_ros.errors import ImageError

START = 4  # bytes of encapsulation; alignment counts from here
BYTE_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}


@dataclass(frozen=True)
class SerializedImage:
    """The fields of sensor_msgs/Image. data: a view of the bytes that it was read from."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview

    @property
    def serialized(self) -> bytes:
        """The whole message as it came."""
        return self.data.obj  # type: ignore[return-value]


def read_image(serialized: bytes) -> SerializedImage:
    """Raises ImageError for bytes that are no image."""
    order = BYTE_ORDERS.get(serialized[:2])
    if order is None:
        raise ImageError(f"the image's serialization {serialized[:2].hex()} is not plain CDR; use another RMW")
    reader = _Reader(memoryview(serialized), order)
    try:
        sec, nanosec = reader.numbers("iI")
        frame_id = reader.string()
        height, width = reader.numbers("II")
        encoding = reader.string()
        (is_bigendian,) = reader.numbers("B")
        step, length = reader.numbers("II")
        data = reader.bytes(length)
    except (struct.error, IndexError) as error:
        raise ImageError(f"the image message is cut off after {len(serialized)} bytes; publish it whole") from error
    header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)
    return SerializedImage(header, height, width, encoding, is_bigendian, step, data)


def read_stamp_ns(serialized: bytes) -> int:
    """Nanoseconds of the header that a message begins with. Raises ImageError."""
    sec, nanosec = _stamp_layout(serialized).unpack_from(serialized, START)
    return int(sec * 10**9 + nanosec)


def with_stamp(serialized: bytes, stamp: Time) -> bytes:
    """A message that begins with a header, as a copy under another stamp. Raises ImageError."""
    copy = bytearray(serialized)
    _stamp_layout(serialized).pack_into(copy, START, stamp.sec, stamp.nanosec)
    return bytes(copy)


def _stamp_layout(serialized: bytes) -> struct.Struct:
    order = BYTE_ORDERS.get(bytes(serialized[:2]))
    if order is None or len(serialized) < START + 8:
        raise ImageError(f"{len(serialized)} bytes are no message with a header in plain CDR; use another RMW")
    return struct.Struct(f"{order}iI")


def read_message(serialized: bytes, kind: type) -> Any:
    """A message of another kind, by the typesupport. Raises ImageError for bytes that it cannot read."""
    try:
        return deserialize_message(serialized, kind)
    except Exception as error:
        raise ImageError(
            f"{len(serialized)} bytes are no {kind.__name__}; is the publisher's message definition the same?"
        ) from error


class _Reader:
    def __init__(self, data: memoryview, order: str) -> None:
        self._data = data
        self._order = order
        self._at = START

    def numbers(self, kinds: str) -> tuple[int, ...]:
        """Numbers of one size, as struct names them."""
        kinds = self._order + kinds
        size = struct.calcsize(kinds[:2])
        self._at += (START - self._at) % size
        values = struct.unpack_from(kinds, self._data, self._at)
        self._at += struct.calcsize(kinds)
        return values

    def string(self) -> str:
        """A length with its closing zero, then the characters."""
        (length,) = self.numbers("I")
        return str(self.bytes(length), "utf-8", "replace").rstrip("\0")

    def bytes(self, length: int) -> memoryview:
        if self._at + length > len(self._data):
            raise IndexError
        self._at += length
        return self._data[self._at - length : self._at]
