#!/usr/bin/env python3
"""The web console with a world to talk to: a simulated robot cell, the node as on a robot, and the console, over DDS.

Three processes. They end with this one, however it ends: by Ctrl-C, or when one of them ends.
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
import pick
import run


def console_command(arguments: argparse.Namespace) -> list[str]:
    """What an operator would type after ``ros2 run lisa_ros console``."""
    command = [str(run.executable("console")), "--ros-args", "-r", "image:=/camera/image_raw"]
    command += ["-p", f"port:={arguments.port}"]
    if arguments.save_examples:
        command += ["-p", f"save_examples:={arguments.save_examples.resolve()}"]
    return command


def wait(others: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Until one ends. Raises DemoError with its reason."""
    shown = False
    while True:
        for name, (child, log) in others.items():
            if child.poll() is not None:
                raise run.DemoError(run.last_line(log) or f"the {name} ended with code {child.returncode}")
        if not shown and (line := address(others["console"][1])):
            print(f"console: open {line} in a browser; Ctrl-C ends all", flush=True)
            shown = True
        time.sleep(0.1)


def address(log: Path) -> str:
    """The address that the console printed; empty before."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line.removeprefix("console: ") for line in lines if line.startswith("console: http")), "")


def serve(arguments: argparse.Namespace) -> None:
    """Raises DemoError."""
    try:
        claimed = domain.claim()
    except RuntimeError as error:
        raise run.DemoError(str(error)) from error
    print(f"console: {arguments.robot} in scene {arguments.seed}, node; ROS domain {os.environ['ROS_DOMAIN_ID']}")
    with claimed, tempfile.TemporaryDirectory(prefix="lisa_console_") as folder, contextlib.ExitStack() as stack:
        others = {}
        commands = {**pick.processes(arguments), "console": console_command(arguments)}
        for name, command in commands.items():
            log = Path(folder, f"{name}.log")
            others[name] = (stack.enter_context(run.process(command, log)), log)
        wait(others)


def main() -> int:
    parser = argparse.ArgumentParser(description="The web console, with a simulated robot and the node, over DDS.")
    parser.add_argument("--seed", type=int, default=4, help="number of the scene (default 4)")
    parser.add_argument("--robot", choices=pick.TRAVEL_M, default="gantry", help="gantry or ur5e (default gantry)")
    parser.add_argument("--speed", type=float, default=1.0, help="times real time (default 1)")
    parser.add_argument("--model", default="", help="model folder (default: the one in the package)")
    parser.add_argument("--device", default="", help="auto, cpu or cuda (default: the node's)")
    parser.add_argument("--precision", default="", help="auto, bf16, fp16, fp32, int8 or nf4 (default: the node's)")
    parser.add_argument("--port", type=int, default=8080, help="of the page; 0: a free one (default 8080)")
    parser.add_argument("--save-examples", type=Path, metavar="DIR", help="keep corrected answers here, for training")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminated demo leaves as an interrupted one does: through every finally.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        serve(arguments)
    except run.DemoError as error:
        print(f"console: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("console: ended", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
