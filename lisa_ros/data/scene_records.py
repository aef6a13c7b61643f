"""The format of ``scenes.jsonl``: one SceneRecord a line. Types only; at run time these are the dicts that JSON gives.

`lisa scenes` writes all keys. A file from elsewhere needs ``id``, ``image``, ``ids`` and, for each object, ``id`` and
``class``; lisa_ros.data.scenes checks these.

Pixels: the centre of the top left pixel is (0, 0), x to the right, y down. A pinhole camera that looks through the
middle of an image of W x H pixels has cx = (W - 1) / 2 and cy = (H - 1) / 2. Metres are in the camera's optical frame:
x to the right, y down, z forward.
"""

from __future__ import annotations

from typing import TypedDict


class CameraRecord(TypedDict):
    """A pinhole camera without distortion; all in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float


# Not a class statement: one key is a keyword of Python.
ObjectRecord = TypedDict(
    "ObjectRecord",
    {
        "id": int,  # from 1 to 255; its value in the image of ids
        "class": str,
        "model": str,  # the object model, of which a class may have several
        "held_out": bool,  # the model is in scenes of the split "novel" only
        "color": str | None,  # of painted objects
        "position": list[float],  # x, y, z of its centre, metres, optical frame
        "size": list[float],  # width, depth and height as it stands upright, metres
        "area": int,  # pixels that are seen
        "box": list[int],  # x, y, width, height, pixels
        "centroid": list[float],  # x, y of the pixels that are seen
    },
)


class TurnRecord(TypedDict):
    """One command and its answer.

    targets: ids of all objects that fit, in ascending order; one ``[SEG]`` in the answer stands for their union, and
    there is none where targets is empty. explain: the command asks for a reason, and the answer gives one.
    """

    command: str
    targets: list[int]
    answer: str
    explain: bool


class _ConversationPhrase(TypedDict, total=False):
    phrase: str


class ConversationRecord(_ConversationPhrase):
    """One or two turns about a scene.

    kind: one of lisa_small.scenes.commands.KINDS. held_out: training never uses these phrasings. held_out_content:
    training never names this need in any words. phrase: the phrase of the world table in the first turn; only where
    phrases were weighted.
    """

    kind: str
    held_out: bool
    held_out_content: bool
    turns: list[TurnRecord]


class SceneRecord(TypedDict):
    """One scene. image, ids, depth: paths relative to the folder of ``scenes.jsonl``."""

    id: str
    seed: int
    image: str  # RGB, JPEG
    ids: str  # uint8 PNG: the id of the object that is seen, 0 for the background
    depth: str | None  # uint16 PNG: millimetres along the optical axis
    camera: CameraRecord
    objects: list[ObjectRecord]
    conversations: list[ConversationRecord]
