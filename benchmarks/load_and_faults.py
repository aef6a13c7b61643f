#!/usr/bin/env python3
"""The node under load and under faults, as processes over real DDS: a camera with depth, four clients, five commands a
second, and everything that goes wrong on a robot.

    python benchmarks/load_and_faults.py --minutes 10
    python benchmarks/load_and_faults.py --minutes 0 --faults 50 --seed 7
    python benchmarks/load_and_faults.py --minutes 2 --model lisa_small/weights

Load: is every command answered once at its endpoint and once on ~/result, is the memory flat, how old are the frames,
how soon does the executor answer, what does it cost. Faults: each of them so many times, at moments that the seed
draws, while commands go on: is no command lost, does every status fit, how soon does the node work again.

The last line is JSON. The exit code is 1 where a command was lost, answered twice or wrongly, or the node did not
recover; goals in seconds, which the machine has a part in, are in "missed". Ctrl-C ends it with the figures so far.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import node_under_test
import numpy as np
import psutil
from bench import ANSWER_S, PARAMETERS, Bench, BenchError, Meter, clean_shared_memory
from faults import FAULTS, Disk, Fault, LimitedDisk, SmallDisk, log_disk, model_load_s
from ledger import Window

COMMANDS_HZ = 5.0
OLDEST_FRAME_S = 0.1
ANSWERED_WITHIN_S = 0.05  # a parameter request
FLAT_PERCENT = 3.0
RECOVERED_WITHIN_S = 5.0  # and the time that the model takes to load
RECOVERED_AT_ALL_S = 60.0
MAX_IMAGE_AGE_S = 1.5  # under faults: so that a camera's stop shows soon
UNANSWERED_S = 2.0


def milliseconds(values: list[float]) -> dict[str, float]:
    """p50, p99 and max; nothing without values."""
    if not values:
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(1e3 * float(p50), 1), "p99": round(1e3 * float(p99), 1), "max": round(1e3 * max(values), 1)}


# --- load


def load(bench: Bench, minutes: float) -> dict[str, Any]:
    """The figures of so many minutes; fewer where somebody presses Ctrl-C."""
    node, worker = bench.node_process, bench.worker()
    processes = {"node": node, "worker": worker}
    processes |= {name: psutil.Process(child.pid) for name, child in bench.children.items()}
    meter = Meter(processes)
    bench.forget()
    frames, begun, window_s = bench.frame_count(), time.monotonic(), min(60.0, 60 * minutes / 5)
    interrupted = False
    try:
        for at in np.arange(0, 60 * minutes, window_s / 12):
            bench.sleep(begun + at - time.monotonic())
            meter.sample()
            if int(at / 10) > int((at - window_s / 12) / 10):
                progress(bench, begun, at)
        bench.sleep(begun + 60 * minutes - time.monotonic())
    except KeyboardInterrupt:
        interrupted = True
    end = time.monotonic()
    cores, frames_at_end = meter.cores(), bench.frame_count()
    with contextlib.suppress(BenchError):
        bench.wait(lambda: not bench.ledger.open(before=end), "answers", ANSWER_S)
    entries = bench.ledger.between(begun, end)
    faults = bench.ledger.faults(entries)
    figures = {
        "minutes": round((end - begun) / 60, 2),
        "interrupted": interrupted,
        "camera_hz": round((frames_at_end[1] - frames[1]) / (frames_at_end[0] - frames[0]), 1),
        "commands": len(entries),
        "commands_hz": round(len(entries) / (end - begun), 2),
        "by_endpoint": {d: sum(e.endpoint == d for e in entries) for d in ("topic", "service", "action")},
        "statuses": bench.ledger.statuses(entries),
        "lost": sum(text.startswith("lost") for text in faults),
        "twice": sum(text.startswith("twice") for text in faults),
        "wrong": sum(not text.startswith(("lost", "twice")) for text in faults) + len(bench.wrong_masks),
        "answers_with_objects": sum(count > 0 for count in bench.objects),
        "answers_with_masks": len(bench.objects),
        "command_to_answer_ms": milliseconds(bench.latencies),
        "image_age_ms": milliseconds(bench.ages),
        "images_over_100_ms": sum(age > OLDEST_FRAME_S for age in bench.ages),
        "parameter_request_ms": waited(bench, "/lisa", begun, end),
        "same_of_an_idle_node_ms": waited(bench, "/idle", begun, end),
        "cores": cores,
        "memory": meter.growth(window_s),
        "failures": faults + [f"wrong mask: {command}" for command in bench.wrong_masks],
    }
    bench.forget()
    return figures


def progress(bench: Bench, begun: float, at: float) -> None:
    entries = bench.ledger.between(begun, time.monotonic())
    memory = bench.node_process.memory_info().rss / 1e6
    waits = waited(bench, "/lisa", begun, time.monotonic())
    say(
        f"{at:6.0f} s  {len(entries)} commands, {len(bench.ledger.open())} open, {bench.ledger.statuses(entries)}, "
        f"node {memory:.0f} MB, oldest frame {1e3 * max(bench.ages, default=0):.0f} ms, parameters {waits}"
    )


def waited(bench: Bench, name: str, begun: float, end: float) -> dict[str, float]:
    """Of parameter requests: milliseconds, how many took too long, and how many have no answer."""
    asked = [took for when, took in list(bench.waits.get(name, {}).values()) if begun <= when < end - UNANSWERED_S]
    took = [value for value in asked if value is not None]
    over = sum(value > ANSWERED_WITHIN_S for value in took)
    return {**milliseconds(took), "requests": len(asked), "over_50_ms": over, "unanswered": len(asked) - len(took)}


# --- faults


def afflict(bench: Bench, disk: Disk, faults: list[Fault], rounds: int) -> dict[str, Any]:
    """Every fault once a round, in their order: a clean-up lies between two deaths of the worker, for the pause before
    a worker that dies again soon is doubled each time."""
    load_s = model_load_s(bench)
    limit_s = RECOVERED_WITHIN_S + load_s
    say(f"the model loads in {load_s:.2f} s; log disk: {disk.how}")
    recoveries: dict[str, list[float]] = {fault.name: [] for fault in faults}
    failures: list[str] = []
    bench.checked_until = begun = time.monotonic()
    interrupted = False
    try:
        for number, fault in itertools.product(range(1, rounds + 1), faults):
            what = f"round {number} of {rounds}, {fault.name}"
            recovery_s, wrong = suffer(bench, disk, fault)
            if recovery_s is not None:
                recoveries[fault.name].append(recovery_s)
                say(f"{what}: recovered in {recovery_s:.2f} s{'' if recovery_s <= limit_s else ', TOO LATE'}")
            for text in wrong:
                say(f"{what}: FAILED: {text}")
                failures.append(f"{what}: {text}")
            if recovery_s is None:
                bench.bring_back()
                bench.recovered(lambda answer: True, RECOVERED_AT_ALL_S)
    except KeyboardInterrupt:
        interrupted = True
    except BenchError as error:
        failures.append(f"given up: {error}")
        say(f"GIVEN UP: {error}")
    entries = bench.ledger.between(begun, time.monotonic())
    return {
        "rounds": rounds,
        "interrupted": interrupted,
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "model_load_s": round(load_s, 2),
        "limit_s": round(limit_s, 2),
        "log_disk": disk.how,
        "commands": len(entries),
        "statuses": bench.ledger.statuses(entries),
        "parameter_request_ms": waited(bench, "/lisa", begun, time.monotonic()),
        "kinds": {name: recovery_figures(values, limit_s) for name, values in recoveries.items()},
        "failures": failures,
    }


def suffer(bench: Bench, disk: Disk, fault: Fault) -> tuple[float | None, list[str]]:
    """One fault: (seconds until the node worked again, None where it did not; what was wrong, in words)."""
    begun, recovery_s, wrong = bench.checked_until, None, []
    bench.pause(0.5)
    try:
        steps = fault.steps(bench, disk)
        accept = next(steps)
        since = time.monotonic()
        recovery_s = bench.recovered(accept, RECOVERED_AT_ALL_S) - since
        next(steps, None)
    except BenchError as error:
        wrong.append(str(error))
        recovery_s = None
    end = time.monotonic()
    bench.ledger.windows.append(Window(begun, end, fault.allowed))
    bench.checked_until = end
    with contextlib.suppress(BenchError):
        bench.wait(lambda: not bench.ledger.open(before=end), "answers", ANSWER_S)
    return recovery_s, wrong + bench.ledger.faults(bench.ledger.between(begun, end)) + masks_of_others(bench)


def masks_of_others(bench: Bench) -> list[str]:
    found = [f"wrong mask: {command}" for command in bench.wrong_masks]
    bench.wrong_masks.clear()
    return found


def recovery_figures(values: list[float], limit_s: float) -> dict[str, float]:
    if not values:
        return {"times": 0}
    return {
        "times": len(values),
        "median_s": round(float(np.median(values)), 2),
        "worst_s": round(max(values), 2),
        "late": sum(value > limit_s for value in values),
    }


# --- all of it


def missed(figures: dict[str, Any]) -> list[str]:
    """Goals in numbers that were not met."""
    found = []
    measured = figures.get("load")
    if measured:
        if measured["images_over_100_ms"]:
            found.append(f"{measured['images_over_100_ms']} frames were over 100 ms old")
        slow = measured["parameter_request_ms"]
        if slow["over_50_ms"] or slow["unanswered"]:
            found.append(f"{slow['over_50_ms'] + slow['unanswered']} parameter requests took over 50 ms")
        for name, change in measured["memory"].items():
            if abs(change["change_percent"]) > FLAT_PERCENT:
                found.append(f"{name} changed by {change['change_percent']} %")
    for name, kind in figures.get("faults", {}).get("kinds", {}).items():
        if kind.get("late"):
            found.append(f"{kind['late']} recoveries from {name} were late")
    return found


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def run(arguments: argparse.Namespace, folder: Path, figures: dict[str, Any]) -> None:
    """Fills in the figures."""
    stand_in = arguments.model == "stand-in"
    settings: dict[str, object] = dict(PARAMETERS)
    if not stand_in:
        settings |= {"model": arguments.model}
    if arguments.faults:
        settings["max_image_age_s"] = MAX_IMAGE_AGE_S
    disk = log_disk(folder) if arguments.faults else LimitedDisk(folder)
    faults = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    if not stand_in:
        faults = [fault for fault in faults if fault.name != "memory_error"]  # the stand-in's words
    node = node_under_test.lisa_node(
        log=folder / "console.log", log_level="info", environment={"ROS_LOG_DIR": str(folder)}, **settings
    )
    bench = Bench(arguments.seed, stand_in, COMMANDS_HZ)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, bench.interrupt)
    with clean_shared_memory(), node as process:
        if isinstance(disk, LimitedDisk):
            disk.node = psutil.Process(process.pid)
        with (
            Path(folder, "console.log").open(errors="replace") as console,
            bench.running(process, arguments.size, arguments.rate),
        ):
            if isinstance(disk, SmallDisk):
                disk.hide()
            say(f"the node is up ({arguments.model}), seed {arguments.seed}")
            bench.begin()
            if arguments.minutes:
                figures["load"] = load(bench, arguments.minutes)
            if arguments.faults and not figures.get("load", {}).get("interrupted"):
                figures["faults"] = afflict(bench, disk, faults, arguments.faults)
            bench.finish()
            said = console.read()
            figures["lost_at_the_end"] = [
                f"{entry.command!r} ({entry.endpoint}), the node's log has it {said.count(repr(entry.command))} times"
                for entry in bench.ledger.open()
            ]
            figures["tracebacks"] = tracebacks(said)


def tracebacks(console: str) -> dict[str, int]:
    """Last lines of the tracebacks on the node's console, and how often; the stand-in's own ones are among them."""
    found = re.findall(r"Traceback \(most recent call last\).*?^(\w[^\n]*)", console, re.MULTILINE | re.DOTALL)
    return dict(Counter(line for line in found).most_common())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of load; 0: none (default %(default)s)")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="each fault so many times")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], help="these faults")
    parser.add_argument("--model", default="stand-in", help="stand-in, or the folder of a checkpoint")
    parser.add_argument("--size", default="1280x720", help="of the camera's images (default %(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz (default %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of what is drawn")
    arguments = parser.parse_args()
    arguments.size = tuple(map(int, reversed(arguments.size.split("x"))))
    return arguments


def main() -> int:
    arguments = parse()
    claimed = node_under_test.claim_domain()
    figures: dict[str, Any] = {
        "benchmark": "load_and_faults",
        "model": arguments.model,
        "camera": f"{arguments.size[1]}x{arguments.size[0]} at {arguments.rate:g} Hz",
        "seed": arguments.seed,
        "machine": node_under_test.machine(),
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(arguments, Path(folder), figures)
        except KeyboardInterrupt:
            figures["interrupted"] = True
        except BenchError as error:
            figures["failures"] = [str(error)]
    del claimed
    figures["missed"] = missed(figures)
    print(json.dumps(figures))
    parts = (figures, figures.get("load", {}), figures.get("faults", {}))
    return int(any(part.get("failures") or part.get("lost_at_the_end") for part in parts))


if __name__ == "__main__":
    sys.exit(main())
