#!/usr/bin/env python3
"""Send one command to a running node, show how the answer comes, write the overlay: a planner's client in one page.

``python demo/ask.py "the thing to drink from" --out overlay.png`` works with any lisa_ros node on the network.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the imports below take their second

import numpy as np
import rclpy
from PIL import Image as Picture
from rclpy.action import ActionClient
from rclpy.action.client import GoalStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status
from lisa_ros.plain_text import escaped


def constants(interface: type) -> dict[str, int]:
    """The named constants of a message definition."""
    return {
        name: value for name in dir(interface) if name.isupper() and isinstance(value := getattr(interface, name), int)
    }


STAGES = {
    Segment.Feedback.STAGE_QUEUED: "waiting",
    Segment.Feedback.STAGE_ENCODING: "looking",
    Segment.Feedback.STAGE_READING: "reading",
    Segment.Feedback.STAGE_GENERATING: "answering",
    Segment.Feedback.STAGE_DECODING: "drawing the mask",
}
STATUSES = {value: name for name, value in constants(Segmentation).items()}
REFUSED = 3  # exit code: the node said why not; without any answer it is 1


class Unanswered(Exception):
    """The node did not do its part in time; the message says which."""


class Refused(Exception):
    """The node says why it cannot answer; the message is its reason."""


class Client(Node):
    """Speaks to one node: its latched status, its action, its overlay. ``node``: the node's full name, "/lisa"."""

    def __init__(self, node: str, say: Callable[[str], None]) -> None:
        super().__init__("ask")
        self._say = say
        self._status: Status | None = None
        self._overlays: dict[tuple[int, int], Image] = {}
        self._shown = ""
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Status, f"{node}/status", self._on_status, latched)
        self.create_subscription(Image, f"{node}/overlay", self._on_overlay, 10)
        self._action = ActionClient(self, Segment, f"{node}/segment")

    def _on_status(self, status: Status) -> None:
        self._status = status

    def _on_overlay(self, overlay: Image) -> None:
        self._overlays[stamp_of(overlay)] = overlay

    def _spin_until(self, done: Callable[[], bool], timeout_s: float, waiting_for: str) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise Unanswered(f"no {waiting_for} within {timeout_s:.0f} s")
            rclpy.spin_once(self, timeout_sec=0.1)

    def wait_until_ready(self, timeout_s: float) -> Status:
        """Wait for the model, saying how far it is. Raises Unanswered, or Refused when the node says it cannot load."""
        said = ""

        def ready() -> bool:
            nonlocal said
            if self._status is None:
                return False
            if self._status.state == Status.ERROR:
                raise Refused(self._status.message)
            if self._status.state in (Status.READY, Status.BUSY):
                return True
            line = ""  # a node that starts passes through UNCONFIGURED and INACTIVE
            if self._status.state == Status.RESTARTING:
                line = self._status.message  # why, and when again
            if self._status.state == Status.LOADING:
                line = f"loading {self._status.model or 'the model'}: {10 * int(10 * self._status.progress)} %"
            if line and line != said:
                self._say(line)
                said = line
            return False

        try:
            self._spin_until(ready, timeout_s, "ready node")
        except Unanswered as error:
            raise Unanswered(f"{error}: {self._status.message}" if self._status else str(error)) from None
        assert self._status is not None
        return self._status

    def wait_for_frame(self, topic: str, timeout_s: float) -> None:
        """Wait until a camera_info arrives on ``topic``: a command before the first frame is answered NO_IMAGE."""
        frames: list[CameraInfo] = []
        subscription = self.create_subscription(CameraInfo, topic, frames.append, qos_profile_sensor_data)
        self._spin_until(lambda: bool(frames), timeout_s, f"camera on {topic}")
        self.destroy_subscription(subscription)

    def ask(self, command: str, explain: bool, timeout_s: float) -> Segmentation:
        """One command, one answer; feedback is said while it comes. Raises Unanswered or Refused."""
        self._spin_until(self._action.server_is_ready, timeout_s, "action server")
        goal = Segment.Goal(command=command, explain=explain)
        sent = self._action.send_goal_async(goal, feedback_callback=self._on_feedback)
        self._spin_until(sent.done, timeout_s, "reply to the goal")
        if not sent.result().accepted:
            raise Unanswered("accepted goal: the node refused it")
        finished = sent.result().get_result_async()
        self._spin_until(finished.done, timeout_s, "answer")
        outcome = finished.result()
        if outcome.status == GoalStatus.STATUS_UNKNOWN:
            raise Unanswered("answer: the node forgot the goal")
        answer = outcome.result.segmentation
        if answer.status not in (Segmentation.SUCCESS, Segmentation.NOT_FOUND):
            raise Refused(f"{STATUSES.get(answer.status, answer.status)}: {answer.message}")
        return answer

    def _on_feedback(self, message: Segment.Impl.FeedbackMessage) -> None:
        feedback = message.feedback
        line = STAGES.get(feedback.stage, f"stage {feedback.stage}")
        if feedback.partial_answer:
            line += f": {end_of(feedback.partial_answer)}"
        if feedback.masks:
            line += f" ({len(feedback.masks)} mask{'s' * (len(feedback.masks) > 1)})"
        if line != self._shown:
            self._say(f"  {line}")
            self._shown = line

    def overlay_of(self, segmentation: Segmentation, timeout_s: float) -> Image:
        """The node's drawing of this answer. Raises Unanswered."""
        stamp = stamp_of(segmentation)
        self._spin_until(lambda: stamp in self._overlays, timeout_s, "overlay")
        return self._overlays[stamp]


