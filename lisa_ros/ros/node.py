"""The node: camera images and commands in, masks and answers out, under a lifecycle.

One thread runs every callback, the model is in another process. A callback converts, calls and publishes, and never
waits.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.perception.tracking import Tracker
from lisa_ros.ros import parameters
from lisa_ros.ros.cameras import Cameras
from lisa_ros.ros.diagnostics import PERIOD_S, Diagnostics, Mismatches
from lisa_ros.ros.endpoints import REQUESTS, Doors
from lisa_ros.ros.follower import Sighting
from lisa_ros.ros.following import Tracks
from lisa_ros.ros.logs import RosHandler
from lisa_ros.ros.publishers import OVERRIDABLE, Topics
from lisa_ros.runtime import worker
from lisa_ros.runtime.frame_memory import FrameMemory
from lisa_ros.runtime.queue import FINALIZED, UNCONFIGURED, Frame, Measured, NodeState, RequestQueue
from lisa_ros.runtime.status import State
from lisa_small import model_folder

PARTING_S = 0.3  # for the last answers to be sent before the node ends


class LisaNode(LifecycleNode):
    """Wires the parts. Raises ConfigError for parameters that cannot be used.

    Doors, topics and the queue are there as long as the node, so that a command is answered in every state. The worker
    and its memory come with configure and go with cleanup; cameras are subscribed to while the node is active.

    ended: is done when the node has been stopped and everybody has their answer.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._closing = contextlib.ExitStack()  # first: rclpy (9.1) also destroys a node whose making failed
        super().__init__("lisa", **kwargs)
        try:
            self._make()
        except BaseException:
            with contextlib.suppress(Exception):  # what was wrong first is what is to be said
                self.destroy_node()  # while ROS is there: a half-made node that outlives it can crash the process
            raise

    def _make(self) -> None:
        self.ended = Future()
        self.parameters = parameters.declare(self)
        log_handler = RosHandler(self.get_logger())
        log_handler.addFilter(lambda _: self.context.ok())  # what fails because ROS is shut down beneath is no news
        logging.getLogger().addHandler(log_handler)
        self._closing.callback(logging.getLogger().removeHandler, log_handler)
        logging.getLogger("lisa_ros").setLevel(logging.INFO)

        self._events: deque[worker.Event | Measured | Sighting] = deque()
        self._events_came = self.create_guard_condition(self._guarded(self._drain))
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._alarm = self.create_timer(3600.0, self._guarded(self._ring), clock=self._steady)
        self._alarm.cancel()
        self._alarm_at: float | None = None

        # Numpy and OpenCV let go of Python's lock: callbacks are served while masks are measured and drawn.
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="lisa-aside")
        self._closing.callback(self._aside.shutdown)  # after its last picture: publishers are there until then

        current = self._current_parameters
        self._held = contextlib.ExitStack()  # what configure made and cleanup frees
        self._cameras = Cameras(self, current, self._now_s, lambda camera, frame: self._tracks.see(camera, frame))
        self._mismatches = Mismatches(self)
        topics = Topics(self, self._cameras, current, self._mismatches, self._aside.submit)
        self._requests = RequestQueue(
            self._take, self._cameras.check, topics, current, self._wake_at, measure=self._measure
        )
        diagnostics = Diagnostics(self, self._requests, self._cameras, self._mismatches)
        self.create_timer(PERIOD_S, self._guarded(diagnostics.publish), clock=self._steady)
        self._tracks = Tracks(
            topics.tracked, self._cameras.pixels, current, self._event_came, self._requests.look_again, topics.markers
        )
        self._closing.callback(self._free)  # not before there is all that it frees
        topics.listeners.append(self._tracks.answered)
        tracker_of(self.parameters)  # a wrong name ends the node at once, as other wrong parameters do
        self._clear = self.create_service(Trigger, "~/clear", self._tracks.clear)
        doors = Doors(self, self._requests, current)
        self._command = self.subscribe(String, "~/command", doors.command, REQUESTS)

        self.add_on_set_parameters_callback(self._parameters_set)
        topics.publish_state(self._requests.state)
        answer_bad_transitions(self)
        if self.parameters.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # --- lifecycle

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load the model; ~/status tells when it is there."""
        return self._passing(self._hold)

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Open the cameras and take commands. FAILURE where the model could not be loaded."""

        def activate() -> None:
            self._requests.activate()
            self._cameras.activate()

        return self._passing(activate)

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Answer what is open and close the cameras; the model stays."""

        def deactivate() -> None:
            self._requests.deactivate()
            self._cameras.deactivate()
            self._tracks.deactivate()

        return self._passing(deactivate)

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        """End the worker process, and with it all memory that the model had."""
        return self._passing(self._free)

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Free everything for good. The process lives until it is stopped, and answers NOT_READY."""
        return self._passing(lambda: self._free(FINALIZED))

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        """A transition went wrong: begin anew from UNCONFIGURED."""
        return self._passing(self._free)

    def stop(self) -> None:
        """Answer what is open, free everything, and have ``ended`` done soon."""
        try:
            self._free(FINALIZED)  # may take two seconds, and nothing is sent meanwhile
        finally:
            self.create_timer(PARTING_S, lambda: self.ended.set_result(True), clock=self._steady)

    def destroy_node(self) -> None:
        self._closing.close()
        super().destroy_node()

    def _hold(self) -> None:
        """Make what the model needs: the worker and the memory it gets frames by."""
        with contextlib.ExitStack() as made:
            memory = FrameMemory(self.parameters.max_image_pixels)
            made.callback(memory.close)
            model = worker.Worker(settings_from(self.parameters), memory, self._event_came)
            made.callback(model.close)
            self._cameras.configure(memory)
            self._requests.configure(model)
            self._tracks.configure(tracker_of(self.parameters))
            made.callback(self._tracks.cleanup)
            model.start()
            self._held = made.pop_all()

    def _free(self, state: NodeState = UNCONFIGURED) -> None:
        self._requests.cleanup(state)
        self._cameras.cleanup()
        self._held.close()
        self._events.clear()  # of a worker and a follower that are no more

    def _passing(self, step: Callable[[], None]) -> TransitionCallbackReturn:
        """What became of a transition's step; rclpy would take an exception for an ERROR and not say which."""
        try:
            step()
        except LisaError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    # --- callbacks

    def subscribe(
        self,
        kind: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile,
        raw: bool = False,
        on_lost: Callable[[Any], None] | None = None,
    ) -> Any:
        """A subscription whose callback may fail, and whose QoS may be overridden by parameters."""
        return self.create_subscription(
            kind,
            topic,
            self._guarded(callback),
            qos,
            raw=raw,
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            event_callbacks=self._mismatches.of_subscription(topic, message_lost=on_lost),
        )

    def _current_parameters(self) -> parameters.Parameters:
        return self.parameters

    def _take(self, image: Any, camera: str) -> Frame:
        frame = self._cameras.take(image, camera)
        if image is None:
            self._tracks.take_up(frame)
        return frame

    def _measure(self, request_id: str, frame: Frame, crops: list[MaskCrop]) -> bool:
        """Measure on a thread of its own; what comes of it is an event. False where there is no depth."""
        measurement = self._cameras.measurement(frame, crops)
        if measurement is None:
            return False
        measured = self._aside.submit(measurement)
        measured.add_done_callback(lambda done: self._event_came(Measured(request_id, done.result())))
        return True

    def _event_came(self, event: worker.Event | Measured | Sighting) -> None:
        """On another thread: leave the event for the executor's, and wake it."""
        self._events.append(event)
        self._events_came.trigger()

    def _drain(self) -> None:
        handle = self._guarded(self._handle)  # one by one: an event that fails does not hold up the next
        while self._events:
            event = self._events.popleft()
            newer = self._events[0] if self._events else None
            if isinstance(event, worker.Answering) and isinstance(newer, worker.Answering):
                continue  # tokens came faster than they are passed on: the newest one says it all
            handle(event)

    def _handle(self, event: worker.Event | Measured | Sighting) -> None:
        if isinstance(event, Sighting):
            self._tracks.handle(event)
        else:
            self._requests.handle(event)

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
            configured = self._requests.state.state not in (State.UNCONFIGURED, State.FINALIZED)
            self.parameters = parameters.change(self.parameters, changes, configured=configured)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

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
        checkpoint=values.model or str(model_folder()),
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


