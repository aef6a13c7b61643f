"""What the robot's side tells the web server. Made on the executor's thread, taken on the server's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Live:
    """A live picture. frame: binary frame of the kind FRAME."""

    camera: str
    frame: bytes


@dataclass(frozen=True)
class State:
    """State of node and camera. fields: of the event ``state`` (docs/console.md)."""

    fields: dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Live parameters of the node. options: name, value, description, and least and most for numbers."""

    options: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """The picture that a command is about.

    Args:
        request_id: Of the command.
        stamp_ns: Of the picture.
        jpeg: The picture, its long side at most 960 pixels.
        thumbnail: A smaller one, JPEG.
        size: (width, height) of the camera's picture: masks and points are in these pixels.
        png: The camera's picture without loss, where examples are saved; else None.
    """

    request_id: str
    stamp_ns: int
    jpeg: bytes
    thumbnail: bytes
    size: tuple[int, int]
    png: bytes | None


@dataclass(frozen=True)
class Progress:
    """How far a command is. fields: of the event ``progress``."""

    request_id: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Mask:
    """One mask of an answer. png: crop, 0 or 255. header: label, roi, score, phrase."""

    request_id: str
    stamp_ns: int
    header: dict[str, Any]
    png: bytes


@dataclass(frozen=True)
class Result:
    """The final answer. fields: of the event ``result``. masks: with their pixels."""

    request_id: str
    fields: dict[str, Any]
    masks: Sequence[Mask]


@dataclass(frozen=True)
class Chosen:
    """A mask was published as the chosen one."""

    request_id: str
    label: int


@dataclass(frozen=True)
class Problem:
    """Something could not be done; text says what and how to fix it. request_id: empty where it is about no command."""

    request_id: str
    text: str


Event = Live | State | Options | Picture | Progress | Mask | Result | Chosen | Problem
