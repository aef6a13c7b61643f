"""What the engine ``grounded`` adds to a server's own time, and what reading its answers costs.

    PYTHONPATH=.:test:test/grounded python benchmarks/endpoint.py

A stub on loopback answers at once with an object and notes when it got the request and when it sent the object. What is
left of the time from the command to the first region is ours: preparing the picture (once a frame), the request, the
reading, and the mask of a tiny SAM 2.1, which is given apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from servers import Handler, Stub

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Event, Regions
from lisa_ros.grounded.answers import AnswerReader
from lisa_ros.grounded.dialects import dialect_named

SIZE = (720, 1280)
COMMANDS = 50
ANSWERS = 1000
OBJECT = '{"label": "cup", "bbox_2d": [100, 120, 500, 540], "point_2d": [300, 310]}'


def overhead(engine_folder: Path) -> None:
    """Print what a command costs beside the server."""
    got: list[float] = []
    sent: list[float] = []

    def chat(handler: Handler, body: dict[str, Any]) -> None:
        got.append(time.perf_counter())
        handler.begin_stream()
        handler.send_text(f'{{"present": true, "objects": [{OBJECT}')
        sent.append(time.perf_counter())
        handler.send_text("]}")
        handler.send_event("[DONE]")

    with Stub(chat) as stub:
        options = {"endpoint": stub.url, "check": "off"}
        engine = load_engine(engine_folder, device="cpu", options=options)
        rows: dict[str, list[float]] = {"picture": [], "command": [], "mask": []}
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 255, (18, 32, 3), dtype=np.uint8)
        rgb = np.kron(coarse, np.ones((40, 40, 1), np.uint8))
        for _ in range(COMMANDS + 5):
            begun = time.perf_counter()
            engine.engine.locator.view(rgb)
            rows["picture"].append(time.perf_counter() - begun)
            encoded = engine.encode(rgb)
            first: list[float] = []

            def on_event(event: Event, first: list[float] = first) -> None:
                if isinstance(event, Regions) and not first:
                    first.append(time.perf_counter())

            begun = time.perf_counter()
            answer = engine.ask(encoded, Ask("the cup"), on_event=on_event)
            rows["command"].append(first[0] - begun - (sent[-1] - got[-1]) - answer.timings.decode_s)
            rows["mask"].append(answer.timings.decode_s)
    print(f"{SIZE[1]} x {SIZE[0]}, {COMMANDS} commands, milliseconds (least, median)")
    for name, seconds in rows.items():
        warm = sorted(seconds[5:])
        print(f"  {name:10}{1e3 * warm[0]:8.1f}{1e3 * statistics.median(warm):8.1f}")


def reading() -> None:
    """Print what reading an answer of eight objects costs, token by token."""
    places = [(x, y) for x in range(0, 800, 200) for y in (0, 500)]
    objects = [f'{{"label": "cup", "bbox_2d": [{x}, {y}, {x + 90}, {y + 90}]}}' for x, y in places]
    text = f'{{"present": true, "objects": [{", ".join(objects)}]}}'
    dialect = dialect_named("qwen3-vl")
    begun = time.process_time()
    for _ in range(ANSWERS):
        reader = AnswerReader(dialect, SIZE, SIZE, 9)
        for place in range(0, len(text), 2):  # digits are tokens of their own
            reader.feed(text[place : place + 2], -0.1)
        reader.finish()
        assert len(reader.finds) == 8
    each_s = (time.process_time() - begun) / ANSWERS
    print(f"reading {ANSWERS} answers of 8 objects: {1e3 * each_s:.1f} ms of CPU each ({each_s:.1%} of a core-second)")


def main() -> None:
    """Run both."""
    with tempfile.TemporaryDirectory() as work:
        folder = tiny_models.recipe(Path(work) / "engine", {"kind": "endpoint"}, {"model": "cutter"})
        tiny_models.sam2(folder / "cutter")
        overhead(folder)
    reading()


if __name__ == "__main__":
    main()
