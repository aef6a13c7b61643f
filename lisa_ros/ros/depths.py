"""Depth images: a short history, and from it the one of the moment that a command is about."""

from __future__ import annotations

import functools
import logging
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

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


class Depths:
    """Keeps depth messages as they came; one is looked at only when an answer has masks.

    camera_info: the calibration for a frame's header and size, None where it is not known.
    """

    def __init__(
        self, parameters: Callable[[], Parameters], camera_info: Callable[[Any, tuple[int, int]], CameraInfo | None]
    ) -> None:
        self._parameters = parameters
        self._camera_info = camera_info
        self._kept: deque[SerializedImage] = deque(maxlen=KEPT)
        self._wanted_ns: int | None = None
        self._nearest: SerializedImage | None = None
        self._warned: set[str] = set()

    def keep(self, serialized: bytes) -> None:
        """A new depth image has come; it may be the one that the running command needs."""
        if len(serialized) > MOST_BYTES_PER_PIXEL * self._parameters().max_image_pixels + 65536:
            return
        try:
            depth = read_image(serialized)
        except ImageError as error:
            self._warn_once(str(error))
            return
        self._kept.append(depth)
        if self._wanted_ns is not None and self._nearer(depth):
            self._nearest = depth

    def hold(self, frame: Frame) -> None:
        """From now on keep the depth image of this frame's moment, also one that comes later."""
        self._nearest, self._wanted_ns = None, nanoseconds(frame.header.stamp)
        for depth in self._kept:
            if self._nearer(depth):
                self._nearest = depth

    def measurement(self, frame: Frame, crops: list[MaskCrop]) -> Measurement | None:
        """What gives every mask in metres, in the same order: a call for another thread, which keeps what it needs.

        None, and a warning once, where depth cannot be used.
        """
        held = self._nearest if self._wanted_ns == nanoseconds(frame.header.stamp) else None
        return self._measurement(frame.header, frame.size, crops, held)

    def locate_now(self, header: Any, size: tuple[int, int], crops: list[MaskCrop]) -> list[Object3D]:
        """Every mask in metres with a depth image that is here by now; none where there is none. On any thread."""
        now = nanoseconds(header.stamp)
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
            self._check(header, depth)
            return functools.partial(self._locate, depth, self._camera_of(header, size), crops)
        except ImageError as error:
            self._warn_once(str(error))
            return None

    def _locate(self, depth: SerializedImage, camera: Camera, crops: list[MaskCrop]) -> list[Object3D]:
        """None of them whatever goes wrong with depth: the masks themselves are answered."""
        try:
            pixels = depth_image(
                depth.data, depth.encoding, depth.height, depth.width, depth.step, bool(depth.is_bigendian)
            )
            clamp = clamp_of(pixels)
            return [locate(crop, pixels, camera, clamp=clamp) for crop in crops]
        except ImageError as error:
            self._warn_once(str(error))
        except Exception:
            logger.error("%s", traceback.format_exc())
        return []

    def _check(self, header: Any, depth: SerializedImage) -> None:
        """Raise ImageError unless they belong together."""
        slop_s = self._parameters().depth_slop_s
        away_s = abs(nanoseconds(depth.header.stamp) - nanoseconds(header.stamp)) / 1e9
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

    def _camera_of(self, header: Any, size: tuple[int, int]) -> Camera:
        info = self._camera_info(header, size)
        if info is None:
            raise ImageError("there is depth, but no camera_info of the image's size and frame; remap camera_info:=")
        if lens := distortion(info):
            self._warn_once(
                f"camera_info has distortion ({lens}): positions in metres need rectified images; subscribe to the "
                "image_rect of image_proc",
                "3-D results may be wrong",
            )
        return pinhole(info)

    def _nearer(self, depth: SerializedImage) -> bool:
        """Than the one that is held."""
        assert self._wanted_ns is not None
        if self._nearest is None:
            return True
        away, held = (abs(nanoseconds(d.header.stamp) - self._wanted_ns) for d in (depth, self._nearest))
        return away < held

    def _warn_once(self, text: str, effect: str = "no 3-D results") -> None:
        """Numbers differ from frame to frame: a text is known by its words."""
        kind = "".join(character for character in text if not character.isdigit())
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s: %s", effect, text)


def nanoseconds(stamp: Any) -> int:
    """Of a builtin_interfaces/Time; rclpy's own Time refuses a negative one."""
    return int(stamp.sec * 10**9 + stamp.nanosec)
