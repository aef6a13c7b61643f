"""``ros2 run lisa_ros ask "the pot"``: a command to a running node, and its answer, in a terminal.

Exit codes: 0 found; 3 not found; 1 no answer, with the reason on standard error; 2 wrong arguments; 130 after Ctrl-C,
which cancels the command.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from geometry_msgs.msg import Point32
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import RegionOfInterest

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Watch
from lisa_ros.plain_text import escaped
from lisa_ros.runtime.status import Status

FOUND, ERROR, NOT_FOUND, INTERRUPTED = 0, 1, 3, 130
DISCOVERY_S = 10.0  # for a node that runs already
CANCEL_S = 5.0  # for the node's reply to a cancel
MANY = QoSProfile(depth=100)


class Failed(Exception):
    """There is no answer; the message is for the person at the terminal."""


def point(text: str) -> tuple[float, float, int]:
    """``x,y`` or ``x,y,0`` as x, y and label. Raises ArgumentTypeError."""
    parts = text.split(",")
    try:
        x, y, label = float(parts[0]), float(parts[1]), int(parts[2]) if len(parts) > 2 else 1
    except (ValueError, IndexError):
        label = -1
    if len(parts) not in (2, 3) or label not in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no point; give x,y in pixels, or x,y,0 for what it is not")
    return x, y, label


def box(text: str) -> tuple[int, int, int, int]:
    """``x,y,w,h``. Raises ArgumentTypeError."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        x = y = width = height = -1
    if min(x, y) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no box; give x,y,w,h in whole pixels")
    return x, y, width, height


