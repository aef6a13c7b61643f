"""~/tracked: the masks of the last result on every newer frame, until something else is asked, ~/clear, or loss.

Following costs nothing while nobody subscribes: the result's frame is kept, and work begins with the first newer frame
that somebody wants.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from std_srvs.srv import Trigger

from lisa_ros.errors import ImageError
from lisa_ros.perception.tracking import State, Tracker
from lisa_ros.ros.cameras import Camera
from lisa_ros.ros.follower import AnsweredFrame, Followed, Follower, Pursuit, RawFrame, Sighting, Trail
from lisa_ros.ros.markers import Markers, phrases_of
from lisa_ros.ros.messages import tracked_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.ros.tracked_overlay import TrackedOverlay
from lisa_ros.runtime.requests import Frame, Request, Result
from lisa_ros.runtime.status import Status

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0  # between two re-detections of one thing that the engine does not find


@dataclass(frozen=True, eq=False)
class TakenFrame:
    """The camera's frame that the engine works on, and what came since."""

    frame: Frame
    trail: Trail = field(default_factory=Trail)


class Following:
    """On the executor's thread: what is followed, and what is published of it; the work is the follower's.

    Args:
        publisher: Of ~/tracked.
        overlay: ~/tracked_overlay.
        markers: ~/markers.
        parameters: The current ones.
        post: Brings a sighting from the follower's thread to ``handle``.
    """

    def __init__(
        self,
        publisher: Any,
        overlay: TrackedOverlay,
        markers: Markers,
        parameters: Callable[[], Parameters],
        post: Callable[[Sighting], None],
    ) -> None:
        self._publisher = publisher
        self._overlay = overlay
        self._markers = markers
        self._parameters = parameters
        self._post = post
        self._follower: Follower | None = None
        self._count = itertools.count(1)
        self._taken: TakenFrame | None = None
        self._followed: Followed | None = None
        self._source = ""  # of the command whose masks are followed
        self._things = 0  # that are not lost
        self._ended: Followed | None = None  # a last message is due: these are followed no more
        self._ask_at = self._pause_s = 0.0

    # --- from the lifecycle

    def configure(self, tracker: Callable[[], Tracker]) -> None:
        """From now on masks can be followed. tracker: makes the tracker, on the follower's thread."""
        self._follower = Follower(lambda: Pursuit(tracker(), lambda: self._parameters().search_s), self._post)

    def deactivate(self) -> None:
        """Follow nothing, without a last message: there will be no frame to publish it under."""
        self._stop()
        self._ended = self._taken = None

    def cleanup(self) -> None:
        """End the thread, and free what the tracker took."""
        self.deactivate()
        if self._follower is not None:
            self._follower.close()
        self._follower = None

    # --- from the cameras

    def see(self, camera: Camera, serialized: bytes) -> None:
        """A new frame has come."""
        wanted = self._publisher.get_subscription_count() or self._overlay.is_wanted
        if not (self._taken or self._followed or self._ended) or not wanted:
            return
        frame = RawFrame(camera, serialized, time.monotonic())
        if self._taken is not None and self._taken.frame.camera == camera.name:
            self._taken.trail.add(frame)
        if self._ended is not None and self._ended.camera == camera.name:
            self._publish_end(self._ended, frame)
        if self._follower is not None and self._followed is not None and self._followed.camera == camera.name:
            self._follower.see(frame)

    def depth_came(self) -> None:
        """A new depth image has come."""
        if self._follower is not None and self._followed is not None:
            self._follower.depth_came()

    # --- from the queue

    def frame_taken(self, frame: Frame) -> None:
        """The engine begins to work on a frame; an image that a caller sent is not followed."""
        if not frame.sent:
            self._taken = TakenFrame(frame)

    def take_result(self, result: Result) -> None:
        """Follow its masks, if the engine answered about a camera's frame."""
        answered = self._answered_frame(result)
        if answered is None or result.frame is None:
            return
        if result.source == "watch" and self._followed is not None and self._source != "watch":
            return  # what a person asked for stays followed beside a standing command
        self._source = result.source
        self._stop()
        if answered.crops and self._parameters().use_tracking and self._follower is not None:
            names = phrases_of(result.regions)
            self._followed = Followed(result.request_id, result.ask, result.session, result.frame.camera, names)
            self._ended = None
            self._things = len(answered.crops)
            self._ask_at, self._pause_s = 0.0, self._parameters().redetect_period_s
            self._follower.start(self._followed, answered)

    def _answered_frame(self, result: Result) -> AnsweredFrame | None:
        """The result's masks with the frames since; None where it is not about the frame that was taken last."""
        taken = self._taken
        if taken is None or result.header is not taken.frame.header:
            return None
        self._taken = None
        return AnsweredFrame(result.header, taken.frame.rgb, [r.mask for r in result.regions], taken.trail.frames)

    # --- from the follower

    def handle(self, sighting: Sighting) -> Request | None:
        """Publish it, unless something else is followed by now. Returns a question for the engine, where one is due."""
        followed = sighting.followed
        if followed is not self._followed:
            return None
        self._things = sum(one.state is not State.LOST for one in sighting.tracked)
        self._publisher.publish(tracked_message(sighting))
        self._markers.seen(sighting)
        self._overlay.take(sighting)
        if sighting.ended or not self._parameters().use_tracking:
            logger.info("%s: masks are followed no more: %s", followed.request_id, sighting.ended or "use_tracking")
            self._forget()
            return None
        return self._redetection(followed, sighting.wants_detection)

    def _redetection(self, followed: Followed, wanted: bool) -> Request | None:
        """Ask again where the tracker is in doubt; less and less often while that does not help."""
        period_s = self._parameters().redetect_period_s
        if not wanted:
            self._pause_s = period_s
        # "No, the other one" means nothing without the conversation before it, which is not ours to continue; a point
        # or a box is where the thing was.
        repeatable = not (followed.session or len(followed.ask.points) or followed.ask.box is not None)
        if not wanted or not period_s or not repeatable or time.monotonic() < self._ask_at:
            return None
        request_id = f"{followed.request_id}-again-{next(self._count)}"
        self._ask_at, pause_s = time.monotonic() + self._pause_s, self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        on_result = partial(self._take_redetection, followed, pause_s)
        ask = replace(followed.ask, explain=False)
        return Request(request_id, ask, on_result, camera=followed.camera, background=True, published=False)

    def _take_redetection(self, followed: Followed, pause_s: float, result: Result) -> None:
        if followed is self._followed and result.status in (Status.BUSY, Status.NOT_READY):
            self._ask_at, self._pause_s = 0.0, pause_s  # it was not asked: at the next frame, then
        answered = self._answered_frame(result)
        if answered is None or not answered.crops or followed is not self._followed:
            return
        if self._follower is not None:
            self._follower.redetect(answered)

    # --- from callers

    def clear(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """~/clear: follow nothing."""
        things = self._things if self._followed is not None else 0
        self._stop()
        self._markers.clear()
        response.success = True
        response.message = f"{things} {'mask is' if things == 1 else 'masks are'} no longer followed"
        return response

    def _stop(self) -> None:
        if self._followed is not None:
            self._ended = self._followed
            self._forget()

    def _forget(self) -> None:
        self._followed = None
        if self._follower is not None:
            self._follower.forget()

    def _publish_end(self, followed: Followed, frame: RawFrame) -> None:
        """A last message without masks, under the header of the first frame that has none."""
        try:
            header = frame.header
        except ImageError:
            return  # the next one may be an image again
        self._ended = None
        sighting = Sighting(followed, header, [], ended="cleared")
        self._publisher.publish(tracked_message(sighting))
        self._markers.seen(sighting)
