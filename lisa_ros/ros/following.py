"""~/tracked: the masks of the last answer on every newer frame, until something else is asked, ~/clear, or loss.

Following costs nothing while nobody subscribes: the answer's picture is kept, and work begins with the first frame that
somebody wants.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_srvs.srv import Trigger

from lisa_ros.errors import ImageError
from lisa_ros.perception.tracking import State, Tracker
from lisa_ros.ros.cameras import Camera
from lisa_ros.ros.follower import Arrived, Followed, Follower, Masks, Pursuit, Sighting, Trail
from lisa_ros.ros.markers import Markers
from lisa_ros.ros.messages import tracked_message
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.queue import Answer, Frame, Request

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60.0  # between two questions to the model about one thing that it does not find


@dataclass(frozen=True, eq=False)
class TakenUp:
    """The camera's frame that the model works on, and what came since."""

    frame: Frame
    trail: Trail = field(default_factory=Trail)


class Tracks:
    """On the executor's thread: what is followed, and what is published of it; the work is the follower's.

    publisher: of ~/tracked. pixels: (H, W, 3) uint8 of the frame that was taken up last. post: brings a sighting from
    the follower's thread to ``handle``. ask: RequestQueue.look_again.
    """

    def __init__(
        self,
        publisher: Any,
        pixels: Callable[[Frame], NDArray[np.uint8]],
        parameters: Callable[[], Parameters],
        post: Callable[[Sighting], None],
        ask: Callable[[Request], bool],
        markers: Markers,
    ) -> None:
        self._publisher = publisher
        self._pixels = pixels
        self._parameters = parameters
        self._ask = ask
        self._markers = markers
        self._post = post
        self._follower: Follower | None = None
        self._count = itertools.count(1)
        self._taken_up: TakenUp | None = None
        self._followed: Followed | None = None
        self._things = 0  # that are not lost
        self._farewell: Followed | None = None  # it is to be said that these are followed no more
        self._ask_at = self._pause_s = 0.0

    # --- from the lifecycle

    def configure(self, tracker: Callable[[], Tracker]) -> None:
        """From now on masks can be followed. tracker: makes what does it, on the follower's thread."""
        self._follower = Follower(lambda: Pursuit(tracker(), lambda: self._parameters().search_s), self._post)

    def deactivate(self) -> None:
        """Follow nothing, without a word: there will be no frame to say it under."""
        self._stop()
        self._farewell = self._taken_up = None

    def cleanup(self) -> None:
        """End the thread, and free what the tracker took."""
        self.deactivate()
        if self._follower is not None:
            self._follower.close()
        self._follower = None

    # --- from the camera

    def take_up(self, frame: Frame) -> None:
        """The model begins to work on this frame of a camera."""
        self._taken_up = TakenUp(frame)

    def see(self, camera: Camera, serialized: bytes) -> None:
        """A new frame has come."""
        if not (self._taken_up or self._followed or self._farewell) or not self._publisher.get_subscription_count():
            return
        frame = Arrived(camera, serialized, time.monotonic())
        if self._taken_up is not None and self._taken_up.frame.camera == camera.name:
            self._taken_up.trail.add(frame)
        if self._farewell is not None and self._farewell.camera == camera.name:
            self._say_farewell(self._farewell, frame)
        if self._follower is not None and self._followed is not None and self._followed.camera == camera.name:
            self._follower.see(frame)

    # --- from the queue

    def answered(self, answer: Answer) -> None:
        """Follow its masks, if the model answered about a camera's frame."""
        trail = self._trail_to(answer)
        if trail is None or answer.frame is None:
            return
        self._stop()
        if answer.crops and self._parameters().use_tracking and self._follower is not None:
            camera = answer.frame.camera
            self._followed = Followed(answer.request_id, answer.command, answer.session, camera)
            self._farewell = None
            self._things = len(answer.crops)
            self._ask_at, self._pause_s = 0.0, self._parameters().redetect_period_s
            self._follower.start(self._followed, self._masks_of(answer, answer.frame, trail))

    def _trail_to(self, answer: Answer) -> list[Arrived] | None:
        """The frames since the one that was taken up; None where the answer is not about that one."""
        taken_up = self._taken_up
        if taken_up is None or answer.header is not taken_up.frame.header:
            return None
        self._taken_up = None
        return taken_up.trail.frames

    def _masks_of(self, answer: Answer, frame: Frame, trail: list[Arrived]) -> Masks:
        # A copy: the next command's frame comes into the same memory.
        return Masks(answer.header, self._pixels(frame).copy(), answer.crops, trail)

    # --- from the follower

    def handle(self, sighting: Sighting) -> None:
        """Publish it, unless something else is followed by now."""
        followed = sighting.followed
        if followed is not self._followed:
            return
        self._things = sum(one.state is not State.LOST for one in sighting.tracked)
        self._publisher.publish(tracked_message(sighting))
        self._markers.seen(sighting)
        if sighting.ended or not self._parameters().use_tracking:
            logger.info("%s: masks are followed no more: %s", followed.request_id, sighting.ended or "use_tracking")
            self._forget()
        else:
            self._look_again(followed, sighting.wants_detection)

    def _look_again(self, followed: Followed, wanted: bool) -> None:
        """Ask the model, where the tracker is in doubt; less and less often while that does not help."""
        period_s = self._parameters().redetect_period_s
        if not wanted:
            self._pause_s = period_s
        # "No, the other one" means nothing without what was said before, which is not for us to add to.
        if not wanted or not period_s or followed.session or time.monotonic() < self._ask_at:
            return
        request_id = f"{followed.request_id}-again-{next(self._count)}"
        request = Request(request_id, followed.command, partial(self._looked_again, followed), camera=followed.camera)
        if self._ask(request):
            self._ask_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _looked_again(self, followed: Followed, answer: Answer) -> None:
        trail = self._trail_to(answer)
        if trail is None or answer.frame is None or not answer.crops or followed is not self._followed:
            return
        if self._follower is not None:
            self._follower.redetect(self._masks_of(answer, answer.frame, trail))

    # --- from people

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
            self._farewell = self._followed
            self._forget()

    def _forget(self) -> None:
        self._followed = None
        if self._follower is not None:
            self._follower.forget()

    def _say_farewell(self, followed: Followed, frame: Arrived) -> None:
        """A last message without masks, under the header of the first frame that has none."""
        try:
            header = frame.header
        except ImageError:
            return  # the next one may be an image again
        self._farewell = None
        sighting = Sighting(followed, header, [], ended="cleared")
        self._publisher.publish(tracked_message(sighting))
        self._markers.seen(sighting)
