"""A segmenter without a model, for tests where the model is not what is tested.

Given to the worker as the factory ``standin:load``. What it does is chosen by words in the checkpoint's path (for
loading) and in the command (for answering); it "finds" the bright pixels of the frame, so a mask can be checked.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
from machine_speed import limit

from lisa_ros.engine.api import Timings, crop_mask
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, OutOfMemory
from lisa_ros.perception.masks import Segmentation

TOKEN_S = 0.02
SLOW_TOKENS = round(limit(60))
SLOW_RED = 7  # a frame whose first pixel has this red value takes SLOW_S to encode
SLOW_S = limit(1.0)
BRIGHT = 128


@dataclass(frozen=True)
class Stage:
    name: str


@dataclass(frozen=True)
class Token:
    text: str


@dataclass(frozen=True)
class Masks:
    crops: list


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def load(path, *, vision_tower, conversation, device, precision, progress):
    words = path.name.split("-")
    for step in range(5):
        progress(step / 4)
    while "gated" in words and not path.exists():
        time.sleep(0.01)
    if "missing" in words:
        raise CheckpointError(f"{path} does not exist; give a folder with config.json and the weights")
    if "huge" in words:
        raise MemoryError
    if "mortal" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    return Standin()


def eat_real_memory(to_death):
    """A gibibyte, untouched: costs nothing but under a limit (RLIMIT_AS). to_death: as in C++ that nobody catches."""
    try:
        bytearray(2**30)
    except MemoryError:
        if to_death:
            os.abort()
        raise


class Standin:
    name = "stand-in"
    device = "cpu"
    precision = "fp32"

    def __init__(self):
        self.encoded = 0

    def encode(self, rgb):
        self.encoded += 1
        if rgb[0, 0, 0] == SLOW_RED:
            time.sleep(SLOW_S)
        return rgb

    def segment(
        self,
        encoded,
        command,
        *,
        verbatim=False,
        explain=False,
        history=None,
        max_new_tokens=512,
        should_stop=None,
        on_event=None,
    ):
        started = time.monotonic()
        on_event(Stage("reading"))
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
        if "refuse" in command:
            raise CommandError("the command cannot be used")
        if "log" in command:
            logging.getLogger("lisa_ros.lisa.segmenter").warning("logged by the worker")
        if "linger reading" in command:
            time.sleep(SLOW_S)
        if "hang" in command:
            time.sleep(3600)
        on_event(Stage("generating"))
        words = ["Sure,", "[SEG]."] if "nothing" not in command else ["There", "is", "none."]
        if "twice" in command:
            words = ["Both:", "[SEG]", "[SEG]."]
        if "slow" in command:
            words += ["really"] * SLOW_TOKENS
        if history is not None:
            words.append(f"turn {len(history.turns)}")
            history.turns.append(command)
        words.append(f"frame {self.encoded}")
        bright = encoded[:, :, 1] >= BRIGHT
        masks, crops, said, first_mask_s = [], [], [], 0.0
        for word in words:
            if should_stop():
                raise Cancelled("stopped")
            said.append(word)
            if "[SEG]" in word:
                half = np.zeros_like(bright)
                half[:, : bright.shape[1] // 2] = True
                masks.append(bright & ~half if len(masks) else (bright & half if "twice" in command else bright))
                on_event(Stage("decoding"))
                if "linger decoding" in command:
                    time.sleep(SLOW_S)
                crops.append(crop_mask(masks[-1], len(masks), 0.9))
                first_mask_s = first_mask_s or time.monotonic() - started
                on_event(Masks(list(crops)))
                on_event(Stage("generating"))
            on_event(Token(" ".join(said)))
            if "slow" in command:
                time.sleep(TOKEN_S)
        count, (height, width) = len(masks), bright.shape
        stack = np.stack(masks) if masks else np.zeros((0, height, width), bool)
        return Segmentation(
            answer=" ".join(said),
            answer_ids=list(range(len(said))),
            masks=stack,
            mask_logits=np.where(stack, np.float32(1), np.float32(-1)),
            low_res_logits=np.zeros((count, 1, 8, 8), np.float32),
            seg_probabilities=np.full(count, 0.9, np.float32),
            scores=np.full(count, 0.9, np.float32),
            timings=Timings(
                generate_s=time.monotonic() - started,
                first_mask_s=first_mask_s,
                total_s=time.monotonic() - started,
            ),
        )
