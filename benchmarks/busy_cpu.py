"""The demo model's answers beside busy processes, for several settings of OpenMP's threads.

    python benchmarks/busy_cpu.py                       # about 3 minutes
    python benchmarks/busy_cpu.py --settings ours --busy 0 2

Each setting is a process of its own, since libgomp reads its environment once. For each number of busy processes (each
uses a whole core) it answers a command about a fresh frame of 640x480 and another command about the same frame, several
times. Ratios are to the same setting without busy processes. All settings run in turn in every round; other work on the
machine counts as busy processes too, so the load average is part of the output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from node_under_test import machine

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
SETTINGS = {
    # Name -> environment; of "ours", what lisa_ros sets itself is added.
    "torch's default": {"GOMP_SPINCOUNT": "300000"},  # libgomp's own, written out
    "ours": {},
    "all threads": {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))},  # a user's own: one_thread leaves it
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SCENE = Path(__file__).resolve().parent.parent / "demo/scene.jpg"
FIRST, SECOND = "the thing to drink from", "something that cuts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 6], help="busy processes (default 0 1 2 6)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--answers", type=int, default=4, help="frames for each round (default %(default)s)")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds after each group (default %(default)s)")
    parser.add_argument("--nice", type=int, help="priority while answering, for a shared machine; below 0 needs root")
    parser.add_argument("--answer", action="store_true", help="only answer, in this process, as lines of input ask")
    args = parser.parse_args()
    if args.answer:
        answer_lines()
        return
    first: dict[tuple[str, int], list[float]] = {(name, n): [] for name in args.settings for n in args.busy}
    second: dict[tuple[str, int], list[float]] = {key: [] for key in first}
    loads = [os.getloadavg()[0]]
    with ExitStack() as stack:
        answering = {name: stack.enter_context(answerer(SETTINGS[name], args.nice)) for name in args.settings}
        for _ in range(args.rounds):
            for count in args.busy:
                with busy(count, args.nice):
                    for name, process in answering.items():
                        times = ask(process, args.answers)
                        first[name, count] += times["first"]
                        second[name, count] += times["second"]
                time.sleep(args.pause)
            loads.append(os.getloadavg()[0])
    report(args.settings, args.busy, first, second)
    print(f"load average {min(loads):.1f} to {max(loads):.1f}, the busy processes included")
    figures = [
        {"setting": name, "busy": count, "first_s": first[name, count], "second_s": second[name, count]}
        for name, count in first
    ]
    print(json.dumps({"benchmark": "busy_cpu", "machine": machine(), "load_average": loads, "figures": figures}))


def report(
    settings: list[str],
    counts: list[int],
    first: dict[tuple[str, int], list[float]],
    second: dict[tuple[str, int], list[float]],
) -> None:
    """Print minimum, median and the medians' ratio to the fewest busy processes, in milliseconds."""
    print(f"\n{'':18}{'':>5}{'first answer, ms':>24}{'second answer, ms':>24}")
    print(f"{'setting':18}{'busy':>5}" + f"{'min':>8}{'median':>8}{'ratio':>8}" * 2)
    for name in settings:
        for count in counts:
            row = f"{name:18}{count:5}"
            for times in (first, second):
                median = statistics.median(times[name, count])
                quiet = statistics.median(times[name, min(counts)])
                row += f"{1e3 * min(times[name, count]):8.1f}{1e3 * median:8.1f}{median / quiet:8.1f}"
            print(row)


@contextmanager
def busy(count: int, nice: int | None) -> Iterator[None]:
    """``count`` processes that each use a whole core; they end with this one, however it ends."""
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        for process in processes:
            prefer(process, nice)
        if processes:
            time.sleep(0.3)  # until all of them count
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def prefer(process: subprocess.Popen[Any], nice: int | None) -> None:
    """Give all threads of a process this priority."""
    if nice is not None:
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)


# --- the process that answers


@contextmanager
def answerer(setting: dict[str, str], nice: int | None) -> Iterator[subprocess.Popen[str]]:
    """A process with this environment that has loaded the demo model and waits for lines."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {**setting, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    command = [sys.executable, __file__, "--answer"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        ask(process, 2)  # loads, and has the first answers' own costs behind it
        prefer(process, nice)
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str], answers: int) -> dict[str, Any]:
    """Seconds of so many first and second answers."""
    assert process.stdin is not None and process.stdout is not None
    print(answers, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        sys.exit("the process that answers has ended")
    return json.loads(line)


def answer_lines() -> None:
    """For each line N of the input: N frames with two commands, and one line with the seconds that they took."""
    from lisa_ros.engine.api import Ask
    from lisa_ros.engine.registry import load_engine
    from lisa_ros.perception.photo import read_photo
    from lisa_ros.process_tuning import keep_freed_buffers

    engine = load_engine(device="cpu")
    keep_freed_buffers()  # as the worker does
    scene, frames = read_photo(str(SCENE)), 0
    for line in sys.stdin:
        times: dict[str, list[float]] = {"first": [], "second": []}
        for _ in range(int(line)):
            frames += 1
            rgb = np.roll(scene, frames, axis=1)  # another frame of the same things
            begun = time.perf_counter()
            encoded = engine.encode(rgb)
            engine.ask(encoded, Ask(FIRST))
            middle = time.perf_counter()
            engine.ask(encoded, Ask(SECOND))
            times["first"].append(middle - begun)
            times["second"].append(time.perf_counter() - middle)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
