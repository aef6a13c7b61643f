"""What it costs to bring a camera frame to the engine, the tracker and the overlay: copies and time.

The way of today is made of the node's own functions. The way until version 0.1 (the frame decoded into the shared
memory, copied by the worker, by the engine, by the tracker and by the overlay) is kept here to be compared in one run:
``python benchmarks/frame_copies.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from node_under_test import SIZE, machine
from numpy.typing import NDArray

from lisa_ros.perception.image_codec import LAYOUTS, decode
from lisa_ros.runtime.transport import SharedMemory
from lisa_ros.runtime.worker_process import own_pixels

MOST_PIXELS = 50_000_000
Pixels = NDArray[np.uint8]


class Today:
    """Frame -> transport -> the worker's own copy; tracker and overlay look at the node's frame."""

    def __init__(self) -> None:
        self._transport = SharedMemory(MOST_PIXELS)
        self._receiver = self._transport.receiver()

    def __call__(self, image: SimpleNamespace) -> list[Pixels]:
        rgb = decode(image, MOST_PIXELS)
        engine = own_pixels(self._receiver.get(self._transport.put(rgb)))
        return [engine, rgb, rgb]


class Before:
    """Decoded into the shared memory, and copied from there by everybody."""

    def __init__(self) -> None:
        self._memory = np.zeros((*SIZE, 3), np.uint8)

    def __call__(self, image: SimpleNamespace) -> list[Pixels]:
        layout = LAYOUTS[image.encoding]
        rows = np.frombuffer(image.data, np.uint8).reshape(*SIZE, layout.channels)
        layout.convert(rows, self._memory)
        worker = self._memory.copy()
        return [worker.copy(), self._memory.copy(), self._memory.copy()]


def frame(encoding: str) -> SimpleNamespace:
    """A message as it comes, with noise for pixels."""
    channels = LAYOUTS[encoding].channels
    data = np.random.default_rng(0).integers(0, 256, SIZE[0] * SIZE[1] * channels, np.uint8).tobytes()
    return SimpleNamespace(
        encoding=encoding, height=SIZE[0], width=SIZE[1], step=SIZE[1] * channels, is_bigendian=0, data=data
    )


def milliseconds(way: Callable[[SimpleNamespace], list[Pixels]], image: SimpleNamespace, rounds: int) -> list[float]:
    """Of every round."""
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        way(image)
        took.append(1000 * (time.perf_counter() - begun))
    return took


def compare(encoding: str, rounds: int) -> dict[str, object]:
    """Medians of rounds that alternate between the two ways, so that both meet the same machine."""
    image, ways = frame(encoding), {"before": Before(), "today": Today()}
    for one, other in zip(*(way(image) for way in ways.values()), strict=True):
        np.testing.assert_array_equal(one, other)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            took[name] += milliseconds(way, image, 5)
    median = {f"{name}_ms": round(statistics.median(values), 3) for name, values in took.items()}
    ratio = round(statistics.median(took["before"]) / statistics.median(took["today"]), 2)
    # Every write of a whole frame counts, conversions too: into the memory, by the worker, and by each of the others.
    copies = {"before": 5, "today": 2 if encoding == "rgb8" else 3}
    return {"encoding": encoding, "writes_of_a_frame": copies, **median, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=40, help="of five frames each")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # as in the node; and a busy machine wakes threads late
    figures = {
        "machine": machine(),
        "size": f"{SIZE[1]} x {SIZE[0]}",
        "frames": [compare(encoding, arguments.rounds) for encoding in ("rgb8", "bgr8")],
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
