"""Command endpoints: topic, action and service."""

from __future__ import annotations

import functools
import itertools
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from lisa_ros.action import Segment
from lisa_ros.engine.api import Ask
from lisa_ros.ros.messages import ResultMessages, compact_segmentation, feedback_message, fill_result
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.queue import RequestQueue
from lisa_ros.runtime.requests import Progress, Request, Result
from lisa_ros.runtime.status import Status
from lisa_ros.srv import SegmentImage

RESULT_TIMEOUT_S = 10  # rclpy keeps results for 900 s otherwise, and ours hold images
# ROS's default is a depth of 10: on a machine that lets the node wait for some seconds, the eleventh request pushes the
# first one out without a word. Every request is taken and answered, by BUSY at least.
REQUESTS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class Endpoints:
    """Turns messages into requests, and results into messages. Everything else is the queue's business.

    Args:
        node: Has the endpoints.
        queue: Takes the requests.
        parameters: The current ones.
        messages: Shared with the publishers: each result becomes a message once.
    """

    def __init__(
        self, node: Node, queue: RequestQueue, parameters: Callable[[], Parameters], messages: ResultMessages
    ) -> None:
        self._node = node
        self._queue = queue
        self._parameters = parameters
        self._messages = messages
        self._count = itertools.count(1)
        # Reentrant: a callback that awaits its answer holds an exclusive group, and with it every other callback, for
        # as long as the model thinks.
        group = ReentrantCallbackGroup()
        self._action = ActionServer(
            node,
            Segment,
            "~/segment",
            self.execute,
            cancel_callback=self.cancel,
            callback_group=group,
            goal_service_qos_profile=REQUESTS,
            result_service_qos_profile=REQUESTS,
            cancel_service_qos_profile=REQUESTS,
            result_timeout=RESULT_TIMEOUT_S,
        )
        self._service = node.create_service(
            SegmentImage, "~/segment_image", self.segment_image, qos_profile=REQUESTS, callback_group=group
        )
        self._clear = node.create_service(Trigger, "~/clear_session", self.clear_session)

    def command(self, message: String, camera: str = "") -> None:
        """~/command, or that of a camera: the result goes to the topics only."""
        session = self._parameters().command_session
        request_id = f"command-{next(self._count)}"
        self._queue.submit(
            Request(request_id, Ask(message.data), ignore_result, session=session, source="topic", camera=camera)
        )

    async def execute(self, goal: ServerGoalHandle) -> Segment.Result:
        """~/segment."""
        try:
            timeout_s = duration_s(goal.request.timeout)
            on_progress = functools.partial(self._feedback, goal)
            result = await self._result("action", goal_id(goal), goal.request, timeout_s, on_progress)
        except Exception as error:
            result = self._fault(error, goal_id(goal), Ask(goal.request.command))
        if result.status in (Status.SUCCESS, Status.NOT_FOUND):
            goal.succeed()
        elif result.status == Status.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return self._filled(Segment.Result(), result, goal.request.compact)

    def cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        """Always accepted: a goal whose answer is on its way keeps that answer."""
        try:
            self._queue.cancel(goal_id(goal))
        except Exception:
            self._node.get_logger().error(traceback.format_exc())
        return CancelResponse.ACCEPT

    async def segment_image(self, request: SegmentImage.Request, response: SegmentImage.Response) -> Any:
        """~/segment_image."""
        request_id = f"service-{next(self._count)}"
        try:
            result = await self._result("service", request_id, request)
        except Exception as error:
            result = self._fault(error, request_id, Ask(request.command))
        return self._filled(response, result, request.compact)

    def clear_session(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """~/clear_session: forget every conversation."""
        self._queue.forget_sessions()
        response.success, response.message = True, "every session is cleared"
        return response

    async def _result(
        self, source: str, request_id: str, message: Any, timeout_s: float = 0.0, on_progress: Any = None
    ) -> Result:
        future = Future()
        request = Request(
            request_id,
            ask_of(message),
            on_result=future.set_result,
            session=message.session,
            source=source,
            image=message.image if has_image(message.image) else None,
            camera=message.camera,
            timeout_s=timeout_s,
        )
        if on_progress is not None:
            request.on_progress = on_progress
        self._queue.submit(request)
        return await future

    def _filled(self, reply: Any, result: Result, compact: bool) -> Any:
        message = self._messages.of(result)
        return fill_result(reply, compact_segmentation(message) if compact else message)

    def _feedback(self, goal: ServerGoalHandle, progress: Progress) -> None:
        if goal.is_active:
            goal.publish_feedback(feedback_message(progress, goal.request.compact))

    def _fault(self, error: Exception, request_id: str, ask: Ask) -> Result:
        self._node.get_logger().error(traceback.format_exc())
        message = f"{type(error).__name__}: {error}; see the node's log"
        return Result(Status.INTERNAL_ERROR, message, request_id, ask)


def ask_of(message: Any) -> Ask:
    """The question of a goal of the action or a request of the service; they have the same fields."""
    box = message.box
    return Ask(
        message.command,
        explain=message.explain,
        targets=tuple(message.targets),
        points=tuple((point.x, point.y) for point in message.points),
        point_labels=tuple(message.point_labels),
        box=(box.x_offset, box.y_offset, box.width, box.height) if box.width or box.height else None,
    )


def ignore_result(result: Result) -> None:
    """For commands on the topic: the result is published anyway."""
    del result


def goal_id(goal: ServerGoalHandle) -> str:
    return bytes(goal.goal_id.uuid).hex()


def duration_s(duration: Any) -> float:
    return float(duration.sec + duration.nanosec / 1e9)


def has_image(image: Any) -> bool:
    """Whether the caller sent an image: an all-default message means that it did not."""
    return image.height > 0 or image.width > 0 or len(image.data) > 0
