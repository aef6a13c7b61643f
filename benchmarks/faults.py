"""What goes wrong on a robot, done on purpose. Each fault says which further answers are right while it lasts."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
from bench import Bench, BenchError
from children import Child
from ledger import USUAL
from lifecycle_msgs.msg import Transition

from lisa_ros.msg import Segmentation
from lisa_ros.msg import Status as NodeStatus
from lisa_ros.runtime.status import Status

Accept = Callable[[Segmentation], bool]
Steps = Iterator[Accept]


@dataclass(frozen=True)
class Fault:
    """steps: brings the fault about, yields once what a good answer is from then on, and afterwards puts things right.

    What is yielded to begins the node's recovery. allowed: statuses that are right until it has recovered.
    """

    name: str
    steps: Callable[[Bench, Disk], Steps]
    allowed: frozenset[Status]


FAULTS: list[Fault] = []


def fault(*allowed: Status) -> Callable[[Callable[[Bench, Disk], Steps]], Callable[[Bench, Disk], Steps]]:
    def add(steps: Callable[[Bench, Disk], Steps]) -> Callable[[Bench, Disk], Steps]:
        FAULTS.append(Fault(steps.__name__, steps, frozenset(allowed)))
        return steps

    return add


def anything(_: Segmentation) -> bool:
    return True


def expect(answer: Any, *statuses: Status) -> None:
    """Raise BenchError unless an answer has one of these statuses."""
    if answer.status not in statuses:
        raise BenchError(f"the answer was {Status(answer.status).name}, not {statuses[0].name}: {answer.message}")


# --- the disk that the node logs to


class Disk(Protocol):
    """Where the node's log and console go."""

    how: str
    folder: Path

    def fill(self) -> None: ...
    def empty(self) -> None: ...


class SmallDisk:
    """A tmpfs of 64 MiB. It is out of sight at once, and gone with the last process that has a file on it."""

    how = "tmpfs"

    def __init__(self, folder: Path) -> None:
        """Raises OSError where we may not mount."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True, capture_output=True
        )
        self.folder = folder
        self._handle = os.open(folder, os.O_RDONLY)

    def hide(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)

    def fill(self) -> None:
        filler = os.open("filler", os.O_WRONLY | os.O_CREAT, dir_fd=self._handle)
        try:
            for size in (2**20, 2**9):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(filler, bytes(size))
        finally:
            os.close(filler)

    def empty(self) -> None:
        os.unlink("filler", dir_fd=self._handle)


class LimitedDisk:
    """Where we may not mount: the node's own limit of a file's size (RLIMIT_FSIZE) is lowered under what it wrote."""

    how = "RLIMIT_FSIZE"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node: psutil.Process | None = None

    def fill(self) -> None:
        assert self.node is not None
        self.node.rlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def empty(self) -> None:
        assert self.node is not None
        self.node.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# --- the worker


@fault(Status.INTERNAL_ERROR, Status.NOT_READY)
def worker_killed(bench: Bench, _: Disk) -> Steps:
    victim = bench.begin_slow_command()
    bench.pause(1.0)
    worker = bench.worker()
    worker.kill()
    yield anything
    answer = bench.wait_done(victim, "answer of the command whose worker was killed")
    expect(answer, Status.INTERNAL_ERROR, *USUAL, Status.NOT_READY)
    if bench.worker().pid == worker.pid:
        raise BenchError("the worker is the one that was killed")


@fault(Status.OUT_OF_MEMORY)
def memory_error(bench: Bench, _: Disk) -> Steps:
    worker = bench.worker()
    words = bench.random.choice(["eat all memory", "eat python memory", "eat gpu memory"])
    bench.until_status(Status.OUT_OF_MEMORY, words)
    yield anything
    if bench.worker().pid != worker.pid:
        raise BenchError("the worker did not survive")


@fault(Status.OUT_OF_MEMORY)
def memory_limit(bench: Bench, _: Disk) -> Steps:
    """RLIMIT_AS of the worker at what it has, or at nothing: what it asks for beyond is refused by the kernel."""
    worker = bench.worker()
    with limited(worker, bench.random.choice([worker.memory_info().vms, 1])):
        bench.until_status(Status.OUT_OF_MEMORY, "eat real memory")
    yield anything


@fault(Status.OUT_OF_MEMORY, Status.INTERNAL_ERROR, Status.NOT_READY)
def killed_by_memory_limit(bench: Bench, _: Disk) -> Steps:
    """The same, in a worker that does not survive it."""
    worker = bench.worker()
    with limited(worker, worker.memory_info().vms):
        bench.until_status(Status.INTERNAL_ERROR, "eat real memory to death")
    yield anything
    if bench.worker().pid == worker.pid:
        raise BenchError("the worker is the one that was limited")


@contextlib.contextmanager
def limited(worker: psutil.Process, size: int) -> Iterator[None]:
    """RLIMIT_AS in bytes, while the process lives."""
    before = worker.rlimit(resource.RLIMIT_AS)
    worker.rlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.Error):
            worker.rlimit(resource.RLIMIT_AS, before)


# --- the camera


@fault(Status.NO_IMAGE)
def camera_stops(bench: Bench, _: Disk) -> Steps:
    bench.show(silent=True)
    try:
        bench.until_status(Status.NO_IMAGE)
        bench.pause(0.5)
    finally:
        bench.show(silent=False)
    yield anything


def camera_changes(name: str, values: list[Any], is_new: Callable[[Segmentation, Any], bool]) -> None:
    """A fault ``camera_NAME``: another value, to stay."""

    def steps(bench: Bench, _: Disk) -> Steps:
        value = bench.random.choice([value for value in values if value != shown(bench).get(name)])
        shown(bench)[name] = value
        bench.pause(0.2)
        bench.show(**{name: value})
        yield lambda answer: is_new(answer, value)

    FAULTS.append(Fault(f"camera_{name}", steps, frozenset()))


def shown(bench: Bench) -> dict[str, Any]:
    """The newest settings of the camera."""
    return bench.__dict__.setdefault("camera_view", {})


def has_size(answer: Segmentation, size: tuple[int, int]) -> bool:
    return (answer.masks[0].roi.height, answer.masks[0].roi.width) == (size[0] * 5 // 18, size[1] * 15 // 64)


camera_changes("size", [[720, 1280], [480, 640], [360, 640]], lambda answer, size: has_size(answer, size))
camera_changes("encoding", ["rgb8", "bgr8", "rgba8", "mono8"], lambda answer, _: True)
camera_changes("frame_id", ["camera_optical", "wrist_optical", ""], lambda answer, name: answer.header.frame_id == name)
camera_changes("rate", [30.0, 10.0, 60.0, 15.0], lambda answer, _: True)


@fault()
def clock_jumps_back(bench: Bench, _: Disk) -> Steps:
    """Stamps of the past from now on, as when a bag begins anew; later they are the present's again."""
    offset_s = -bench.random.choice([0.5, 10.0, 3600.0, 1e8])
    bench.show(offset_s=offset_s)
    yield lambda answer: abs(age_s(bench, answer) + offset_s) < 5.0 if offset_s < -5.0 else True
    bench.show(offset_s=0.0)
    bench.recovered(lambda answer: age_s(bench, answer) < 0.4, 30.0)


