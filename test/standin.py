"""An engine without a model, for tests where the model is not what is tested.

It is chosen as ``model:=standin:load``. The option ``loading`` says how loading goes (ready, gated, missing, huge,
mortal), words in a command how it is answered. It marks the bright pixels of the frame, so a mask can be checked.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine_speed import limit

from lisa_ros.engine.api import (
    EXPLAIN,
    HISTORY,
    Answer,
    EngineInfo,
    Region,
    Regions,
    Stage,
    Timings,
    Token,
    Turn,
    crop_mask,
)
from lisa_ros.engine.options import check_options
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, OutOfMemory

TOKEN_S = 0.02
SLOW_TOKENS = round(limit(60))
SLOW_RED = 7  # a frame whose first pixel has this red value takes SLOW_S to encode
SLOW_S = limit(1.0)
BRIGHT = 128


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class Speechless(Exception):
    """An exception whose text cannot be made."""

    def __str__(self):
        raise ValueError("no text")


def load(*, model, device, precision, options, progress):
    """The factory. Options: loading; gate (a file that ``gated`` loading waits for); capabilities (joined by +)."""
    check_options(options, {"loading", "gate", "capabilities"}, "standin")
    loading = options.get("loading", "ready")
    for step in range(5 if progress else 0):
        progress(step / 4)
    while loading == "gated" and not Path(options["gate"]).exists():
        time.sleep(0.01)
    if loading == "missing":
        raise CheckpointError(f"{model} does not exist; give a folder with config.json and the weights")
    if loading == "huge":
        raise MemoryError
    if loading == "mortal":
        os.kill(os.getpid(), signal.SIGKILL)
    if loading == "torchless":
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    if loading == "no engine":
        return object()
    return Standin(options.get("capabilities", f"{EXPLAIN}+{HISTORY}"))


def eat_real_memory(to_death):
    """A gibibyte, untouched: costs nothing but under a limit (RLIMIT_AS). to_death: as in C++ that nobody catches."""
    try:
        bytearray(2**30)
    except MemoryError:
        if to_death:
            os.abort()
        raise


def fail(command):
    """Go wrong in the way that the command names."""
    if "kill yourself" in command:
        os.kill(os.getpid(), signal.SIGKILL)
    if "segfault" in command:
        faulthandler._sigsegv()
    if "eat all memory" in command:
        raise OutOfMemory("no memory for this image on cpu; use a smaller image")
    if "eat python memory" in command:
        raise MemoryError
    if "eat gpu memory" in command:
        raise OutOfMemoryError("CUDA out of memory")
    if "eat real memory" in command:
        eat_real_memory(to_death="to death" in command)
    if "raise" in command or command == os.environ.get("STANDIN_FAILS_ON"):
        raise RuntimeError("a fault")
    if "be speechless" in command:
        raise Speechless
    if "exit" in command:
        sys.exit("the engine has had enough")
    if "refuse" in command:
        raise CommandError("the command cannot be used")
    if "hang" in command:
        time.sleep(3600)


class Standin:
    def __init__(self, capabilities):
        self.info = EngineInfo("stand-in", "cpu", "fp32", frozenset(filter(None, capabilities.split("+"))))
        self.encoded = 0

    def encode(self, rgb):
        self.encoded += 1
        if rgb[0, 0, 0] == SLOW_RED:
            time.sleep(SLOW_S)
        return rgb

    def ask(self, encoded, ask, on_event, should_stop, details=False):
        started = time.monotonic()
        command = ask.text
        on_event(Stage("reading"))
        fail(command)
        if "log" in command:
            logging.getLogger("lisa_ros.lisa.segmenter").warning("logged by the worker")
        if "linger reading" in command:
            time.sleep(SLOW_S)
        if "wrong answer" in command:
            return {"masks": []}
        on_event("found it" if "wrong event" in command else Stage("generating"))
        seen, said, regions, first_mask_s = marks(encoded, command), [], [], 0.0
        for word in words(ask, encoded, self.encoded):
            if should_stop():
                raise Cancelled("stopped")
            said.append(word)
            if "[SEG]" in word:
                on_event(Stage("decoding"))
                if "linger decoding" in command:
                    time.sleep(SLOW_S)
                end = len(" ".join(said)) - word.count(".")
                phrase = "bright box" if "phrase" in command else ""
                regions.append(Region(crop_mask(seen[len(regions)], 0, 0.9), 0.9, phrase, span=(end - 5, end)))
                if "outside" in command:
                    crop = regions[-1].mask
                    regions[-1] = replace(regions[-1], mask=replace(crop, x=crop.x + 10_000))
                first_mask_s = first_mask_s or time.monotonic() - started
                if "silently" not in command:
                    on_event(Regions(regions[-1:]))
                on_event(Stage("generating"))
            on_event(Token(" ".join(said)))
            if "slow" in command:
                time.sleep(TOKEN_S)
        text = " ".join(said)
        if ask.history is not None:
            ask.history.append(Turn(command, text))
        if "rebuilt" in command:
            regions = [replace(region) for region in reversed(regions)]
        if "second thoughts" in command:
            regions = regions[1:]
        total_s = time.monotonic() - started
        timings = Timings(generate_s=total_s, first_mask_s=first_mask_s, total_s=total_s)
        absent = ("unicorn",) if "unicorn" in command else ()
        return Answer(text, regions, absent, timings)


def words(ask, rgb, encoded):
    """The answer's words."""
    command = ask.text
    spoken = ["Sure,", "[SEG]."] if "nothing" not in command else ["There", "is", "none."]
    if "twice" in command:
        spoken = ["Both:", "[SEG]", "[SEG]."]
    if "many" in command:
        spoken = ["[SEG]"] * 300
    if "slow" in command:
        spoken += ["really"] * SLOW_TOKENS
    if ask.points or ask.box:
        spoken.append(f"points {list(ask.points)} {list(ask.point_labels)} box {ask.box}")
    if "echo" in command:
        spoken.append(command)
    if "flags" in command:
        spoken.append(f"writeable {rgb.flags.writeable} own {rgb.flags.owndata}")
    if ask.history is not None:
        spoken.append(f"turn {len(ask.history.turns)}")
    return [*spoken, f"frame {encoded}"]


def marks(rgb, command):
    """Masks (H, W) bool for the answer's [SEG], in order."""
    bright = rgb[:, :, 1] >= BRIGHT
    left = np.zeros_like(bright)
    left[:, : bright.shape[1] // 2] = True
    if "twice" in command:
        return [bright & left, bright & ~left]
    return [bright] * (300 if "many" in command else 1)
