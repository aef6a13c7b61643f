"""~/overlay and ~/points: what takes longer to draw than a callback may, on another thread."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.ros.messages import cloud_message, image_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Result

logger = logging.getLogger(__name__)

MOST_WAITING = 2  # each holds a frame


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is to be drawn of a result."""

    result: Result
    overlay: bool
    points: bool


class Pictures:
    """Drawn only while somebody subscribes; an older result's are left out where drawing does not keep up.

    Args:
        overlay: Publisher of ~/overlay.
        points: Publisher of ~/points.
        parameters: The current ones.
        aside: Has a call made on another thread, one at a time.
    """

    def __init__(
        self,
        overlay: Any,
        points: Any,
        parameters: Callable[[], Parameters],
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._overlay = overlay
        self._points = points
        self._parameters = parameters
        self._aside = aside
        self._waiting: deque[Drawing] = deque(maxlen=MOST_WAITING)

    def take_result(self, result: Result) -> None:
        """Have them drawn, if the engine answered."""
        overlay = self._overlay.get_subscription_count() > 0
        points = bool(result.objects) and self._points.get_subscription_count() > 0
        if result.frame is not None and (overlay or points):
            self._waiting.append(Drawing(result, overlay, points))
            self._aside(self._draw)

    def _draw(self) -> None:
        try:
            drawing = self._waiting.popleft()
        except IndexError:  # it was left out for a newer one
            return
        try:
            self._publish(drawing)
        except Exception:
            logger.error("%s", traceback.format_exc())

    def _publish(self, drawing: Drawing) -> None:
        result, parameters = drawing.result, self._parameters()
        assert result.frame is not None
        rgb = result.frame.rgb
        if drawing.overlay:
            crops = [region.mask for region in result.regions]
            phrases = [region.phrase or result.command for region in result.regions]
            picture = draw_overlay(rgb, crops, parameters.overlay_opacity, phrases)
            self._overlay.publish(image_message(result.header, picture, "rgb8"))
        if drawing.points:
            self._points.publish(cloud_message(result.header, result.objects, rgb, parameters.organized_points))
