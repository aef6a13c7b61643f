"""Recordings for tests: a bright box that moves over a textured ground, and an engine that finds bright pixels."""

from __future__ import annotations

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from lisa_ros.bag import messages
from lisa_ros.bag.messages import typestore
from lisa_ros.bag.recording import RELIABLE
from lisa_ros.engine.api import Answer, EngineInfo, Region, crop_mask

SIZE = (120, 160)
BEGIN_NS = 1_700_000_000_000_000_000
RATE_HZ = 10
BEHIND_NS = 40_000_000  # a frame's stamp is this much before its recording: the two must not be mixed up


def truth(number: int) -> np.ndarray:
    """Where the box is, (H, W) bool."""
    mask = np.zeros(SIZE, bool)
    mask[40:75, 20 + number : 60 + number] = True
    return mask


def picture(number: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    noise = np.random.default_rng(1).integers(0, 100, (*SIZE, 3), np.uint8)
    boxed = np.random.default_rng(2).integers(150, 250, (35, 40, 3), np.uint8)
    noise[truth(number)] = boxed.reshape(-1, 3)
    return noise


def header(number: int, frame_id: str = "camera_optical"):
    stamp_ns = recorded_ns(number) - BEHIND_NS
    store = typestore().types
    stamp = store["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return store["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def recorded_ns(number: int) -> int:
    return BEGIN_NS + number * 10**9 // RATE_HZ


def raw(number: int):
    return messages.image(header(number), picture(number), "rgb8")


def compressed(number: int):
    return messages.jpeg(header(number), picture(number))


def unknown(number: int):
    message = raw(number)
    message.encoding = "bayer_rggb12"
    return message


def record(path, topics, storage=StoragePlugin.MCAP):
    """topics: name -> list of messages (None: nothing then), one every 1/RATE_HZ s. Returns the folder."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        for topic, given in topics.items():
            kind = next(message for message in given if message is not None).__msgtype__
            connection = writer.add_connection(topic, kind, typestore=typestore(), offered_qos_profiles=[RELIABLE])
            for number, message in enumerate(given):
                if message is not None:
                    writer.write(connection, recorded_ns(number), typestore().serialize_cdr(message, kind))
    return path


class Bright:
    """An engine that finds the bright pixels."""

    info = EngineInfo("bright")

    def __init__(self) -> None:
        self.commands: list[str] = []

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        self.commands.append(ask.text)
        if "nothing" in ask.text:
            return Answer("There is none.")
        text = "It is the box, [SEG]."
        mask = crop_mask(encoded.min(axis=2) >= 128)
        return Answer(text, [Region(mask, 0.9, "a box", spans=[(10, 13)], span=(15, 20))])
