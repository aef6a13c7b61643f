"""The node: camera images and commands in, masks and answers out, under a lifecycle.

Everything moves one way: cameras -> queue -> transport -> engine -> results -> publishers and following. A re-detection
is a value that following returns; the node submits it like any other request.

One thread runs every callback, the model is in another process. A callback converts, calls and publishes, and never
waits.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import inspect
import logging
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lisa_ros.engine.api import Region
from lisa_ros.engine.registry import check_model
from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.msg import Watch
from lisa_ros.perception.tracking import Tracker
from lisa_ros.ros import parameters
from lisa_ros.ros.cameras import Cameras
from lisa_ros.ros.diagnostics import PERIOD_S, Diagnostics, Mismatches
from lisa_ros.ros.endpoints import REQUESTS, Endpoints
from lisa_ros.ros.follower import Sighting
from lisa_ros.ros.following import Following
from lisa_ros.ros.logs import RosHandler
from lisa_ros.ros.publishers import OVERRIDABLE, Publishers
from lisa_ros.ros.standing import StandingCommand
from lisa_ros.runtime import worker
from lisa_ros.runtime.queue import DISABLED, RequestQueue
from lisa_ros.runtime.requests import FINALIZED, UNCONFIGURED, Frame, Measured, NodeState, Result
from lisa_ros.runtime.status import State
from lisa_ros.runtime.transport import SharedMemory

PARTING_S = 0.3  # for the last answers to be sent before the node ends


class Outlet:
    """Where the queue's frames, results and states go: the publishers, then what follows the masks."""

    def __init__(self, publishers: Publishers, following: Following) -> None:
        self.frame_taken = following.frame_taken
        self.publish_early = publishers.publish_early
        self.publish_progress = publishers.publish_progress
        self.publish_state = publishers.publish_state
        self._publish_result = publishers.publish_result
        self._follow = following.take_result

    def publish_result(self, result: Result) -> None:
        try:
            self._publish_result(result)
        finally:
            self._follow(result)