def end_of(answer: str, longest: int = 90) -> str:
    """The last words of an answer that is still being written, on one line of at most ``longest`` characters."""
    line = " ".join(answer.split())
    return line if len(line) <= longest else "..." + line[3 - longest :]


def listed(*parts: str) -> str:
    """With commas between; an engine may leave a part empty."""
    return ", ".join(filter(None, parts))


def stamp_of(message: Image | Segmentation) -> tuple[int, int]:
    """Seconds and nanoseconds: the source image's, on every message made from it."""
    return message.header.stamp.sec, message.header.stamp.nanosec


def write_picture(image: Image, path: Path) -> None:
    """image: rgb8 or bgr8."""
    pixels = np.ndarray((image.height, image.width, 3), np.uint8, buffer=image.data, strides=(image.step, 3, 1))
    Picture.fromarray(np.ascontiguousarray(pixels[..., ::-1] if image.encoding == "bgr8" else pixels)).save(path)


def describe(segmentation: Segmentation) -> list[str]:
    """The answer's facts for people, a line each."""
    lines = []
    for mask in segmentation.masks:
        roi, centre = mask.roi, mask.centroid_px
        lines.append(
            f"mask {mask.label}: {mask.area} pixels in {roi.width}x{roi.height}+{roi.x_offset}+{roi.y_offset}, "
            f"centre ({centre.x:.0f}, {centre.y:.0f}), score {mask.score:.2f}"
        )
    lines.append(
        f"{segmentation.total_s:.2f} s in all: looking {segmentation.encode_s:.2f} s, answering "
        f"{segmentation.generate_s:.2f} s, mask {segmentation.decode_s:.2f} s; "
        f"{listed(segmentation.model, segmentation.precision)}"
    )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Send a command to a running lisa_ros node.")
    parser.add_argument("command", help='what to find, as a person says it: "the thing to drink from"')
    parser.add_argument("--explain", action="store_true", help="ask for the reason too")
    parser.add_argument("--node", default="/lisa", help="full name of the node (default /lisa)")
    parser.add_argument("--camera-info", default="", metavar="TOPIC", help="wait for the first message on this topic")
    parser.add_argument("--out", type=Path, help="write the overlay to this picture file, if there is a mask")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for each step (default 120)")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(f"lisa: {escaped(line)}", flush=True)

    # Python's own handlers: rclpy's would end the context in the middle of a wait.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        client = Client(arguments.node, say)
        status = client.wait_until_ready(arguments.timeout)
        say(f"ready: {listed(f'{status.model} on {status.device}', status.precision)}")
        if arguments.camera_info:
            client.wait_for_frame(arguments.camera_info, arguments.timeout)
        print(f"you:  {escaped(arguments.command)}", flush=True)
        answer = client.ask(arguments.command, arguments.explain, arguments.timeout)
        say(answer.answer.strip())
        for line in describe(answer):
            print(f"      {escaped(line)}")
        if not answer.masks:
            print("      nothing was found")
        elif arguments.out:
            write_picture(client.overlay_of(answer, 10.0), arguments.out)
            print(f"      {arguments.out}: the mask over the frame")
    except Unanswered as error:
        print(f"ask: {escaped(error)}", file=sys.stderr)
        return 1
    except Refused as error:
        print(f"ask: {escaped(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
