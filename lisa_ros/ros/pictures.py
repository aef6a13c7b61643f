"""~/overlay and ~/points: what takes longer to draw than a callback may, on another thread."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.ros.messages import cloud_message, image_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.queue import Answer, Frame

logger = logging.getLogger(__name__)

MOST_WAITING = 2  # each holds a frame


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is to be drawn of an answer. rgb: (H, W, 3) uint8, its frame."""

    answer: Answer
    rgb: NDArray[np.uint8]
    overlay: bool
    points: bool


class Pictures:
    """Drawn only while somebody subscribes; an older answer's are left out where drawing does not keep up.

    overlay, points: publishers. pixels: (H, W, 3) uint8 of the frame that was taken up last. aside: has a call made on
    another thread, one at a time.
    """

    def __init__(
        self,
        overlay: Any,
        points: Any,
        pixels: Callable[[Frame], NDArray[np.uint8]],
        parameters: Callable[[], Parameters],
        aside: Callable[[Callable[[], None]], object],
    ) -> None:
        self._overlay = overlay
        self._points = points
        self._pixels = pixels
        self._parameters = parameters
        self._aside = aside
        self._waiting: deque[Drawing] = deque(maxlen=MOST_WAITING)

    def answered(self, answer: Answer) -> None:
        """Have them drawn, if the model answered."""
        overlay = self._overlay.get_subscription_count() > 0
        points = bool(answer.objects) and self._points.get_subscription_count() > 0
        if answer.frame is None or not (overlay or points):
            return
        # A copy: the next command's frame comes into the same memory.
        self._waiting.append(Drawing(answer, self._pixels(answer.frame).copy(), overlay, points))
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
        answer, rgb, parameters = drawing.answer, drawing.rgb, self._parameters()
        if drawing.overlay:
            picture = draw_overlay(rgb, answer.crops, parameters.overlay_opacity)
            self._overlay.publish(image_message(answer.header, picture, "rgb8"))
        if drawing.points:
            self._points.publish(cloud_message(answer.header, answer.objects, rgb, parameters.organized_points))