class LisaNode(LifecycleNode):
    """Wires the parts. Raises ConfigError for parameters that cannot be used.

    Endpoints, publishers and the queue exist as long as the node, so that a command is answered in every state. The
    worker and its transport come with configure and go with cleanup; cameras are subscribed to while it is active.

    Attributes:
        ended: Is done when the node has been stopped and everybody has their answer.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._closing = contextlib.ExitStack()  # first: rclpy (9.1) also destroys a node whose making failed
        super().__init__("lisa", **kwargs)
        try:
            self._make()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.destroy_node()  # while ROS is there: a half-made node that outlives it can crash the process
            raise

    def _make(self) -> None:
        self.ended = Future()
        self._active, self._enabled = False, True
        self.parameters = parameters.declare(self)
        # A wrong name or a missing package ends the node at once, as other wrong parameters do.
        tracker_of(self.parameters)
        check_model(self.parameters.model)
        log_handler = RosHandler(self.get_logger())
        log_handler.addFilter(lambda _: self.context.ok())  # failures after ROS's shutdown are no news
        logging.getLogger().addHandler(log_handler)
        self._closing.callback(logging.getLogger().removeHandler, log_handler)
        logging.getLogger("lisa_ros").setLevel(logging.INFO)

        self._events: deque[worker.Event | Measured | Sighting] = deque()
        self._events_came = self.create_guard_condition(self._guarded(self._drain))
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._alarm = self.create_timer(3600.0, self._guarded(self._ring), clock=self._steady)
        self._alarm.cancel()
        self._alarm_at: float | None = None

        # Numpy and OpenCV release Python's lock: callbacks are served while masks are measured and drawn.
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="lisa-aside")
        self._closing.callback(self._aside.shutdown)  # after its last picture: publishers are there until then

        current = self._current_parameters
        self._held = contextlib.ExitStack()  # what configure made and cleanup frees
        mismatches = Mismatches(self)
        publishers = Publishers(self, current, mismatches, self._aside.submit)
        self._mismatches = mismatches
        self._following = Following(
            publishers.tracked, publishers.tracked_overlay, publishers.markers, current, self._event_came
        )
        self._cameras = Cameras(self, current, self._now_s, self._following.see, self._following.depth_came)
        outlet = Outlet(publishers, self._following)
        self._queue = RequestQueue(self._cameras, outlet, current, self._wake_at, measure=self._measure)
        standing = StandingCommand(self, self._queue, self._steady)
        diagnostics = Diagnostics(self, self._queue, self._cameras, mismatches, standing)
        self.create_timer(PERIOD_S, self._guarded(diagnostics.publish), clock=self._steady)
        self._closing.callback(self._free)  # not before there is all that it frees
        self._clear = self.create_service(Trigger, "~/clear", self._following.clear)
        endpoints = Endpoints(self, self._queue, current, publishers.messages)
        self._command = self.subscribe(String, "~/command", endpoints.command, REQUESTS)
        self._commands = [
            self.subscribe(String, f"~/{name}/command", functools.partial(endpoints.command, camera=name), REQUESTS)
            for name in filter(None, self.parameters.camera_names)
        ]
        self._watch = self.subscribe(Watch, "~/watch", standing.take, REQUESTS)
        self._enable = self.create_service(SetBool, "~/enable", self._set_enabled)

        self.add_on_set_parameters_callback(self._parameters_set)
        publishers.publish_state(self._queue.state)
        answer_bad_transitions(self)
        if self.parameters.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # --- lifecycle

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load the model; ~/status shows when it is ready."""
        return self._passing(self._hold)

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Open the cameras and take commands. FAILURE where the model could not be loaded."""

        def activate() -> None:
            self._queue.activate()
            self._active = True
            if self._enabled:
                self._cameras.activate()

        return self._passing(activate)

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Answer what is open and close the cameras; the model stays."""

        def deactivate() -> None:
            self._queue.deactivate()
            self._active = False
            self._cameras.deactivate()
            self._following.deactivate()

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

    def _set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """~/enable: take commands and listen to cameras, or neither; the model stays."""
        response.message = "commands are taken" if request.data else DISABLED
        try:
            self._enabled = request.data
            self._queue.enable(request.data)
            if not request.data:
                self._cameras.deactivate()
                self._following.deactivate()
            elif self._active:
                self._cameras.activate()
            response.success = True
        except Exception as error:  # it is answered all the same
            self.get_logger().error(traceback.format_exc())
            response.message = f"{type(error).__name__}: {error}; see the node's log"
        return response

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
        """Make what the model needs: the worker, and the transport that it gets frames by."""
        check_model(self.parameters.model)
        with contextlib.ExitStack() as made:
            transport = SharedMemory(self.parameters.max_image_pixels)
            made.callback(transport.close)
            model = worker.Worker(settings_from(self.parameters), transport, self._event_came)
            made.callback(model.close)
            self._queue.configure(model, transport)
            self._following.configure(tracker_of(self.parameters))
            made.callback(self._following.cleanup)
            model.start()
            self._held = made.pop_all()

    def _free(self, state: NodeState = UNCONFIGURED) -> None:
        self._queue.cleanup(state)
        self._active = False
        self._cameras.deactivate()
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
            copy.copy(qos),  # rclpy writes the topic's overrides into the object it is given
            raw=raw,
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            event_callbacks=self._mismatches.of_subscription(topic, message_lost=on_lost),
        )

    def _current_parameters(self) -> parameters.Parameters:
        return self.parameters

    def _measure(self, request_id: str, frame: Frame, regions: Sequence[Region]) -> bool:
        """Measure on a thread of its own; what comes of it is an event. False where there is no depth."""
        measurement = frame.source.measurement(frame, regions)
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
            if isinstance(event, worker.PartialText) and isinstance(newer, worker.PartialText):
                continue  # tokens came faster than they are passed on: the newest one has them all
            handle(event)

    def _handle(self, event: worker.Event | Measured | Sighting) -> None:
        if isinstance(event, Sighting):
            redetection = self._following.handle(event)
            if redetection is not None:
                self._queue.submit(redetection)
        else:
            self._queue.handle(event)

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
        self._queue.tick()

    def _parameters_set(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            configured = self._queue.state.state not in (State.UNCONFIGURED, State.FINALIZED)
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
        model=values.model,
        options=values.engine_options,
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
    """What makes the tracker that the parameters name. Raises ConfigError."""
    module, _, name = values.tracker.partition(":")
    try:
        maker: Callable[..., Tracker] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"tracker is {values.tracker!r}: {error}; give module:callable") from error
    options = values.named_tracker_options
    try:
        inspect.signature(maker).bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"tracker_options is {list(values.tracker_options)!r}, but {values.tracker}: {error}; give its options as "
            "name=value"
        ) from error
    return functools.partial(maker, **options)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is asked to stop. Returns the process's exit code.

    Python's signal handlers run on the main thread only, and not while it waits in rclpy; rclpy's own ones end ROS
    before the last answers are out. So the node has a thread to itself, and this one waits for signals.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError; it has no public name
        print(f"lisa_node: {refusal(error)}", file=sys.stderr)
        return 2
    executor = SingleThreadedExecutor()
    stopping, ended = threading.Event(), threading.Event()

    def stop(*_: Any) -> None:
        if not stopping.is_set():
            stopping.set()
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
    except (LisaError, NameValidationException) as error:
        print(f"lisa_node: {' '.join(str(error).split())}", file=sys.stderr)
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


def refusal(error: RuntimeError) -> str:
    """In one line why ROS refuses the arguments, and what to do."""
    reason = str(error).removeprefix("failed to initialize rcl: ").partition(". Error:")[0]
    reason = " ".join(reason.partition(", at /")[0].split())
    if "params file" in reason:
        return f"{reason}; give a YAML file such as a copy of config/lisa.yaml"
    return f"{reason}; names of topics and nodes have letters, digits, _ and /, no blanks and no -"


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
