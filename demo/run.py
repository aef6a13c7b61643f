#!/usr/bin/env python3
"""The main job from end to end: a camera stream, the node as on a robot, a command, the answer over DDS.

Three processes: ``camera.py`` publishes, ``lisa_node`` (the installed executable) answers, ``ask.py`` asks. They end
with this one, however it ends. The last line says what came of it, the exit code too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the imports below take their second

import ask
import camera
import domain
from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from lisa_ros.cli.model import warn_of_demo_model
from lisa_ros.errors import ImageError
from lisa_ros.runtime.worker_process import die_with

HERE = Path(__file__).resolve().parent
DEFAULT_IMAGE = HERE / "scene.jpg"
DEFAULT_COMMAND = "something to tighten this screw"
OVERLAY = HERE / "overlay.png"
GRACE_S = 5.0  # from SIGTERM to SIGKILL


class DemoError(Exception):
    """The demo cannot go on; the message is the last line."""


def executable(name: str) -> Path:
    """An installed program, where ``ros2 run`` would find it."""
    try:
        path = Path(get_package_prefix("lisa_ros"), "lib", "lisa_ros", name)
    except PackageNotFoundError:
        raise DemoError("lisa_ros is not built: make build, or source the workspace's setup file") from None
    if not path.exists():
        raise DemoError(f"{path} is missing: make clean build")
    return path


def node_command(arguments: argparse.Namespace) -> list[str]:
    """What a robot's operator would type after ``ros2 run lisa_ros lisa_node``."""
    command = [str(executable("lisa_node")), "--ros-args"]
    command += ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
    for name in ("model", "device", "precision"):
        if getattr(arguments, name):
            command += ["-p", f"{name}:={getattr(arguments, name)}"]
    return command


@contextlib.contextmanager
def process(command: list[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A child with its output in ``log``, in a process group of its own that never outlives the block, nor us."""
    with log.open("wb") if log else contextlib.nullcontext() as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=functools.partial(die_with, os.getpid()),
        )
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """Terminate, wait, kill the whole group: the node's worker with it."""
    if child.poll() is None:
        child.terminate()  # at SIGINT, a Python that is still starting prints a traceback
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def last_lines(log: Path, count: int = 15) -> str:
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"  | {line}" for line in lines) or "  | (it printed nothing)"


def last_line(log: Path) -> str:
    """The reason of a program that ended, where it printed one."""
    return next(iter(reversed(log.read_text(errors="replace").split("\n")[:-1])), "")


def watch(asker: subprocess.Popen[bytes], others: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Wait for the asker; a camera or a node that ends before it is the real cause. Raises DemoError."""
    while asker.poll() is None:
        for name, (child, log) in others.items():
            if child.poll() is not None:
                raise DemoError(f"the {name} ended with code {child.returncode}; its last lines:\n{last_lines(log)}")
        time.sleep(0.05)
    if asker.returncode == ask.REFUSED:
        raise DemoError("the reason is above")
    if asker.returncode != 0:
        raise DemoError(f"no answer; the node's last lines:\n{last_lines(others['node'][1])}")


def run(arguments: argparse.Namespace) -> None:
    """Raises DemoError."""
    try:
        height, width = camera.load_picture(arguments.image).shape[:2]
    except ImageError as error:
        raise DemoError(str(error)) from error
    if not arguments.command.strip():
        raise DemoError('the command is empty: make demo COMMAND="the red mug"')
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.unlink(missing_ok=True)
    try:
        claimed = domain.claim()
    except RuntimeError as error:
        raise DemoError(str(error)) from error
    print(
        f"demo: camera of {arguments.image} ({width}x{height}), node, command; ROS domain {os.environ['ROS_DOMAIN_ID']}"
    )
    with claimed, tempfile.TemporaryDirectory(prefix="lisa_demo_") as folder, contextlib.ExitStack() as stack:
        commands = {
            "camera": [sys.executable, str(HERE / "camera.py"), str(arguments.image)],
            "node": node_command(arguments),
        }
        others = {}
        for name, command in commands.items():
            log = Path(folder, f"{name}.log")
            others[name] = (stack.enter_context(process(command, log)), log)
        asking = [sys.executable, str(HERE / "ask.py"), arguments.command, "--out", str(arguments.out)]
        asking += ["--camera-info", "/camera/camera_info", "--timeout", str(arguments.timeout)]
        asking += ["--explain"] * arguments.explain
        watch(stack.enter_context(process(asking)), others)


def main() -> int:
    parser = argparse.ArgumentParser(description="A command on a live camera becomes masks and an answer, over DDS.")
    parser.add_argument("--image", type=Path, default=DEFAULT_IMAGE, help="picture that the camera shows")
    parser.add_argument("--command", default=DEFAULT_COMMAND, help=f'what to find (default "{DEFAULT_COMMAND}")')
    parser.add_argument("--explain", action=argparse.BooleanOptionalAction, default=True, help="ask for the reason too")
    parser.add_argument("--model", default="", help="model folder (default: the one in the package)")
    parser.add_argument("--device", default="", help="auto, cpu or cuda (default: the node's)")
    parser.add_argument("--precision", default="", help="auto, bf16, fp16, fp32, int8 or nf4 (default: the node's)")
    parser.add_argument("--out", type=Path, default=OVERLAY, help="picture to write (default demo/overlay.png)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for each step (default 300)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminated demo leaves by the same door as an interrupted one: through every finally.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        run(arguments)
    except DemoError as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    found = arguments.out.exists()
    if not found and arguments.image != DEFAULT_IMAGE:
        warn_of_demo_model(arguments)
    result = f"look at {os.path.relpath(arguments.out)}" if found else "nothing was found"
    print(f"demo: done in {time.monotonic() - started:.0f} s; {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
