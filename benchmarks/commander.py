#!/usr/bin/env python3
"""A client of the node as a process: sends commands to one endpoint or to all of them, and reports each answer.

``commander.py NAME --endpoints topic action --rate 1.25 --seed 1``. It stops asking when its standard input ends,
and ends when everything is answered. With ``--fate doomed`` it says one slow command and waits to be killed; with
``--fate deaf`` it also subscribes to everything, and never reads again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from typing import Any

import rclpy
from box_camera import is_right
from builtin_interfaces.msg import Duration
from children import die_with_parent, messages, say
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation
from lisa_ros.srv import SegmentImage

ENDPOINTS = ("topic", "service", "action")
WORDS = {"the box": 80, "nothing like a box": 9, "twice the box": 5, "slow box": 6}  # to the stand-in; of 100
CANCELED = 0.25  # share of goals; they are slow ones, so that there is something to cancel
HURRIED = 0.05  # share of goals with a time limit that a slow answer exceeds
MEET_S = 2.0  # until a question that does no harm is asked again
LAST_S = 30.0  # for answers that are still owed at the end


def facts(answer: Segmentation) -> dict[str, Any]:
    """What the ledger and the statistics need of an answer."""
    found = {"status": answer.status, "message": answer.message, "total_s": answer.total_s}
    if answer.status in (Segmentation.SUCCESS, Segmentation.NOT_FOUND):
        found["image_age_s"] = answer.image_age_s
    if answer.masks:
        left = min(answer.masks, key=lambda mask: mask.roi.x_offset).roi
        width = sum(mask.roi.width for mask in answer.masks)  # "twice": two halves
        roi = (left.x_offset, left.y_offset, width, left.height)
        found |= {"is_right": is_right(roi, answer.header.stamp.nanosec), "objects": len(answer.objects)}
    return found


class Commander:
    """Sends commands and waits for each answer at the same endpoint."""

    def __init__(self, name: str, endpoints: list[str], seed: int) -> None:
        self.node = rclpy.create_node(f"commander_{name}")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._name, self._endpoints, self._random = name, endpoints, random.Random(seed)
        self._count = itertools.count(1)
        self._open: set[str] = set()
        self._to_cancel: list[tuple[float, Any]] = []
        self._topic = self.node.create_publisher(String, "/lisa/command", 10)
        if "topic" in endpoints:
            self.node.create_subscription(Segmentation, "/lisa/result", self._on_result, 100)
        self.service = self.node.create_client(SegmentImage, "/lisa/segment_image")
        self.action = ActionClient(self.node, Segment, "/lisa/segment")
        self._getter = self.node.create_client(GetParameters, "/lisa/get_parameters")

    @property
    def is_connected(self) -> bool:
        endpoints = {
            "topic": lambda: self._topic.get_subscription_count() > 0 and self.node.count_publishers("/lisa/result"),
            "service": self.service.service_is_ready,
            "action": self.action.server_is_ready,
        }
        return all(endpoints[endpoint]() for endpoint in self._endpoints)

    def meet(self, ending: threading.Event) -> None:
        """Wait until the node knows this client: Fast DDS drops the reply to one that it has not discovered in 0.1 s.

        Endpoints are told in the order they were made: a reply to the one made last says that all of them are known.
        """
        while not (self.is_connected and self._getter.service_is_ready()) and not ending.is_set():
            self.spin(time.monotonic() + 0.05)
        replies: list[Any] = []
        while not any(reply.done() for reply in replies) and not ending.is_set():
            replies.append(self._getter.call_async(GetParameters.Request(names=["model"])))
            again = time.monotonic() + MEET_S
            while time.monotonic() < again and not any(reply.done() for reply in replies):
                self.spin(again)

    @property
    def is_waiting(self) -> bool:
        return bool(self._open)

    def command(self, words: str) -> str:
        """Said by nobody else, and never again."""
        return f"{words} {self._name} {next(self._count)}"

    def ask(self) -> None:
        endpoint = self._random.choice(self._endpoints)
        cancel_in = (
            self._random.uniform(0.0, 0.3) if self._random.random() < CANCELED and endpoint == "action" else None
        )
        words = self._random.choices(list(WORDS), list(WORDS.values()))[0]
        command = self.command("slow box" if cancel_in is not None else words)
        self._open.add(command)
        say(asked=command, endpoint=endpoint)
        if endpoint == "action":
            self._ask_by_action(command, cancel_in)
        elif endpoint == "service":
            self._ask_by_service(command)
        else:
            self._topic.publish(String(data=command))

    def spin(self, until: float) -> None:
        """Take what comes, until that time or for one callback."""
        self.executor.spin_once(timeout_sec=max(min(until - time.monotonic(), 0.05), 0.0))
        now = time.monotonic()
        for when, handle in [due for due in self._to_cancel if due[0] <= now]:
            self._to_cancel.remove((when, handle))
            handle.cancel_goal_async()

    def _ask_by_service(self, command: str) -> None:
        future = self.service.call_async(SegmentImage.Request(command=command))
        future.add_done_callback(lambda done: self._answered(command, done.result().segmentation))

    def _ask_by_action(self, command: str, cancel_in: float | None) -> None:
        timeout = Duration(nanosec=300_000_000) if self._random.random() < HURRIED else Duration()
        sent = self.action.send_goal_async(Segment.Goal(command=command, timeout=timeout), lambda feedback: None)

        def accepted(done: Any) -> None:
            handle = done.result()
            result = handle.get_result_async()
            result.add_done_callback(lambda done: self._answered(command, done.result().result.segmentation))
            if cancel_in is not None:
                self._to_cancel.append((time.monotonic() + cancel_in, handle))

        sent.add_done_callback(accepted)

    def _on_result(self, answer: Segmentation) -> None:
        if answer.request_id.startswith("command-") and answer.command.split()[-2] == self._name:
            self._answered(answer.command, answer)

    def _answered(self, command: str, answer: Segmentation) -> None:
        self._open.discard(command)
        say(answered=command, **facts(answer))


def work(commander: Commander, rate: float, ending: threading.Event) -> None:
    """Commands at random moments, ``rate`` a second on the average."""
    moments = random.Random(commander.node.get_name())
    commander.meet(ending)
    due = time.monotonic() + moments.uniform(0, 1 / rate)
    while not ending.is_set():
        commander.spin(due)
        if time.monotonic() >= due:
            commander.ask()
            due += moments.uniform(0, 2 / rate)
    last = time.monotonic() + LAST_S
    while commander.is_waiting and time.monotonic() < last:
        commander.spin(last)


def meet(commander: Commander, fate: str, ending: threading.Event) -> None:
    """Say a slow command by the action and, where deaf, stop reading."""
    commander.meet(ending)
    heard: list[Any] = []
    if fate == "deaf":
        for topic, kind in (
            ("result", Segmentation),
            ("mask", Image),
            ("labels", Image),
            ("overlay", Image),
            ("points", PointCloud2),
        ):
            commander.node.create_subscription(kind, f"/lisa/{topic}", heard.append, 10)
    command = commander.command("slow box")
    sent = commander.action.send_goal_async(Segment.Goal(command=command), heard.append)
    while not sent.done():
        commander.spin(time.monotonic() + 0.05)
    sent.result().get_result_async()
    say(asked=command, endpoint="action")  # now that it is known to have come to the node
    while not ending.is_set():
        if fate == "deaf":
            ending.wait()
        commander.spin(time.monotonic() + 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--endpoints", nargs="+", choices=ENDPOINTS, default=list(ENDPOINTS))
    parser.add_argument("--rate", type=float, default=1.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fate", choices=("doomed", "deaf"))
    arguments = parser.parse_args()
    die_with_parent()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ending = threading.Event()

    def listen() -> None:
        for _ in messages():
            pass
        ending.set()

    threading.Thread(target=listen, daemon=True).start()
    commander = Commander(arguments.name, arguments.endpoints, arguments.seed)
    if arguments.fate:
        meet(commander, arguments.fate, ending)
    else:
        work(commander, arguments.rate, ending)
    rclpy.shutdown()


if __name__ == "__main__":
    main()
