"""Depth images: a short history, and from it the one of the moment that a command is about."""

from __future__ import annotations

import functools
import logging
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ImageError
from lisa_ros.perception.calibration import distortion, pinhole
from lisa_ros.perception.geometry import Camera, Object3D, clamp_of, depth_image, locate
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.serialized_image import SerializedImage, read_image
from lisa_ros.runtime.requests import Frame

logger = logging.getLogger(__name__)

Measurement = Callable[[], list[Object3D]]

KEPT = 10  # depth images: a third of a second at 30 Hz. What a running command needs is held beside them
MOST_BYTES_PER_PIXEL = 4  # 32FC1
LATEST_S = 0.2  # so far behind its image depth may come
STILL = 3  # depth images of one stamp: then stamps say nothing of time
NEAREST_M = 50.0  # where nothing of a float depth image is nearer, it is taken for millimetres


class Depths:
    """Keeps depth messages as they came; one is looked at only when an answer has masks.

    Args:
        parameters: The current ones.
        topic: Name of the image topic, for messages.
        camera_info: The calibration for a frame's header and size, None where it is not known.

    Attributes:
        trouble: Why the last frame was not measured; empty where it was.
    """

    def __init__(
        self,
        parameters: Callable[[], Parameters],
        topic: Callable[[], str],
        camera_info: Callable[[Any, tuple[int, int]], CameraInfo | None],
    ) -> None:
        self._parameters = parameters
        self._topic = topic
        self._camera_info = camera_info
        self._kept: deque[SerializedImage] = deque(maxlen=KEPT)
        self._held_for: Any = None
        self._held: SerializedImage | None = None
        self._warned: set[str] = set()
        self.trouble = ""

    def keep(self, serialized: bytes) -> None:
        """A new depth image has come; it may be the one that the running command needs."""
        if len(serialized) > MOST_BYTES_PER_PIXEL * self._parameters().max_image_pixels + 65536:
            self._refuse(f"a depth image has {len(serialized)} bytes, more than max_image_pixels allows; raise it")
            return
        try:
            depth = read_image(serialized)
        except ImageError as error:
            self._refuse(str(error))
            return
        self._kept.append(depth)
        # Only what is nearer replaces what is held: where all stamps are alike, it was the newest of its moment.
        if self._held_for is not None and (self._held is None or self._away(depth) < self._away(self._held)):
            self._held = depth

    def hold(self, frame: Frame) -> None:
        """From now on keep the depth image of this frame's moment, also one that comes later."""
        self._held_for, self._held = frame.header, None
        if frame.sent and not nanoseconds(frame.header.stamp):
            self._held_for = None  # a caller's image without a stamp may be of any moment
            return
        for depth in self._kept:
            # The newest of several that are as near: stamps of 0, or stamps that stand still, say nothing of time.
            if self._held is None or self._away(depth) <= self._away(self._held):
                self._held = depth

    def forget(self) -> None:
        """Let go of every depth image."""
        self._kept.clear()
        self._held_for = self._held = None

    def measurement(self, frame: Frame, crops: list[MaskCrop]) -> Measurement | None:
        """What gives every mask in metres, in the same order: a call for another thread, which keeps what it needs.

        None, and a warning once, where depth cannot be used.
        """
        held = self._held if self._held_for is frame.header else None
        return self._measurement(frame.header, frame.size, crops, held)

    def of(self, frame: Frame) -> SerializedImage | None:
        """The depth image that a frame is measured with; None where there is none that belongs to it."""
        held = self._held if self._held_for is frame.header else None
        if held is None:
            return None
        try:
            self._check(frame.header, frame.size, held)
        except ImageError:
            return None  # the measurement says it
        return held

    def locate_now(self, header: Any, size: tuple[int, int], crops: list[MaskCrop]) -> list[Object3D]:
        """Every mask in metres with a depth image that is here by now; none where there is none. On any thread."""
        now = nanoseconds(header.stamp)
        # The newest of several that are as near takes the place.
        away = {abs(nanoseconds(depth.header.stamp) - now): depth for depth in self._kept.copy()}
        if not away or min(away) / 1e9 > self._parameters().depth_slop_s:
            return []
        measurement = self._measurement(header, size, crops, away[min(away)])
        return measurement() if measurement is not None else []

    def awaits(self, header: Any) -> bool:
        """Whether the depth image of this moment may be on its way: the newest one is a little older. On any thread."""
        newest = [nanoseconds(depth.header.stamp) for depth in self._kept.copy()][-1:]
        slop_s = self._parameters().depth_slop_s
        return any(slop_s < (nanoseconds(header.stamp) - ns) / 1e9 < LATEST_S for ns in newest)

    def _measurement(
        self, header: Any, size: tuple[int, int], crops: list[MaskCrop], depth: SerializedImage | None
    ) -> Measurement | None:
        if depth is None:
            return None
        try:
            self._check(header, size, depth)
            return functools.partial(self._locate, depth, self._camera_of(header, size), crops)
        except ImageError as error:
            self._refuse(str(error))
            return None

    def _locate(self, depth: SerializedImage, camera: Camera, crops: list[MaskCrop]) -> list[Object3D]:
        """None of them whatever goes wrong with depth: the masks themselves are answered."""
        try:
            pixels = pixels_of(depth)
            check_unit(pixels)
            clamp = clamp_of(pixels)
            if clamp is not None:
                self._warn_once(
                    f"depth ends at {clamp:g} {'mm' if pixels.dtype.kind == 'u' else 'm'}, which many pixels share",
                    "there nothing was measured",
                )
            things = [locate(crop, pixels, camera, clamp=clamp) for crop in crops]
            self.trouble = ""
            return things
        except ImageError as error:
            self._refuse(str(error))
        except Exception:
            logger.error("%s", traceback.format_exc())
        return []

    def _check(self, header: Any, size: tuple[int, int], depth: SerializedImage) -> None:
        """Raise ImageError unless they belong together."""
        slop_s = self._parameters().depth_slop_s
        asked, there = nanoseconds(header.stamp), nanoseconds(depth.header.stamp)
        away_s = abs(there - asked) / 1e9
        if away_s > slop_s and not (asked and there):
            raise ImageError(
                f"{'depth' if asked else 'the image'} has no stamp (0), {'the image' if asked else 'depth'} has one; "
                "let the driver stamp both by one clock"
            )
        if away_s > slop_s:
            raise ImageError(
                f"the nearest depth image is {away_s:.3f} s from the frame, more than depth_slop_s = {slop_s:g}; "
                "publish depth with the image's stamp, or raise it"
            )
        if depth.header.frame_id != header.frame_id:
            raise ImageError(
                f"depth is in the frame {depth.header.frame_id!r}, the image in {header.frame_id!r}; "
                "publish depth aligned to the colour image"
            )
        if (depth.height, depth.width) != size:
            raise ImageError(
                f"depth of {depth.width}x{depth.height} with a camera of {size[1]}x{size[0]}; "
                "publish depth aligned to the colour image"
            )
        pixels_of(depth)
        if away_s == 0 and (not there or self._stands_still(there)):
            self._warn_once(
                "image and depth have no stamps, or stamps that stand still; let the driver stamp them",
                "the newest depth image is taken for each frame",
            )

    def _stands_still(self, stamp_ns: int) -> bool:
        return [nanoseconds(depth.header.stamp) for depth in self._kept.copy()].count(stamp_ns) >= STILL

    def _camera_of(self, header: Any, size: tuple[int, int]) -> Camera:
        info = self._camera_info(header, size)
        if info is None:
            raise ImageError("there is depth, but no camera_info of the image's size and frame; remap camera_info:=")
        camera = pinhole(info)
        topic = self._topic()
        if (lens := distortion(info)) and "rect" not in topic:
            self._warn_once(
                f"camera_info has distortion ({lens}) and {topic} does not look rectified; run image_proc's rectify "
                f"node and remap image:={topic.rpartition('/')[0]}/image_rect",
                "results in metres may be wrong",
            )
        return camera

    def _away(self, depth: SerializedImage) -> int:
        """Nanoseconds from the frame that depth is held for."""
        return abs(nanoseconds(depth.header.stamp) - nanoseconds(self._held_for.stamp))

    def _refuse(self, reason: str) -> None:
        self.trouble = reason
        self._warn_once(reason)

    def _warn_once(self, text: str, effect: str = "no 3-D results") -> None:
        """Numbers differ from frame to frame: a text is known by its words."""
        kind = "".join(character for character in text if not character.isdigit())
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s: %s", effect, text)


def pixels_of(depth: SerializedImage) -> NDArray[np.uint16] | NDArray[np.float32]:
    """A view (H, W) of a depth message, see :func:`depth_image`. Raises ImageError for what is no depth image."""
    return depth_image(depth.data, depth.encoding, depth.height, depth.width, depth.step, bool(depth.is_bigendian))


def check_unit(depth: NDArray[np.uint16] | NDArray[np.float32]) -> None:
    """Raise ImageError for float depth (H, W) in millimetres: what a robot's camera sees is not all so far away."""
    if depth.dtype.kind != "f":
        return
    some = depth[::8, ::8]
    some = some[np.isfinite(some) & (some > 0)]
    if some.size and (near := float(np.percentile(some, 1))) > NEAREST_M:
        raise ImageError(
            f"32FC1 depth begins at {near:.4g} m, as if in millimetres; publish metres, or 16UC1 with millimetres"
        )


def nanoseconds(stamp: Any) -> int:
    """Of a builtin_interfaces/Time; rclpy's own Time refuses a negative one."""
    return int(stamp.sec * 10**9 + stamp.nanosec)
