"""The node under test with all that a robot has around it: camera, clients, somebody who watches and who manages."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import rclpy
from box_camera import is_right
from children import Child
from commander import ENDPOINTS
from ledger import Ledger
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

from lisa_ros.msg import Segmentation, Status
from lisa_ros.srv import SegmentImage

START_S = 120.0  # for the node and its model
ANSWER_S = 20.0  # more than the node's timeout_s here: a command without an answer by then is lost
SHARED_MEMORY = Path("/dev/shm")
PARAMETERS = {"timeout_s": "10.0", "stuck_worker_s": "5.0"}  # so that a run needs not wait long for what is stuck


class BenchError(Exception):
    """What should have come did not; the message says what."""


class Bench:
    """Camera, node, four clients, a watcher of the executor; this process listens to ~/result and manages.

    random: of what is drawn here. ages, latencies: [s] of every answer at an endpoint. waits: [s] of every parameter
    request, by node; a request without an answer is None.
    """

    def __init__(self, seed: int, stand_in: bool, load_rate: float) -> None:
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.stand_in = stand_in
        self.ages: list[float] = []
        self.latencies: list[float] = []
        self.objects: list[int] = []
        self.wrong_masks: list[str] = []
        self.waits: dict[str, dict[int, tuple[float, float | None]]] = {}
        self.answers: list[tuple[float, Segmentation]] = []  # the last ones on ~/result
        self.states: list[tuple[float, int]] = []
        self.checked_until = 0.0  # of what was asked before, the ledger was looked at
        self.children: dict[str, Child] = {}
        self._load_rate, self._seed = load_rate, seed
        self._interrupted = False
        self._numbers = itertools.count(1)
        self._camera_changed = threading.Event()
        self._frames: list[tuple[float, int]] = []

    # --- start and end

    @contextlib.contextmanager
    def running(self, node: Any, size: tuple[int, int], rate: float) -> Iterator[None]:
        """Everything is up and the first command is answered; at the end nothing is left."""
        self.node_process = psutil.Process(node.pid)
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.ros = rclpy.create_node("bench")
        executor = SingleThreadedExecutor()
        executor.add_node(self.ros)
        self.service = self.ros.create_client(SegmentImage, "/lisa/segment_image")
        self.changer = self.ros.create_client(ChangeState, "/lisa/change_state")
        self.ros.create_subscription(Segmentation, "/lisa/result", self._on_result, 100)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.ros.create_subscription(Status, "/lisa/status", self._on_status, latched)
        spinner = threading.Thread(target=self._spin, args=(executor,), daemon=True)
        spinner.start()
        try:
            self.start("idle", "parameter_requests.py", "--serve", "idle", on_line=lambda line: None)
            self.start("camera", "box_camera.py", *size, rate, on_line=self._on_camera)
            self.wait(lambda: self.state == Status.READY, "ready node", START_S)
            self.wait(self.service.service_is_ready, "service")
            self.wait(self.changer.service_is_ready, "lifecycle service")
            self.recovered(lambda answer: True, START_S)
            yield
        finally:
            for child in self.children.values():
                child.end()
            executor.shutdown()
            rclpy.try_shutdown()
            spinner.join()

    def start(self, name: str, script: str, *arguments: object, on_line: Callable[[dict[str, Any]], None]) -> Child:
        self.children[name] = Child(script, *arguments, on_line=on_line)
        return self.children[name]

    def begin(self) -> None:
        """Commands from four clients, and parameter requests, from now on."""
        kinds = {**{endpoint: [endpoint] for endpoint in ENDPOINTS}, "mixed": list(ENDPOINTS)}
        for number, (name, endpoints) in enumerate(kinds.items()):
            seed, rate = self._seed + number, self._load_rate / len(kinds)
            arguments = (name, "--endpoints", *endpoints, "--rate", rate, "--seed", seed)
            self.start(name, "commander.py", *arguments, on_line=self.on_commander)
        asked = ("/lisa:timeout_s", "/idle:use_sim_time")
        self.start("parameter requests", "parameter_requests.py", *asked, on_line=self._on_wait)
        self.wait(lambda: len(self.endpoints_used()) == len(kinds), "first command of every client", START_S)

    def endpoints_used(self) -> set[str]:
        return {entry.command.split()[-2] for entry in self.ledger.between(0, float("inf"))} & {*ENDPOINTS, "mixed"}

    def finish(self) -> None:
        """No more commands; every open one is answered, or will not be."""
        for name in (*ENDPOINTS, "mixed"):
            if name in self.children:
                self.children.pop(name).end()
        with contextlib.suppress(BenchError):
            self.wait(lambda: not self.ledger.open(), "answer to the last command", ANSWER_S)

    # --- what the faults do

    @property
    def state(self) -> int:
        """As the newest ~/status says; -1 before it."""
        return self.states[-1][1] if self.states else -1

    def worker(self) -> psutil.Process:
        """The worker process, once there is one."""
        return self.wait(lambda: self.node_process.children() or None, "worker process")[0]

    def pause(self, most_s: float) -> None:
        """A random moment."""
        self.sleep(self.random.uniform(0.0, most_s))

    def show(self, **changes: object) -> None:
        """Change the camera; returns when it has."""
        self._camera_changed.clear()
        self.children["camera"].tell(**changes)
        self.wait(self._camera_changed.is_set, f"camera with {changes}")

    def change(self, *transitions: int) -> None:
        for transition in transitions:
            request = ChangeState.Request(transition=Transition(id=transition))
            future = self.changer.call_async(request)
            if not self.wait_done(future, f"reply to transition {transition}").success:
                raise BenchError(f"transition {transition} was refused")

    def bring_back(self) -> None:
        """After a fault that stopped half-way: active again, from wherever it was."""
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            with contextlib.suppress(BenchError):
                self.change(transition)

    def ask(self, words: str) -> tuple[str, Any]:
        """Say a command by the service: it, and the future of its answer."""
        command = f"{words} bench {next(self._numbers)}"
        self.ledger.asked(command, "service", time.monotonic())
        future = self.service.call_async(SegmentImage.Request(command=command))
        future.add_done_callback(
            lambda done: self.ledger.answered(command, time.monotonic(), done.result().status, done.result().message)
        )
        return command, future

    def answer(self, words: str) -> SegmentImage.Response:
        """Say a command and wait for its answer."""
        command, future = self.ask(words)
        return self.wait_done(future, f"answer to {command!r}")

    def begin_slow_command(self) -> Any:
        """One that the worker is busy with for a second; returns when it has it, with the future of its answer."""
        end = time.monotonic() + ANSWER_S
        while True:
            command, future = self.ask("slow box")
            self.wait(lambda future=future: future.done() or self.state == Status.BUSY, f"work on {command!r}")
            if not future.done():
                return future
            if time.monotonic() > end:
                raise BenchError(f"no slow command was taken, the last answer was: {future.result().message}")

    def until_status(self, status: int, words: str = "the box") -> None:
        """Ask until this is the answer, or the queue was full all the time."""
        end = time.monotonic() + ANSWER_S
        while (answer := self.answer(words)).status != status:
            if time.monotonic() > end:
                raise BenchError(f"no answer with status {status}; the last one was {answer.status}: {answer.message}")
            self.sleep(0.02)

    def recovered(self, accept: Callable[[Segmentation], bool], limit_s: float) -> float:
        """When a command was first answered as if nothing had happened."""
        end, last = time.monotonic() + limit_s, "no answer"
        while time.monotonic() < end:
            answer = self.answer("the box")
            found = answer.segmentation
            if answer.status == Segmentation.SUCCESS and accept(found):
                return time.monotonic()
            last = f"{answer.status}: {answer.message} (stamp {found.header.stamp}, frame {found.header.frame_id!r})"
            self.sleep(0.02)
        raise BenchError(f"not recovered within {limit_s:g} s; the last answer was {last}")

    # --- waiting

    def interrupt(self, *_: Any) -> None:
        """For a signal: whoever waits stops. An exception out of the handler might be swallowed where it comes."""
        self._interrupted = True

    def sleep(self, seconds: float) -> None:
        """Raises KeyboardInterrupt, once, after ``interrupt``."""
        end = time.monotonic() + seconds
        while True:
            if self._interrupted:
                self._interrupted = False
                raise KeyboardInterrupt
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

    def wait(self, condition: Callable[[], Any], what: str, limit_s: float = ANSWER_S) -> Any:
        end = time.monotonic() + limit_s
        while not (value := condition()):
            if not self.node_process.is_running() or self.node_process.status() == psutil.STATUS_ZOMBIE:
                raise BenchError(f"the node is gone, while waiting for: {what}")
            if time.monotonic() > end:
                raise BenchError(f"no {what} within {limit_s:g} s")
            self.sleep(0.005)
        return value

    def wait_done(self, future: Any, what: str) -> Any:
        self.wait(future.done, what)
        return future.result()

    # --- what is heard

    def on_commander(self, line: dict[str, Any]) -> None:
        if "asked" in line:
            self.ledger.asked(line["asked"], line["endpoint"], line["time"])
            return
        command = line["answered"]
        self.ledger.answered(command, line["time"], line["status"], line["message"])
        self.latencies.append(line["total_s"])
        if "image_age_s" in line:
            self.ages.append(line["image_age_s"])
        if "objects" in line:
            self.objects.append(line["objects"])
            if self.stand_in and not line["is_right"]:
                self.wrong_masks.append(command)

    def _on_wait(self, line: dict[str, Any]) -> None:
        waits = self.waits.setdefault(line["to"], {})
        if "took_s" in line:
            waits[line["number"]] = (line["time"], line["took_s"])
        else:
            waits[line["number"]] = (line["time"], None)

    def _on_camera(self, line: dict[str, Any]) -> None:
        self._frames.append((line["time"], line["frames"]))
        self._camera_changed.set()

    def forget(self) -> None:
        """Measure anew."""
        for values in (self.ages, self.latencies, self.objects, self.wrong_masks):
            values.clear()

    def frame_count(self) -> tuple[float, int]:
        """(when, frames published until then)."""
        self.show()
        return self._frames[-1]

    def _on_result(self, answer: Segmentation) -> None:
        now = time.monotonic()
        self.ledger.heard(answer.command, now, answer.status, answer.message)
        if self.stand_in and answer.masks and " bench " in answer.command and "twice" not in answer.command:
            roi = answer.masks[0].roi
            if not is_right((roi.x_offset, roi.y_offset, roi.width, roi.height), answer.header.stamp.nanosec):
                self.wrong_masks.append(answer.command)

    def _on_status(self, status: Status) -> None:
        self.states.append((time.monotonic(), status.state))

    def _spin(self, executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while rclpy.ok():
                executor.spin_once(timeout_sec=0.1)


class Meter:
    """CPU and memory of processes by name, over a stretch of time."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        self._begun = time.monotonic()
        self._cpu = self._cpu_s()
        self.memory: list[tuple[float, dict[str, float]]] = []  # (seconds since the beginning, MB by "name kind")

    def sample(self) -> None:
        """Memory now. PSS counts what is shared by shares: DDS's segments are mapped by everybody."""
        found = {}
        for name in ("node", "worker"):
            with contextlib.suppress(psutil.Error):
                memory = self._processes[name].memory_full_info()
                found |= {f"{name} rss": memory.rss / 1e6, f"{name} pss": memory.pss / 1e6}
        self.memory.append((time.monotonic() - self._begun, found))

    def cores(self) -> dict[str, float]:
        """CPU seconds a second, since the beginning."""
        lasted, now = time.monotonic() - self._begun, self._cpu_s()
        return {name: round((now[name] - self._cpu[name]) / lasted, 3) for name in now}

    def growth(self, window_s: float) -> dict[str, dict[str, float]]:
        """Means over the second window and the last one, in MB, and the change in percent."""
        end, found = self.memory[-1][0], {}
        for name in self.memory[0][1]:
            second = [values[name] for at, values in self.memory if window_s <= at < 2 * window_s]
            last = [values[name] for at, values in self.memory if at >= end - window_s]
            if second and last:
                early, late = statistics.mean(second), statistics.mean(last)
                found[name] = {
                    "second_mb": round(early, 1),
                    "last_mb": round(late, 1),
                    "change_percent": round(100 * (late / early - 1), 2),
                }
        return found

    def _cpu_s(self) -> dict[str, float]:
        found = {}
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.Error):
                found[name] = sum(process.cpu_times()[:2])
        return found


@contextlib.contextmanager
def clean_shared_memory() -> Iterator[None]:
    """Remove what killed processes left of Fast DDS in the shared memory: it does not do so by itself.

    A segment whose lock can be had belongs to nobody; only those are removed that were not there before.
    """
    before = set(SHARED_MEMORY.glob("fastrtps_*"))
    try:
        yield
    finally:
        for lock in set(SHARED_MEMORY.glob("fastrtps_*_el")) - before:
            with contextlib.suppress(OSError), lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