def answer_bad_transitions(node: LifecycleNode) -> None:
    """Have a transition that is not possible now answered ``success: false``; rclpy (7.1) raises and never answers."""
    service = node._service_change_state
    change_state = service.callback

    def answered(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except RuntimeError as error:  # RCLError; it has no public name
            node.get_logger().warning(f"this transition is not possible now: {error}")
            response.success = False
            return response

    service.callback = answered


def tracker_of(values: parameters.Parameters) -> Callable[[], Tracker]:
    """The callable that the parameter names. Raises ConfigError."""
    module, _, name = values.tracker.partition(":")
    try:
        tracker: Callable[[], Tracker] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"tracker is {values.tracker!r}: {error}; give module:callable") from error
    return tracker


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop. Returns the process's exit code.

    Python's signal handlers run on the main thread only, and not while it waits in rclpy; rclpy's own ones end ROS
    before the last answers are out. So the node has a thread to itself, and this one waits for signals.
    """
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    told, ended = threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        if not told.is_set():
            told.set()
            executor.create_task(lambda: node.stop())  # run when there is a node

    def run() -> None:
        try:
            spin(executor, node)
        finally:
            ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        node = LisaNode()
    except ConfigError as error:
        print(f"lisa_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor.add_node(node)
    # What is there by now stays. To look through it for garbage held the executor up for 40 ms at a time.
    gc.collect()
    gc.freeze()
    threading.Thread(target=run, name="lisa-executor", daemon=True).start()
    ended.wait()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def spin(executor: SingleThreadedExecutor, node: LisaNode) -> None:
    """Run callbacks until the node has ended or ROS is shut down.

    Not by ``spin_until_future_complete``: for every callback it runs, rclpy (7.1) leaves another one with the future.
    On a node that runs for hours that is a leak, and longer and longer pauses to collect garbage.
    """
    node.ended.add_done_callback(lambda _: executor.wake())
    while rclpy.ok() and not node.ended.done():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except Exception:  # of rclpy itself, as when a client goes away while it is answered: the node lives on
            if rclpy.ok():  # and not of a shutdown that came while it was setting up its wait
                node.get_logger().error(traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