def positive(text: str) -> float:
    """A number above 0, below 1e9: more seconds do not fit into a message. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and below 1e9")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ask",
        description="Send a command to a running lisa_ros node and show its answer. Ctrl-C cancels.",
        epilog="exit code: 0 found, 3 not found, 1 no answer, 2 wrong arguments, 130 canceled by Ctrl-C",
    )
    parser.add_argument("command", nargs="?", default="", help='what to find: "the thing to drink from"')
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="a thing to find; repeat it")
    parser.add_argument("--explain", action="store_true", help="ask for the reason too")
    parser.add_argument("--camera", default="", metavar="NAME", help="one of the node's cameras (default: the first)")
    parser.add_argument("--session", default="", metavar="ID", help="continue this conversation")
    parser.add_argument(
        "--point", action="append", default=[], type=point, metavar="X,Y[,0]", help="on the thing; with 0: not on it"
    )
    parser.add_argument("--box", type=box, metavar="X,Y,W,H", help="around the thing, in pixels")
    parser.add_argument("--watch", type=positive, metavar="HZ", help="ask again at this rate, until Ctrl-C")
    parser.add_argument("--node", default="/lisa", metavar="NAME", help="full name of the node (default /lisa)")
    parser.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="for the answer (default 60 s)")
    chosen = parser.parse_args(arguments)
    only_once = [name for name in ("target", "explain", "session", "point", "box") if getattr(chosen, name)]
    if chosen.watch and only_once:
        parser.error(f"--watch takes a command and --camera; leave out --{only_once[0]}")
    if not chosen.command.strip() and (chosen.watch or not (chosen.target or chosen.point or chosen.box)):
        parser.error('give a command, for example "the thing to drink from"')
    return chosen


def goal_of(chosen: argparse.Namespace) -> Segment.Goal:
    goal = Segment.Goal(
        command=chosen.command,
        targets=chosen.target,
        explain=chosen.explain,
        camera=chosen.camera,
        session=chosen.session,
        compact=True,
        points=[Point32(x=x, y=y) for x, y, _ in chosen.point],
        point_labels=[label for _, _, label in chosen.point],
    )
    if chosen.box:
        x, y, width, height = chosen.box
        goal.box = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    goal.timeout.sec, goal.timeout.nanosec = int(chosen.timeout), int(chosen.timeout % 1 * 1e9)
    return goal


class Client(Node):
    """Speaks to one node.

    Args:
        node: The node's full name.
    """

    def __init__(self, node: str) -> None:
        super().__init__("lisa_ask", start_parameter_services=False)
        self._name = node.rstrip("/") if node.startswith("/") else f"/{node}"
        self._written = ""

    def ask(self, goal: Segment.Goal, timeout_s: float) -> Segmentation:
        """One command; its text is written while it comes. Raises Failed, and KeyboardInterrupt after canceling."""
        action = ActionClient(self, Segment, f"{self._name}/segment")
        if not self._spin(action.server_is_ready, DISCOVERY_S):
            raise Failed(f"there is no node {self._name}; start it, or give its name with --node")
        sent = action.send_goal_async(goal, feedback_callback=self._write_feedback)
        try:
            self._wait(sent, timeout_s, "a reply to the command")
            if not sent.result().accepted:
                raise Failed(f"{self._name} did not accept the command")
            finished = sent.result().get_result_async()
            self._wait(finished, timeout_s + CANCEL_S, "an answer")
        except KeyboardInterrupt:
            self._cancel(sent)
            raise
        segmentation: Segmentation = finished.result().result.segmentation
        return segmentation

    def watch(self, command: str, rate_hz: float, camera: str) -> None:
        """A standing command: each answer is written. Ends with KeyboardInterrupt only, and ends the command then."""
        publisher = self.create_publisher(Watch, f"{self._name}/watch", MANY)
        self.create_subscription(Segmentation, f"{self._name}/result", self._write_watched, MANY)
        if not self._spin(lambda: publisher.get_subscription_count() > 0, DISCOVERY_S):
            raise Failed(f"there is no node {self._name}; start it, or give its name with --node")
        try:
            publisher.publish(Watch(command=command, rate=rate_hz, camera=camera))
            while True:
                rclpy.spin_once(self, timeout_sec=0.1)
        finally:
            publisher.publish(Watch())
            # Reliable: it is sent again until the node has it, as long as this process lives.
            publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=CANCEL_S))

    def finish_text(self, answer: str) -> None:
        """Write what of the answer was not written yet, and end the line."""
        if not answer.startswith(self._written):
            print()
            self._written = ""
        print(escaped(answer[len(self._written) :]), flush=True)
        self._written = ""

    def _cancel(self, sent: Any) -> None:
        self._spin(sent.done, CANCEL_S)
        if sent.done() and sent.result().accepted:
            canceled = sent.result().cancel_goal_async()
            self._spin(canceled.done, CANCEL_S)

    def _wait(self, future: Any, timeout_s: float, what: str) -> None:
        if not self._spin(future.done, timeout_s):
            raise Failed(f"{self._name} gave no {what.removeprefix('a ').removeprefix('an ')} within {timeout_s:g} s")

    def _spin(self, done: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                return False
            rclpy.spin_once(self, timeout_sec=0.1)
        return True

    def _write_feedback(self, message: Any) -> None:
        text = message.feedback.partial_answer
        if text.startswith(self._written):
            print(escaped(text[len(self._written) :]), end="", flush=True)
            self._written = text

    def _write_watched(self, result: Segmentation) -> None:
        if result.source == "watch":
            print(escaped(result.answer.strip() or result.message))
            for line in described(result):
                print(f"  {escaped(line)}")
            sys.stdout.flush()


def described(result: Segmentation) -> list[str]:
    """A line for each mask: label, name, box, score and, with depth, size and distance."""
    objects = {thing.label: thing for thing in result.objects}
    lines = []
    for mask in result.masks:
        roi = mask.roi
        name = f" {mask.phrase}" if mask.phrase else ""
        line = f"{mask.label}{name}: box {roi.x_offset},{roi.y_offset},{roi.width},{roi.height}, score {mask.score:.2f}"
        thing = objects.get(mask.label)
        if thing is not None and thing.has_box:
            sides = sorted((thing.size.x, thing.size.y, thing.size.z), reverse=True)
            line += ", " + " x ".join(f"{side:.3f}" for side in sides) + " m"
        if thing is not None and thing.valid_share > 0:
            place = thing.centroid
            line += f", at ({place.x:.3f}, {place.y:.3f}, {place.z:.3f}) m"
        lines.append(line)
    return lines + [f"not in the image: {name}" for name in result.absent]


def exit_code(result: Segmentation) -> int:
    """Write the masks, or the reason that there are none."""
    if result.status not in (Status.SUCCESS, Status.NOT_FOUND):
        raise Failed(f"{Status(result.status).name}: {result.message}")
    for line in described(result):
        print(escaped(line))
    if result.message:
        print(escaped(result.message))
    sys.stdout.flush()
    return FOUND if result.status == Status.SUCCESS else NOT_FOUND


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv if arguments is None else ["ask", *arguments]
    chosen = parse(remove_ros_args(given)[1:])
    # Python's own handlers: rclpy's would end the context before the command is canceled.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
        client = Client(chosen.node)
        if chosen.watch:
            client.watch(chosen.command, chosen.watch, chosen.camera)
        result = client.ask(goal_of(chosen), chosen.timeout)
        if result.answer:
            client.finish_text(result.answer)
        return exit_code(result)
    except Failed as error:
        print(f"ask: {escaped(str(error))}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
