"""Proposals from another node: its labels image of exactly the frame that a command is about, and perhaps names."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import ImageError
from lisa_ros.perception.labels import PackedLabels, crops_of
from lisa_ros.ros.frame_store import stamp_ns
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.serialized_image import SerializedImage, read_image, read_stamp_ns
from lisa_ros.runtime.requests import Frame
from lisa_ros.runtime.status import NoImage

KEPT_LABELS = 30
KEPT_FRAME_BYTES = 256_000_000
"""Of frames that wait for their labels: two seconds of 640 x 480 at 30 Hz are 55 MB, of 1920 x 1080 373 MB."""

MOST_PACKED = 100_000
"""Bytes of a packed labels image: it is written to the worker's pipe at once, which must not fill."""

KINDS = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32SC1": "i4"}
"""Encoding of a labels image -> its number format."""

SAME_BOX = 0.5
"""Least IoU of boxes from which a detection without a label's number names a mask."""


@dataclass(frozen=True)
class _Kept:
    """serialized: A frame as it came. came: time.monotonic()."""

    serialized: bytes
    came: float


class GivenProposals:
    """Pairs frames with labels images of the same stamp. Nothing is decoded before a command needs it.

    The labels of a frame come after it, later by what the other node takes. So a command is about the newest frame
    whose labels are here, and never about another one's masks.

    Args:
        parameters: The current ones.
        topic: Name of the topic of labels images, for messages.
    """

    def __init__(self, parameters: Callable[[], Parameters], topic: Callable[[], str]) -> None:
        self._parameters = parameters
        self._topic = topic
        self._frames: OrderedDict[int, _Kept] = OrderedDict()  # by stamp in nanoseconds, oldest first
        self._labels: OrderedDict[int, SerializedImage] = OrderedDict()
        self._detections: OrderedDict[int, Any] = OrderedDict()
        self._trouble = ""

    def keep_frame(self, serialized: bytes) -> None:
        """A new frame has come."""
        try:
            stamp = read_stamp_ns(serialized)
        except ImageError:
            return
        self._frames.pop(stamp, None)
        self._frames[stamp] = _Kept(serialized, time.monotonic())
        oldest = time.monotonic() - self._parameters().max_image_age_s
        size = sum(len(kept.serialized) for kept in self._frames.values())
        for stamp, kept in list(self._frames.items())[:-1]:
            if kept.came >= oldest and size <= KEPT_FRAME_BYTES:
                break
            size -= len(kept.serialized)
            del self._frames[stamp]

    def keep_labels(self, serialized: bytes) -> None:
        """A new labels image has come."""
        try:
            labels = read_image(serialized)
        except ImageError as error:
            self._trouble = f"; the last message there cannot be read: {error}"
            return
        self._trouble = ""
        _keep(self._labels, stamp_ns(labels.header), labels)

    def keep_detections(self, message: Any) -> None:
        """New detections have come (vision_msgs/Detection2DArray): names of the masks of their stamp."""
        _keep(self._detections, stamp_ns(message.header), message)

    def newest_frame(self) -> bytes:
        """The newest frame that has labels, as it came.

        Raises:
            NoImage: There is none, or it is older than max_image_age_s.
        """
        most_s = self._parameters().max_image_age_s
        for stamp, kept in reversed(self._frames.items()):
            if stamp in self._labels and time.monotonic() - kept.came <= most_s:
                return kept.serialized
        raise NoImage(f"no proposals have come on {self._topic()} for an image of the last {most_s:g} s; {self._why()}")

    def of(self, frame: Frame) -> PackedLabels:
        """The proposals of a frame.

        Raises:
            NoImage: There are no labels of its stamp.
            ImageError: They have another size or encoding, or are too many to be sent.
        """
        stamp = stamp_ns(frame.header)
        labels = self._labels.get(stamp)
        if labels is None or not stamp:
            raise NoImage(f"no proposals with the stamp of the image have come on {self._topic()}; {self._why()}")
        pixels = self._pixels(labels, frame.size)
        names, scores = _names(pixels, self._detections.get(stamp))
        packed = PackedLabels.of(pixels, names, scores)
        if len(packed.data) > MOST_PACKED:
            raise ImageError(
                f"the labels image on {self._topic()} is too detailed to be sent ({len(packed.data)} bytes packed, at "
                f"most {MOST_PACKED}); publish fewer and smoother masks"
            )
        return packed

    def forget(self) -> None:
        """Let go of everything."""
        for kept in (self._frames, self._labels, self._detections):
            kept.clear()

    def _why(self) -> str:
        if not self._labels:
            return f"no labels image has come at all{self._trouble}: is the other node running?"
        newest = next(reversed(self._labels)) / 1e9
        return f"the newest labels are of stamp {newest:.3f}{self._trouble}: they need the stamp of the image itself"

    def _pixels(self, labels: SerializedImage, size: tuple[int, int]) -> NDArray[np.integer]:
        """(H, W) whole numbers."""
        if labels.encoding not in KINDS:
            raise ImageError(
                f"the labels image on {self._topic()} is {labels.encoding!r}; publish one of {', '.join(KINDS)}"
            )
        if (labels.height, labels.width) != size:
            raise ImageError(
                f"the labels image on {self._topic()} is {labels.width} x {labels.height}, the image is {size[1]} x "
                f"{size[0]}; publish labels of the image's size"
            )
        kind = np.dtype(KINDS[labels.encoding]).newbyteorder(">" if labels.is_bigendian else "<")
        step = labels.step or labels.width * kind.itemsize
        needed = step * (labels.height - 1) + labels.width * kind.itemsize
        if step < labels.width * kind.itemsize or len(labels.data) < needed:
            raise ImageError(
                f"the labels image on {self._topic()} has {len(labels.data)} bytes in rows of {step}; "
                f"{labels.width} x {labels.height} in {labels.encoding} need {needed}"
            )
        return np.ndarray(size, kind, buffer=labels.data, strides=(step, kind.itemsize))


def _keep(kept: OrderedDict[int, Any], stamp: int, value: Any) -> None:
    kept.pop(stamp, None)
    kept[stamp] = value
    while len(kept) > KEPT_LABELS:
        kept.popitem(last=False)


def _names(labels: NDArray[np.integer], detections: Any) -> tuple[dict[int, str], dict[int, float]]:
    """Names and scores by label: of the detection whose id is the label, or else of the one with the same box."""
    names: dict[int, str] = {}
    scores: dict[int, float] = {}
    if detections is None:
        return names, scores
    boxes = {crop.label: (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height) for crop in crops_of(labels)}
    for detection in detections.detections:
        best = max(detection.results, key=lambda result: result.hypothesis.score, default=None)
        if best is None:
            continue
        number = int(detection.id) if str(detection.id).isdecimal() else 0
        label = number if number in boxes else _same_box(detection.bbox, boxes)
        if label:
            names[label] = str(best.hypothesis.class_id)
            scores[label] = float(np.clip(best.hypothesis.score, 0.0, 1.0))
    return names, scores


def _same_box(bbox: Any, boxes: dict[int, tuple[int, int, int, int]]) -> int:
    """The label whose box overlaps a detection's most; 0 where none does enough."""
    x, y = bbox.center.position.x, bbox.center.position.y
    own = (x - bbox.size_x / 2, y - bbox.size_y / 2, x + bbox.size_x / 2, y + bbox.size_y / 2)
    ious = {label: _iou(own, box) for label, box in boxes.items()}
    best = max(ious, key=lambda label: ious[label], default=0)
    return best if best and ious[best] >= SAME_BOX else 0


def _iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inside = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return inside / max(areas - inside, 1e-9)
