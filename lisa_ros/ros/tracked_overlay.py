"""~/tracked_overlay/compressed: followed masks drawn on their frame, as JPEG, for Foxglove, rqt and slow networks."""

from __future__ import annotations

import logging
import threading
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

QUALITY = 80  # of JPEG


class TrackedOverlay:
    """Drawn only while somebody subscribes; frames are left out where drawing does not keep up.

    Args:
        publisher: Of the topic.
        parameters: The current ones.
        aside: Has a call made on another thread, one at a time.
    """

    def __init__(
        self, publisher: Any, parameters: Callable[[], Parameters], aside: Callable[[Callable[[], None]], object]
    ) -> None:
        self._publisher, self._parameters, self._aside = publisher, parameters, aside
        self._lock = threading.Lock()
        self._newest: Sighting | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody subscribes."""
        return bool(self._publisher.get_subscription_count())

    def take(self, sighting: Sighting) -> None:
        """Have it drawn."""
        if sighting.rgb is None or not self.is_wanted:
            return
        with self._lock:
            idle, self._newest = self._newest is None, sighting
        if idle:
            self._aside(self._draw)

    def _draw(self) -> None:
        with self._lock:
            sighting, self._newest = self._newest, None
        try:
            if sighting is not None:
                self._publisher.publish(self._message(sighting))
        except Exception:
            logger.error("%s", traceback.format_exc())

    def _message(self, sighting: Sighting) -> CompressedImage:
        assert sighting.rgb is not None
        seen = [one for one in sighting.tracked if one.state is not State.LOST]
        names = [sighting.followed.phrases.get(one.id, "") or sighting.followed.command for one in seen]
        rgb = draw_overlay(sighting.rgb, [one.crop for one in seen], self._parameters().overlay_opacity, names)
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        message = CompressedImage(header=sighting.header, format="rgb8; jpeg compressed bgr8")
        message.data.frombytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
        return message
