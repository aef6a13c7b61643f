"""ROS messages as what pages understand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from lisa_console.cameras import png_of
from lisa_console.events import Mask, Result
from lisa_ros.action import Segment
from lisa_ros.msg import Mask as MaskMessage
from lisa_ros.msg import Object3D, Segmentation, Status
from lisa_ros.msg import Progress as ProgressMessage
from lisa_ros.plain_text import escaped


def _constants(kind: Any, prefix: str = "") -> dict[int, str]:
    """Value -> name of a message's constants."""
    found = {}
    for name in dir(kind):
        if name.isupper() and name.startswith(prefix) and isinstance(getattr(kind, name), int):
            found[getattr(kind, name)] = name.removeprefix(prefix)
    return found


STAGES = _constants(Segment.Feedback, "STAGE_")
STATES = _constants(Status)
STATUSES = _constants(Segmentation)


def stamp_ns(header: Any) -> int:
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


def crop_of(image: Image) -> NDArray[np.uint8]:
    """(h, w) of a mask's pixels: 0 or 255."""
    return np.ndarray((image.height, image.width), np.uint8, bytes(image.data), strides=(image.step, 1)).copy()


def mask_header(mask: MaskMessage, thing: Object3D | None = None) -> dict[str, Any]:
    """Without pixels. size_mm: sides of the object, the longest first; distance_m: from the camera."""
    roi = mask.roi
    header: dict[str, Any] = {
        "label": mask.label,
        "roi": [roi.x_offset, roi.y_offset, roi.width, roi.height],
        "score": round(mask.score, 4),
        "area": mask.area,
        "phrase": escaped(mask.phrase),
        "spans": [[int(b), int(e)] for b, e in zip(mask.text_begin, mask.text_end, strict=False)],
    }
    if thing is not None:
        centre = thing.centroid
        distance = math.sqrt(centre.x**2 + centre.y**2 + centre.z**2)
        header["distance_m"] = round(distance, 3) if math.isfinite(distance) else None
        if thing.has_box:
            header["size_mm"] = sorted(
                (round(1000 * side) for side in (thing.size.x, thing.size.y, thing.size.z)), reverse=True
            )
    return header


def mask_event(request_id: str, mask: MaskMessage, stamp: int, thing: Object3D | None = None) -> Mask:
    """With pixels."""
    return Mask(request_id, stamp, mask_header(mask, thing), png_of(crop_of(mask.pixels)))


def progress_fields(message: ProgressMessage, session: str) -> dict[str, Any]:
    """session: of the console's own command; empty for somebody else's."""
    return {
        "command": escaped(message.command),
        "source": message.source,
        "camera": message.camera,
        "stage": STAGES.get(message.stage, str(message.stage)),
        "answer": message.partial_answer,
        "session": session,
    }


def result_event(message: Segmentation, session: str) -> Result:
    """The answer with its masks. Text of the model is as it came: pages show it as text."""
    things = {thing.label: thing for thing in message.objects}
    stamp = stamp_ns(message.header)
    pairs = [(mask, things.get(mask.label)) for mask in message.masks]
    timings = {
        name: round(getattr(message, f"{name}_s"), 4)
        for name in ("image_age", "encode", "first_mask", "generate", "decode", "total")
    }
    fields = {
        "command": escaped(message.command),
        "source": message.source,
        "camera": message.camera,
        "answer": message.answer,
        "status": STATUSES.get(message.status, str(message.status)),
        "message": escaped(message.message),
        "absent": [escaped(name) for name in message.absent],
        "model": message.model,
        "timings": timings,
        "masks": [mask_header(mask, thing) for mask, thing in pairs],
        "session": session,
    }
    masks = [mask_event(message.request_id, mask, stamp, thing) for mask, thing in pairs if mask.pixels.height]
    return Result(message.request_id, fields, masks)
