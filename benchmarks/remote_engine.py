"""What an engine on another computer costs more than one on the robot, without the network: server and client are here.

    PYTHONPATH=.:examples python benchmarks/remote_engine.py     # about a minute

The same engine (examples/colour_engine.py) answers from the worker process as the node uses it, once loaded there and
once behind ``lisa serve``. Each command is about a new frame of 1280 x 720 pixels, from putting the frame into the
shared memory to the answer. The ways take turns, so a busy machine is busy for all. On one, the fastest tenth says more
than the median.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from loading_memory import machine
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, EngineInfo
from lisa_ros.perception.image_codec import decode_compressed
from lisa_ros.remote import wire
from lisa_ros.remote.engine import Options, RemoteEngine
from lisa_ros.runtime.transport import SharedMemory
from lisa_ros.runtime.worker import Command, Done, Failed, LoadFailed, Ready, Worker, WorkerSettings

ENGINE = "colour_engine:load"
SIZE = (720, 1280)
FRAMES = 24
LIMIT_S = 60.0


class Way:
    """One worker process and its answers. settings: of the worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._transport = SharedMemory(SIZE[0] * SIZE[1])
        self._worker = Worker(settings, self._transport, self._events.put)
        self._worker.start()
        self._number = 0
        self._wait(Ready)

    def command_s(self, rgb: NDArray[np.uint8]) -> float:
        """Seconds of one command about a frame."""
        self._number += 1
        begun = time.perf_counter()
        ticket = self._transport.put(rgb)
        self._worker.send(Command(str(self._number), Ask("the red thing"), ticket))
        self._wait(Done)
        return time.perf_counter() - begun

    def close(self) -> None:
        self._worker.close()
        self._transport.close()

    def _wait(self, kind: type) -> None:
        while not isinstance(event := self._events.get(timeout=LIMIT_S), kind):
            if isinstance(event, Failed | LoadFailed):
                raise event.error


@contextmanager
def server() -> Iterator[str]:
    """URL of ``lisa serve`` in a process of its own."""
    command = [sys.executable, "-m", "lisa_ros.cli", "serve", "--port", "0", "--model", ENGINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().rsplit(" ", 1)[1].strip()
        finally:
            process.terminate()


def frames() -> list[NDArray[np.uint8]]:
    """A red disc on smooth grey-blue ground with a camera's noise, each frame another: JPEGs of about 200 kB."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(FRAMES):
        coarse = rng.integers(60, 190, (SIZE[0] // 16, SIZE[1] // 16, 1), dtype=np.uint8) + np.uint8([0, 10, 20])
        picture = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.circle(picture, (300 + 25 * number, 360), 120, (200, 30, 40), -1)
        made.append(np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8))
    return made


def parts_ms(pictures: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Milliseconds of the parts of a frame's way, the fastest tenth of some rounds; the parts take turns."""
    jpegs = [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for picture in pictures]
    client = RemoteEngine(None, Options(), EngineInfo("none"))  # type: ignore[arg-type] - it is not connected
    works = {
        "encode": lambda at: client.encode(pictures[at]),
        "pack, unpack": lambda at: wire.unpack(wire.pack({"picture": jpegs[at]})),
        "digest": lambda at: hashlib.sha256(jpegs[at]).digest(),
        "decode": lambda at: decode_compressed(SimpleNamespace(format="jpeg", data=jpegs[at]), 50_000_000),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for at in list(range(len(pictures))) * 4:
        for name, work in works.items():
            begun = time.perf_counter()
            work(at)
            seconds[name].append(time.perf_counter() - begun)
    return {name: round(1e3 * float(np.quantile(values, 0.1)), 2) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help=f"of {FRAMES} commands each way (default %(default)s)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pictures = frames()
    jpegs = [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].size for picture in pictures]
    with ExitStack() as stack:
        url = stack.enter_context(server())
        ways = {
            "worker": Way(WorkerSettings(ENGINE)),
            "remote, JPEG": Way(WorkerSettings(url)),
            "remote, PNG": Way(WorkerSettings(url, {"picture": "png"})),
        }
        for way in ways.values():
            stack.callback(way.close)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds):
            for picture in pictures:
                for name, way in ways.items():
                    picture[0, 0] = number  # a frame that no way has seen before
                    seconds[name].append(way.command_s(picture))
    print(f"{machine()}; JPEG {statistics.mean(jpegs) / 1e3:.0f} kB")
    print(f"{'':16}{'fastest tenth':>16}{'median':>12}{'p95':>12}   more than the worker: fastest tenth, median")
    local_ms = 1e3 * np.quantile(seconds["worker"], (0.1, 0.5))
    report: dict[str, Any] = {"rounds": args.rounds, "jpeg_bytes": round(statistics.mean(jpegs))}
    for name, values in seconds.items():
        fast, median, p95 = 1e3 * np.quantile(values, (0.1, 0.5, 0.95))
        more = (fast - local_ms[0], median - local_ms[1])
        print(f"{name:16}{fast:13.1f} ms{median:9.1f} ms{p95:9.1f} ms{more[0]:18.1f} ms{more[1]:10.1f} ms")
        report[name] = {
            "p10_ms": round(fast, 2),
            "p50_ms": round(median, 2),
            "p95_ms": round(p95, 2),
            "more_p10_ms": round(more[0], 2),
            "more_p50_ms": round(more[1], 2),
        }
    report["parts_ms"] = parts_ms(pictures)
    print("parts, fastest tenth:", ", ".join(f"{name} {ms:.2f} ms" for name, ms in report["parts_ms"].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
