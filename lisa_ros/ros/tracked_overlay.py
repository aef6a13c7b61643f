"""~/tracked_overlay/compressed: live frames with the followed masks on them, as JPEG, for Foxglove and rqt."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import cv2
from sensor_msgs.msg import CompressedImage

from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.perception.tracking import State
from lisa_ros.ros.follower import Sighting
from lisa_ros.ros.parameters import Parameters

logger = logging.getLogger(__name__)

JPEG_QUALITY = 80


class TrackedOverlay:
    """Drawn only while somebody subscribes; a frame that comes while one waits takes its place.

    Args:
        publisher: Of ~/tracked_overlay/compressed.
        parameters: The current ones.
        aside: Has a call made on another thread, one at a time.
    """

    def __init__(
        self,
        publisher: Any,
        parameters: Callable[[], Parameters],
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._publisher = publisher
        self._parameters = parameters
        self._aside = aside
        self._waiting: Sighting | None = None

    @property
    def is_wanted(self) -> bool:
        return bool(self._publisher.get_subscription_count())

    def take(self, sighting: Sighting) -> None:
        """Have the frame of ``sighting`` drawn."""
        if sighting.rgb is None or not self.is_wanted:
            return
        is_drawn_soon = self._waiting is not None
        self._waiting = sighting
        if not is_drawn_soon:
            self._aside(self._draw)

    def _draw(self) -> None:
        sighting, self._waiting = self._waiting, None
        if sighting is None:
            return
        try:
            self._publisher.publish(overlay_message(sighting, self._parameters().overlay_opacity))
        except Exception:
            logger.error("%s", traceback.format_exc())


def overlay_message(sighting: Sighting, opacity: float) -> CompressedImage:
    """The frame with every mask that is seen. opacity: in [0, 1]."""
    assert sighting.rgb is not None
    crops = [one.crop for one in sighting.tracked if one.state is not State.LOST]
    phrases = [sighting.followed.phrases.get(crop.label, "") or sighting.followed.command for crop in crops]
    picture = draw_overlay(sighting.rgb, crops, opacity, phrases)
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message = CompressedImage(header=sighting.header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(jpeg.tobytes())
    return message
