#!/usr/bin/env python3
"""Several targets in one command: which thing to bring, and where to put it.

    python examples/set_table.py "the fork" "the cup" "the spoon"

It sends all names in one goal to a running node. For each name it prints what a planner needs: the mask's place (metres
if the node has depth, else pixels) and the thing's place on the table, from left to right in the order of the names.
A name that is not in the image is reported, and the others are brought all the same. Exit status: 0 all found, 3 some
are missing, 1 error.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node

from lisa_ros.action import Segment
from lisa_ros.msg import Mask, Object3D, Segmentation

MISSING = 3


class NoAnswer(Exception):
    """The node gave no answer; the message says why."""


class TableSetter(Node):
    """Asks the node for all things of a table in one goal."""

    def __init__(self, node: str) -> None:
        super().__init__("set_table")
        self._action = ActionClient(self, Segment, f"{node}/segment")

    def wait(self, done: Callable[[], object], timeout_s: float, waiting_for: str) -> None:
        """Spin until ``done()`` is true. Raises NoAnswer after ``timeout_s`` seconds."""
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise NoAnswer(f"no {waiting_for} within {timeout_s:.0f} s")
            rclpy.spin_once(self, timeout_sec=0.05)

    def ask(self, targets: list[str], timeout_s: float) -> Segmentation:
        """The answer about all targets. Raises NoAnswer unless it is complete (SUCCESS or NOT_FOUND)."""
        self.wait(self._action.server_is_ready, timeout_s, "action server")
        sent = self._action.send_goal_async(Segment.Goal(targets=targets))
        self.wait(sent.done, timeout_s, "reply to the goal")
        if not sent.result().accepted:
            raise NoAnswer("the node rejected the goal")
        finished = sent.result().get_result_async()
        self.wait(finished.done, timeout_s, "answer")
        result = finished.result().result
        if result.status not in (Segment.Result.SUCCESS, Segment.Result.NOT_FOUND):
            raise NoAnswer(result.message)
        return result.segmentation


def best_of(target: str, answer: Segmentation) -> Mask | None:
    """The mask of a target with the highest score; None if there is none."""
    masks = [mask for mask in answer.masks if mask.phrase == target]
    return max(masks, key=lambda mask: mask.score, default=None)


def place_of(mask: Mask, objects: list[Object3D]) -> str:
    """In metres, in the camera's optical frame, if the node has depth; else in pixels."""
    thing = next((thing for thing in objects if thing.label == mask.label), None)
    if thing is not None and not math.isnan(thing.centroid.x):
        return f"({thing.centroid.x:+.3f}, {thing.centroid.y:+.3f}, {thing.centroid.z:.3f}) m"
    return f"({mask.centroid_px.x:.0f}, {mask.centroid_px.y:.0f}) px"


def plan(targets: list[str], answer: Segmentation, spacing: float) -> tuple[list[str], list[str]]:
    """One line for each thing to bring, and the names of what is missing."""
    lines, missing = [], []
    for number, target in enumerate(targets):
        mask = best_of(target, answer)
        if mask is None:
            missing.append(target)
            continue
        along = (number - (len(targets) - 1) / 2) * spacing
        lines.append(f"{target}: bring it from {place_of(mask, answer.objects)} to {along:+.2f} m along the table")
    return lines, missing


def main() -> int:
    parser = argparse.ArgumentParser(description="Print a plan to set a table, from one command about several things.")
    parser.add_argument(
        "targets", nargs="+", help='what belongs on the table, from left to right: "the fork" "the cup"'
    )
    parser.add_argument("--node", default="/lisa", help="full name of the node (default /lisa)")
    parser.add_argument("--spacing", type=float, default=0.15, help="metres between two things (default 0.15)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for each step (default 60)")
    arguments = parser.parse_args()
    rclpy.init()
    setter = TableSetter(arguments.node)
    try:
        answer = setter.ask(arguments.targets, arguments.timeout)
        lines, missing = plan(arguments.targets, answer, arguments.spacing)
        print(f"lisa: {answer.answer.strip()}", flush=True)
        for line in lines:
            print(f"      {line}")
        for target in missing:
            why = "not there" if target in answer.absent else "not in the answer"
            print(f"      {target}: {why}")
        return MISSING if missing else 0
    except NoAnswer as error:
        print(f"set_table: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        setter.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
