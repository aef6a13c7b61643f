"""Results as messages of a recording, the same ones that the node publishes, made without ROS.

A message here is an object of rosbags' typestore; ``header`` is the source frame's, untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ConfigError
from lisa_ros.perception.tracking import State, Tracked
from lisa_ros.runtime.status import NOTHING_FOUND, Status

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
SEGMENTATION, TRACKED = "lisa_ros/msg/Segmentation", "lisa_ros/msg/TrackedMasks"
JPEG_QUALITY = 90


@functools.cache
def typestore() -> Typestore:
    """ROS 2's own message types, and ours from their .msg files."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for file in sorted(definitions().glob("*.msg")):
        types |= get_types_from_msg(file.read_text("utf-8"), f"lisa_ros/msg/{file.stem}")
    store.register(types)
    return store


def definitions() -> Path:
    """Folder of our .msg files: beside the package in a source tree, under ``share`` in an installation."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / "msg", parent / "share" / "lisa_ros" / "msg"):
            if (folder / "Segmentation.msg").is_file():
                return folder
    raise ConfigError("this installation has no share/lisa_ros/msg/Segmentation.msg; install the package again")


def string(text: str) -> Any:
    return _make(STRING, data=text)


def image(header: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    """pixels: uint8 (H, W) or (H, W, C)."""
    height, width = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels).reshape(-1)
    step = flat.size // height if height else 0
    return _make(
        IMAGE, header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=flat
    )


def jpeg(header: Any, rgb: NDArray[np.uint8]) -> Any:
    """rgb: uint8 (H, W, 3)."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _make(COMPRESSED, header=header, format="rgb8; jpeg compressed bgr8", data=data.reshape(-1))


def segmentation(
    header: Any, request_id: str, command: str, answer: str, crops: Sequence[MaskCrop], model: str, precision: str
) -> Any:
    """An answer. Its seconds stay 0: the same recording and command give the same file on every run."""
    crops = [crop for crop in crops if crop.area]
    return _make(
        SEGMENTATION,
        header=header,
        request_id=request_id,
        command=command,
        answer=answer,
        status=int(Status.SUCCESS if crops else Status.NOT_FOUND),
        message="" if crops else NOTHING_FOUND,
        masks=[_mask(header, crop) for crop in crops],
        objects=[],
        image_age_s=0.0,
        encode_s=0.0,
        first_mask_s=0.0,
        generate_s=0.0,
        decode_s=0.0,
        total_s=0.0,
        model=model,
        precision=precision,
    )


def tracked_masks(header: Any, request_id: str, command: str, targets: Sequence[Tracked]) -> Any:
    """Where the masks of an answer are in a later frame."""
    masks = [
        _make("lisa_ros/msg/TrackedMask", state=int(t.state), confidence=t.confidence, mask=_mask(header, t.crop))
        for t in targets
    ]
    return _make(TRACKED, header=header, request_id=request_id, command=command, camera="", masks=masks, objects=[])


def as_tracked(crops: Sequence[MaskCrop]) -> list[Tracked]:
    """Fresh masks of the model, as what is followed from now on."""
    return [Tracked(crop, 1.0, State.TRACKING) for crop in crops if crop.area]


def _mask(header: Any, crop: MaskCrop) -> Any:
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
        centroid_px=_make("geometry_msgs/msg/Point", x=float(crop.centroid[0]), y=float(crop.centroid[1]), z=0.0),
    )


def _make(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)
