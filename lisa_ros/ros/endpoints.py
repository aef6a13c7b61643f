"""The doors that a command comes in by: topic, action, service."""

from __future__ import annotations

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
from lisa_ros.ros.messages import feedback_message, fill_result
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.queue import Answer, Progress, Request, RequestQueue
from lisa_ros.runtime.status import Status
from lisa_ros.srv import SegmentImage

RESULT_TIMEOUT_S = 10  # rclpy keeps results for 900 s otherwise, and ours hold images
# ROS's default is a depth of 10: on a machine that lets the node wait for some seconds, the eleventh request pushes the
# first one out, and nobody is told. What comes is taken and answered, by BUSY at least.
REQUESTS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class Doors:
    """Turns messages into requests, and answers into messages. Everything else is the queue's business."""

    def __init__(self, node: Node, requests: RequestQueue, parameters: Callable[[], Parameters]) -> None:
        self._node = node
        self._requests = requests
        self._parameters = parameters
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

    def command(self, message: String) -> None:
        """~/command: the answer goes to the topics only."""
        session = self._parameters().command_session
        self._requests.submit(
            Request(f"command-{next(self._count)}", message.data, on_answer=lambda answer: None, session=session)
        )

    async def execute(self, goal: ServerGoalHandle) -> Segment.Result:
        """~/segment."""
        try:
            answer = await self._answer(
                goal_id(goal), goal.request, duration_s(goal.request.timeout), lambda p: self._feedback(goal, p)
            )
        except Exception as error:
            answer = self._fault(error, goal_id(goal), goal.request.command)
        if answer.status in (Status.SUCCESS, Status.NOT_FOUND):
            goal.succeed()
        elif answer.status == Status.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return fill_result(Segment.Result(), answer)

    def cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        """Always accepted: a goal whose answer is on its way keeps that answer."""
        try:
            self._requests.cancel(goal_id(goal))
        except Exception:
            self._node.get_logger().error(traceback.format_exc())
        return CancelResponse.ACCEPT

    async def segment_image(self, request: SegmentImage.Request, response: SegmentImage.Response) -> Any:
        """~/segment_image."""
        request_id = f"service-{next(self._count)}"
        try:
            answer = await self._answer(request_id, request)
        except Exception as error:
            answer = self._fault(error, request_id, request.command)
        return fill_result(response, answer)

    def clear_session(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """~/clear_session: forget what was said, in every session."""
        self._requests.forget_sessions()
        response.success, response.message = True, "every session is cleared"
        return response

    async def _answer(self, request_id: str, asked: Any, timeout_s: float = 0.0, on_progress: Any = None) -> Answer:
        future = Future()
        request = Request(
            request_id,
            asked.command,
            on_answer=future.set_result,
            explain=asked.explain,
            session=asked.session,
            image=asked.image if has_image(asked.image) else None,
            camera=asked.camera,
            timeout_s=timeout_s,
        )
        if on_progress is not None:
            request.on_progress = on_progress
        self._requests.submit(request)
        return await future

    def _feedback(self, goal: ServerGoalHandle, progress: Progress) -> None:
        if goal.is_active:
            goal.publish_feedback(feedback_message(progress))

    def _fault(self, error: Exception, request_id: str, command: str) -> Answer:
        self._node.get_logger().error(traceback.format_exc())
        message = f"{type(error).__name__}: {error}; see the node's log"
        return Answer(Status.INTERNAL_ERROR, message, request_id, command)


def goal_id(goal: ServerGoalHandle) -> str:
    return bytes(goal.goal_id.uuid).hex()


def duration_s(duration: Any) -> float:
    return float(duration.sec + duration.nanosec / 1e9)


def has_image(image: Any) -> bool:
    """Whether the caller sent an image: an all-default message means that it did not."""
    return image.height > 0 or image.width > 0 or len(image.data) > 0
