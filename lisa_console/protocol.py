"""What page and console send each other over one WebSocket.

Text frames are JSON objects with a ``type``. Binary frames are pictures and masks:
1 byte kind, 8 bytes stamp (uint64, nanoseconds, big endian), 4 bytes length of the header, header (JSON), payload.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

PREFIX = struct.Struct(">BQI")
MOST_BYTES = 1 << 20  # of one message of a page: the mask of a correction is the largest
MOST_CHARACTERS = 10_000  # of a command: as many as the node ever takes (parameter max_command_length)
MOST_POINTS = 64
MOST_PIXELS = 65_535  # of a coordinate
NAME = 200  # characters of a session, a camera, an id or a parameter


class Kind(IntEnum):
    """Of a binary frame."""

    FRAME = 1  # a live picture (JPEG), with the followed masks of this very picture behind it (PNG)
    PICTURE = 2  # the picture that a command is about (JPEG)
    MASK = 3  # one mask of an answer (PNG)
    THUMBNAIL = 4  # of an entry of the history (JPEG)


class Malformed(Exception):
    """A page sent something that is not in the protocol; the message says what."""


@dataclass(frozen=True)
class Hello:
    """The first message. token: empty where none is needed."""

    token: str


@dataclass(frozen=True)
class View:
    """What the page shows now. camera: name; visible: False while nobody can see the page."""

    camera: str
    visible: bool


@dataclass(frozen=True)
class Drawn:
    """A live picture was drawn: the next one may come."""


@dataclass(frozen=True)
class Hold:
    """Keep the picture of this stamp [ns]: the person begins to draw on it."""

    stamp: int


@dataclass(frozen=True)
class Command:
    """A command.

    Args:
        text: As typed.
        camera: Name; empty: the first one.
        session: Of this tab; empty: no history.
        explain: Ask for the reason too.
        points: (x, y, label) each, pixels; label 1 on the thing, 0 not on it.
        box: (x, y, width, height), pixels; None: no box.
        stamp: Of the picture that points and box are drawn on, ns; 0: the newest one.
    """

    text: str
    camera: str
    session: str
    explain: bool
    points: tuple[tuple[float, float, int], ...]
    box: tuple[int, int, int, int] | None
    stamp: int


@dataclass(frozen=True)
class Cancel:
    """End a command."""

    request_id: str


@dataclass(frozen=True)
class Choose:
    """This mask is the one that is meant: published for planners."""

    request_id: str
    label: int


@dataclass(frozen=True)
class Clear:
    """Stop following, and forget the latest result."""


@dataclass(frozen=True)
class ClearSession:
    """Forget every conversation."""


@dataclass(frozen=True)
class Show:
    """Send picture and masks of an entry of the history."""

    request_id: str


@dataclass(frozen=True)
class SetOption:
    """Change a live parameter of the node."""

    name: str
    value: bool | int | float | str


@dataclass(frozen=True)
class Correct:
    """A person's word about an answer. right: it is as it should be; mask: PNG of the mask it should have, or None."""

    request_id: str
    right: bool
    mask: bytes | None


Request = Hello | View | Drawn | Hold | Command | Cancel | Choose | Clear | ClearSession | Show | SetOption | Correct


def _text(message: Mapping[str, Any], name: str, most: int = NAME) -> str:
    value = message.get(name, "")
    if not isinstance(value, str):
        raise Malformed(f"{name} is not text")
    if any("\ud800" <= character <= "\udfff" for character in value):  # cannot be sent to a page or to ROS
        raise Malformed(f"{name} has half of a UTF-16 pair; send whole characters")
    if len(value) > most:
        raise Malformed(f"{name} has {len(value)} characters; at most {most} are taken")
    return value


def _flag(message: Mapping[str, Any], name: str) -> bool:
    value = message.get(name, False)
    if not isinstance(value, bool):
        raise Malformed(f"{name} is {value!r}; true or false is wanted"[:NAME])
    return value


def _is_number(value: Any) -> bool:
    """Finite, as a float too: Python reads integers of any length."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _number(value: Any, name: str, most: float) -> float:
    if not _is_number(value):
        raise Malformed(f"{name} is not a number")
    if not 0 <= value <= most:
        raise Malformed(f"{name} is {value:g}; it lies between 0 and {most:g}")
    return float(value)


def _numbers(value: Any, name: str, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise Malformed(f"{name} is not a list of {count} numbers")
    return [_number(one, name, MOST_PIXELS) for one in value]


def _stamp(message: Mapping[str, Any]) -> int:
    # Text: JavaScript's numbers cannot hold nanoseconds.
    value = _text(message, "stamp", 20) or "0"
    if not (value.isascii() and value.isdigit()) or int(value) >= 1 << 64:
        raise Malformed("stamp is not a number of nanoseconds")
    return int(value)


def _command(message: Mapping[str, Any]) -> Command:
    points = message.get("points", [])
    if not isinstance(points, list) or len(points) > MOST_POINTS:
        raise Malformed(f"points is not a list of at most {MOST_POINTS} points")
    numbers = [_numbers(point, "a point", 3) for point in points]
    box = message.get("box")
    sides = None if box is None else _numbers(box, "box", 4)
    return Command(
        text=_text(message, "text", MOST_CHARACTERS),
        camera=_text(message, "camera"),
        session=_text(message, "session"),
        explain=_flag(message, "explain"),
        points=tuple((x, y, int(label > 0)) for x, y, label in numbers),
        box=None if sides is None else (int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3])),
        stamp=_stamp(message),
    )


def _option(message: Mapping[str, Any]) -> SetOption:
    value: Any = message.get("value")
    name = _text(message, "name")
    if isinstance(value, str):
        return SetOption(name, _text(message, "value"))
    if not isinstance(value, bool) and not _is_number(value):
        raise Malformed("value is not a switch, a number or a short text")
    return SetOption(name, value)


def _correction(message: Mapping[str, Any]) -> Correct:
    encoded = _text(message, "mask", MOST_BYTES)
    try:
        mask = base64.b64decode(encoded, validate=True) if encoded else None
    except (binascii.Error, ValueError) as error:
        raise Malformed("mask is not base64") from error
    return Correct(_text(message, "id"), _flag(message, "right"), mask)


_READERS: dict[str, Callable[[Mapping[str, Any]], Request]] = {
    "hello": lambda message: Hello(_text(message, "token")),
    "view": lambda message: View(_text(message, "camera"), _flag(message, "visible")),
    "drawn": lambda message: Drawn(),
    "hold": lambda message: Hold(_stamp(message)),
    "command": _command,
    "cancel": lambda message: Cancel(_text(message, "id")),
    "choose": lambda message: Choose(_text(message, "id"), int(_number(message.get("label"), "label", MOST_PIXELS))),
    "clear": lambda message: Clear(),
    "clear_session": lambda message: ClearSession(),
    "show": lambda message: Show(_text(message, "id")),
    "set": _option,
    "correct": _correction,
}


def read_request(text: str) -> Request:
    """A page's message. Raises Malformed."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("the message is not JSON") from error
    kind = message.get("type") if isinstance(message, dict) else None
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise Malformed(f"type is none of {', '.join(_READERS)}")
    return reader(message)


def write_event(kind: str, **fields: Any) -> str:
    """A text frame for a page."""
    return json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))


def write_binary(kind: Kind, stamp_ns: int, header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """A binary frame for a page. parts: the payload, one after another."""
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join((PREFIX.pack(kind, stamp_ns, len(encoded)), encoded, *parts))
