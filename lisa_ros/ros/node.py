"""The node: camera images and commands in, masks and answers out.

One thread runs every callback, the model is in another process. A callback converts, calls and publishes, and never
waits.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from lisa_ros import worker
from lisa_ros.errors import ConfigError
from lisa_ros.frame_memory import FrameMemory
from lisa_ros.models import default_model
from lisa_ros.ros import parameters
from lisa_ros.ros.depths import Depths
from lisa_ros.ros.doors import Doors
from lisa_ros.ros.frames import Frames
from lisa_ros.ros.logs import RosHandler
from lisa_ros.ros.requests import RequestQueue
from lisa_ros.ros.topics import Topics

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches a publisher of either reliability
DEPTHS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # none is skipped: one of them is needed
COMMANDS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class LisaNode(Node):
    """Wires the parts. Raises ConfigError for parameters that cannot be used."""

    def __init__(self, **kwargs: Any) -> None:
        self._closing = contextlib.ExitStack()  # first: rclpy (9.1) also destroys a node whose making failed
        super().__init__("lisa", **kwargs)
        self.parameters = parameters.declare(self)
        log_handler = RosHandler(self.get_logger())
        log_handler.addFilter(lambda _: self.context.ok())  # what fails because ROS is shut down beneath is no news
        logging.getLogger().addHandler(log_handler)
        self._closing.callback(logging.getLogger().removeHandler, log_handler)
        logging.getLogger("lisa_ros").setLevel(logging.INFO)

        self._events: deque[worker.Event] = deque()
        self._events_came = self.create_guard_condition(self._guarded(self._drain))
        self._alarm = self.create_timer(
            3600.0, self._guarded(self._ring), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._alarm.cancel()
        self._alarm_at: float | None = None

        current = self._current_parameters
        memory = FrameMemory(self.parameters.max_image_pixels)
        self._closing.callback(memory.close)
        model = worker.Worker(settings_from(self.parameters), memory, self._event_came)
        self._closing.callback(model.close)
        frames = Frames(memory, current, lambda: self._image.topic_name, self._now_s)
        topics = Topics(self, frames, current)
        depths = Depths(current, frames.camera_info)
        self._requests = RequestQueue(
            model,
            lambda image: depths.hold(frames.take(image)),
            frames.check,
            topics,
            current,
            self._wake_at,
            locate=depths.locate,
        )
        doors = Doors(self, self._requests, current)
        # raw: the bytes as they came, turned into a message only when a command needs the frame.
        self._image = self._subscribe(frames.message_type, "image", frames.keep, SENSOR, raw=True)
        self._info = self._subscribe(CameraInfo, "camera_info", frames.keep_info, SENSOR, raw=True)
        if self.parameters.use_depth:
            self._depth = self._subscribe(Image, "depth", depths.keep, DEPTHS, raw=True)
        self._command = self._subscribe(String, "~/command", doors.command, COMMANDS)

        self.add_on_set_parameters_callback(self._parameters_set)
        topics.publish_state(self._requests.state)
        model.start()

    def destroy_node(self) -> None:
        self._closing.close()
        super().destroy_node()

    def _current_parameters(self) -> parameters.Parameters:
        return self.parameters

    def _event_came(self, event: worker.Event) -> None:
        """On the worker's thread: leave the event for the executor's, and wake it."""
        self._events.append(event)
        self._events_came.trigger()

    def _drain(self) -> None:
        handle = self._guarded(self._requests.handle)  # one by one: an event that fails does not hold up the next
        while self._events:
            event = self._events.popleft()
            newer = self._events[0] if self._events else None
            if isinstance(event, worker.Answering) and isinstance(newer, worker.Answering):
                continue  # tokens came faster than they are passed on: the newest one says it all
            handle(event)

    def _wake_at(self, when: float | None) -> None:
        """Ring at ``when`` (time.monotonic), or not at all."""
        if when == self._alarm_at:
            return
        self._alarm_at = when
        if when is None:
            self._alarm.cancel()
        else:
            self._alarm.timer_period_ns = max(int((when - time.monotonic()) * 1e9), 1)
            self._alarm.reset()

    def _ring(self) -> None:
        self._alarm_at = None
        self._requests.tick()

    def _parameters_set(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self.parameters = parameters.change(self.parameters, changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile, raw: bool = False
    ) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        return self.create_subscription(
            kind, topic, self._guarded(callback), qos, raw=raw, qos_overriding_options=options
        )

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Log what goes wrong in a callback instead of ending the node."""

        @functools.wraps(callback)  # rclpy reads the signature
        def guarded(*values: Any) -> None:
            try:
                callback(*values)
            except Exception:
                self.get_logger().error(traceback.format_exc())

        return guarded

    def _now_s(self) -> float:
        return float(self.get_clock().now().nanoseconds / 1e9)


def settings_from(values: parameters.Parameters) -> worker.WorkerSettings:
    """What the worker needs of the parameters."""
    return worker.WorkerSettings(
        checkpoint=values.model or str(default_model()),
        segmenter=values.segmenter,
        vision_tower=values.vision_tower or None,
        conversation=values.conversation or None,
        device=values.device,
        precision=values.precision,
        threads=values.threads,
        kept_frames=values.kept_frames,
        max_sessions=values.max_sessions,
        max_turns=values.max_turns,
        first_pause_s=values.restart_pause_s,
    )


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop. Returns the process's exit code."""
    rclpy.init(args=args)
    try:
        node = LisaNode()
    except ConfigError as error:
        print(f"lisa_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except (KeyboardInterrupt, ExternalShutdownException):
                break
            except Exception:  # of rclpy itself, as when a client goes away while it is answered: the node lives on
                if rclpy.ok():  # and not of a shutdown that came while it was setting up its wait
                    node.get_logger().error(traceback.format_exc())
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
