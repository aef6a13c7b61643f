"""Results as messages of a recording: the same types as the node's, made without ROS.

A message here is an object of rosbags' typestore. ``header`` is that of the source frame, unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lisa_ros.engine.api import Answer, EngineInfo, MaskCrop, Region, Span
from lisa_ros.errors import ConfigError
from lisa_ros.perception.tracking import State, Tracked
from lisa_ros.runtime.status import Status, message_of

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
SEGMENTATION, TRACKED = "lisa_ros/msg/Segmentation", "lisa_ros/msg/TrackedMasks"
JPEG_QUALITY = 90


@functools.cache
def typestore() -> Typestore:
    """ROS 2's message types, and those of lisa_ros from their .msg files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for file in sorted(definitions().glob("*.msg")):
        types |= get_types_from_msg(file.read_text("utf-8"), f"lisa_ros/msg/{file.stem}")
    store.register(types)
    return store


def definitions() -> Path:
    """Folder of lisa_ros' .msg files: beside the package in a source tree, under ``share`` in an installation."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / "msg", parent / "share" / "lisa_ros" / "msg"):
            if (folder / "Segmentation.msg").is_file():
                return folder
    raise ConfigError("this installation has no share/lisa_ros/msg/Segmentation.msg; install the package again")


def string(text: str) -> Any:
    return _make(STRING, data=text)


def image(header: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    """A sensor_msgs/Image.

    Args:
        header: The source frame's.
        pixels: uint8 (H, W) or (H, W, C), in the order that ``encoding`` names.
        encoding: Such as mono8 or rgb8.
    """
    height, width = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels).reshape(-1)
    step = flat.size // height if height else 0
    return _make(
        IMAGE, header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=flat
    )


def jpeg(header: Any, rgb: NDArray[np.uint8]) -> Any:
    """A sensor_msgs/CompressedImage with JPEG data, from uint8 (H, W, 3) RGB."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _make(COMPRESSED, header=header, format="rgb8; jpeg compressed bgr8", data=data.reshape(-1))


def segmentation(
    header: Any,
    request_id: str,
    command: str,
    targets: Sequence[str],
    answer: Answer,
    regions: Sequence[Region],
    info: EngineInfo,
) -> Any:
    """The message for one answer. All durations are 0, so that equal runs write equal files.

    Args:
        header: The source frame's.
        request_id: Of this answer; ``tracked_masks`` refers to it.
        command: The command, in words.
        targets: Names beside the command.
        answer: Its text and absent targets.
        regions: Its regions with their labels; empty ones are left out.
        info: The engine that answered.
    """
    message = message_of(regions, answer.absent, targets)
    regions = [region for region in regions if region.mask.area]
    return _make(
        SEGMENTATION,
        header=header,
        request_id=request_id,
        source="",  # it came by no endpoint
        command=command,
        camera="",
        answer=answer.text,
        status=int(Status.SUCCESS if regions else Status.NOT_FOUND),
        message=message,
        masks=[_mask(header, region.mask, region.phrase, region.spans) for region in regions],
        absent=list(answer.absent),
        objects=[],
        image_age_s=0.0,
        encode_s=0.0,
        first_mask_s=0.0,
        generate_s=0.0,
        decode_s=0.0,
        total_s=0.0,
        model=info.name,
        precision=info.precision,
    )


def tracked_masks(
    header: Any, request_id: str, command: str, targets: Sequence[Tracked], phrases: Mapping[int, str]
) -> Any:
    """The masks of an answer, tracked into a later frame.

    Args:
        header: The later frame's.
        request_id: Of the answer.
        command: The command, in words.
        targets: The tracked masks.
        phrases: Phrase of each mask of the answer, by label.
    """
    masks = [
        _make(
            "lisa_ros/msg/TrackedMask",
            state=int(target.state),
            confidence=target.confidence,
            mask=_mask(header, target.crop, phrases[target.crop.label]),
        )
        for target in targets
    ]
    return _make(TRACKED, header=header, request_id=request_id, command=command, camera="", masks=masks, objects=[])


def as_tracked(regions: Sequence[Region]) -> list[Tracked]:
    """Masks of a new answer, as targets with the state TRACKING; empty masks are left out."""
    return [Tracked(region.mask, 1.0, State.TRACKING) for region in regions if region.mask.area]


def _mask(header: Any, crop: MaskCrop, phrase: str, spans: Sequence[Span] = ()) -> Any:
    return _make(
        "lisa_ros/msg/Mask",
        label=crop.label,
        roi=_make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=crop.x,
            y_offset=crop.y,
            height=crop.height,
            width=crop.width,
            do_rectify=False,
        ),
        pixels=image(header, crop.pixels, "mono8"),
        score=float(crop.score),
        area=crop.area,
        phrase=phrase,
        text_begin=np.array([begin for begin, _ in spans], np.uint32),
        text_end=np.array([end for _, end in spans], np.uint32),
        centroid_px=_make("geometry_msgs/msg/Point", x=float(crop.centroid[0]), y=float(crop.centroid[1]), z=0.0),
    )


def _make(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)