def age_s(bench: Bench, answer: Segmentation) -> float:
    stamp = answer.header.stamp
    return float(bench.ros.get_clock().now().nanoseconds / 1e9 - stamp.sec - stamp.nanosec / 1e9)


# --- those who listen and ask


@fault()
def subscriber_never_reads(bench: Bench, _: Disk) -> Steps:
    """Reliable, ROS's usual depth, on every topic, with a goal of its own; half of the time stopped (SIGSTOP), too."""
    with stranger(bench, "deaf") as child:
        if bench.random.random() < 0.5:
            child.process.send_signal(signal.SIGSTOP)
        for _ in range(8):  # more than any queue of the node's holds
            bench.answer("the box")
        yield anything


@fault(Status.NO_IMAGE)  # whoever dies holds the node up for some 2 s, and the camera's images with it
def client_dies(bench: Bench, _: Disk) -> Steps:
    """``kill -9`` of a client in the middle of its goal."""
    with stranger(bench, "doomed"):
        bench.pause(1.0)
    yield anything


@contextlib.contextmanager
def stranger(bench: Bench, fate: str) -> Iterator[Child]:
    """A client whose slow goal the node has; it is killed at the end, and its command has no answer at the endpoint."""
    said: list[str] = []

    def on_line(line: dict[str, Any]) -> None:
        bench.ledger.asked(line["asked"], line["endpoint"], line["time"])
        bench.ledger.client_died(line["asked"])
        said.append(line["asked"])

    number = bench.random.randrange(10**9)
    child = bench.start(fate, "commander.py", f"{fate}{number}", "--fate", fate, on_line=on_line)
    try:
        bench.wait(lambda: said, f"goal of a {fate} client")
        yield child
    finally:
        bench.children.pop(fate).kill()


# --- the manager


@fault(Status.NOT_READY, Status.NO_IMAGE)  # a camera that was just subscribed to has not shown anything
def deactivated(bench: Bench, _: Disk) -> Steps:
    victim = bench.begin_slow_command()
    bench.pause(1.0)
    bench.change(Transition.TRANSITION_DEACTIVATE)
    refused = bench.answer("the box")
    bench.change(Transition.TRANSITION_ACTIVATE)
    yield anything
    expect(bench.wait_done(victim, "answer"), Status.NOT_READY, *USUAL)
    expect(refused, Status.NOT_READY)


@fault(Status.NOT_READY, Status.NO_IMAGE)
def cleaned_up(bench: Bench, _: Disk) -> Steps:
    victim, worker = bench.begin_slow_command(), bench.worker()
    bench.pause(1.0)
    bench.change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    refused, was_running = bench.answer("the box"), worker.is_running()
    bench.change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    yield anything
    expect(bench.wait_done(victim, "answer"), Status.NOT_READY, *USUAL)
    expect(refused, Status.NOT_READY)
    if was_running:
        raise BenchError("the worker outlived the clean-up")


# --- the machine


@fault()
def log_disk_full(bench: Bench, disk: Disk) -> Steps:
    disk.fill()
    yield anything
    bench.pause(1.0)
    disk.empty()


def model_load_s(bench: Bench) -> float:
    """From configure to a loaded model, without a fault."""
    bench.change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    begun = time.monotonic()
    bench.change(Transition.TRANSITION_CONFIGURE)
    bench.wait(
        lambda: any(when > begun and state == NodeStatus.INACTIVE for when, state in bench.states), "model", 120.0
    )
    took = time.monotonic() - begun
    bench.change(Transition.TRANSITION_ACTIVATE)
    bench.recovered(anything, 30.0)
    return took


def log_disk(folder: Path) -> SmallDisk | LimitedDisk:
    """A disk that we may fill."""
    try:
        return SmallDisk(folder)
    except (OSError, subprocess.CalledProcessError):
        return LimitedDisk(folder)
