#!/usr/bin/env python3
"""From a sentence to a picked object: a simulated robot, the node as on a robot, and a client, over DDS.

Three processes: ``robot_cell`` simulates, ``lisa_node`` answers, ``examples/pick_and_place.py`` picks. They end with
this one, however it ends. Exit code: 0 picked, 3 not found, 1 anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the imports below take their second

import domain
import run

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "pick_and_place.py"
TRAVEL_M = {"gantry": 0.6, "ur5e": 0.4}  # at which each robot carries objects
DEFAULT_SEED, DEFAULT_COMMAND = 4, "something to tighten this screw"
NOT_FOUND = 3


def processes(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The commands of the robot and of the node, as an operator would type them after ``ros2 run lisa_ros``."""
    robot = [str(run.executable("robot_cell")), "--ros-args"]
    robot += ["-p", f"seed:={arguments.seed}", "-p", f"robot:={arguments.robot}", "-p", f"speed:={arguments.speed}"]
    node = [*run.node_command(arguments), "-r", "depth:=/camera/depth/image_raw"]
    return {"robot": robot, "node": node}


def watch(client: subprocess.Popen[bytes], others: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> int:
    """Wait for the client. Returns its exit code. Raises DemoError where the robot or the node ends before it."""
    while client.poll() is None:
        for name, (child, log) in others.items():
            if child.poll() is not None:
                raise run.DemoError(run.last_line(log) or f"the {name} ended with code {child.returncode}")
        time.sleep(0.05)
    return int(client.returncode)


def pick(arguments: argparse.Namespace) -> int:
    """Returns the client's exit code. Raises DemoError."""
    if arguments.command is not None and not arguments.command.strip():
        raise run.DemoError('the command is empty: make pick COMMAND="the red mug"')
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("pick.png", "pick.mp4"):
        (arguments.out / name).unlink(missing_ok=True)
    try:
        claimed = domain.claim()
    except RuntimeError as error:
        raise run.DemoError(str(error)) from error
    print(f"pick: {arguments.robot} in scene {arguments.seed}, node, client; ROS domain {os.environ['ROS_DOMAIN_ID']}")
    with claimed, tempfile.TemporaryDirectory(prefix="lisa_pick_") as folder, contextlib.ExitStack() as stack:
        others = {}
        for name, command in processes(arguments).items():
            log = Path(folder, f"{name}.log")
            others[name] = (stack.enter_context(run.process(command, log)), log)
        picking = [sys.executable, str(EXAMPLE), "--out", str(arguments.out), "--timeout", str(arguments.timeout)]
        picking += ["--travel", str(TRAVEL_M[arguments.robot])]
        if arguments.command is not None:
            picking += ["--", arguments.command]
        return watch(stack.enter_context(run.process(picking)), others)


def main() -> int:
    parser = argparse.ArgumentParser(description="A simulated robot picks what a command means, over DDS.")
    parser.add_argument("--command", help=f'what to pick (default "{DEFAULT_COMMAND}"; with --seed, one that fits)')
    parser.add_argument("--seed", type=int, help=f"number of the scene (default {DEFAULT_SEED})")
    parser.add_argument("--robot", choices=TRAVEL_M, default="gantry", help="gantry or ur5e (default gantry)")
    parser.add_argument("--speed", type=float, default=1.0, help="times real time (default 1)")
    parser.add_argument("--model", default="", help="model folder (default: the one in the package)")
    parser.add_argument("--device", default="", help="auto, cpu or cuda (default: the node's)")
    parser.add_argument("--precision", default="", help="auto, bf16, fp16, fp32, int8 or nf4 (default: the node's)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of pick.png and pick.mp4 (default demo)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for each step (default 300)")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = DEFAULT_SEED
        arguments.command = DEFAULT_COMMAND if arguments.command is None else arguments.command
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminated demo leaves by the same door as an interrupted one: through every finally.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        code = pick(arguments)
    except run.DemoError as error:
        print(f"pick: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pick: interrupted", file=sys.stderr)
        return 130
    if code not in (0, NOT_FOUND):
        print("pick: FAILED: the reason is above", file=sys.stderr)
        return code
    where = os.path.relpath(arguments.out / "pick.png")
    print(f"pick: {'not found' if code else 'done'} in {time.monotonic() - started:.0f} s; look at {where}")
    return code


if __name__ == "__main__":
    sys.exit(main())
