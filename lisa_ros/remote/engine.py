"""The engine of http and https URLs: every command is answered by a server of ``lisa serve``.

A frame is compressed here and sent with the first command about it; the server keeps it for further ones. The server
has no memory of its clients: a conversation travels with every command. So it may be restarted at any time, and there
may be several behind one URL.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros import __version__
from lisa_ros.engine.api import (
    Answer,
    Ask,
    EngineInfo,
    OnEvent,
    Region,
    Regions,
    ShouldStop,
    Stage,
    Token,
)
from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError, LisaError, NotReady
from lisa_ros.remote import wire
from lisa_ros.remote.connection import Connection

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 256_000_000
MAX_DETAILS_BYTES = 4_000_000_000
"""Of an answer with details: logits of every mask at the picture's size."""

FORMATS = {"jpeg": ".jpg", "png": ".png"}
# The fastest of those that compress: a network that needs more is better served by JPEG.
PNG_PARAMETERS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
TRY_AGAIN_S = 0.5


@dataclass
class Options:
    """Options of this engine.

    Args:
        picture: How a frame travels: jpeg, or png without loss.
        jpeg_quality: 1 to 100.
        wait_s: Seconds to wait at the start for a server that cannot be reached.
        silence_s: Seconds without a sign of life after which a server is given up.
        ca_file: PEM file with the certificate that has signed the server's; empty: the system's certificates.
    """

    picture: str = "jpeg"
    jpeg_quality: int = 90
    wait_s: float = 5.0
    silence_s: float = 10.0
    ca_file: str = ""

    def __post_init__(self) -> None:
        if self.picture not in FORMATS:
            raise ConfigError(f"option picture is {self.picture!r}; choose one of {', '.join(FORMATS)}")
        if type(self.jpeg_quality) is not int or not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"option jpeg_quality is {self.jpeg_quality!r}; give a whole number from 1 to 100")
        for name, least in (("wait_s", 0.0), ("silence_s", 2 * wire.PING_S)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value < math.inf:
                raise ConfigError(f"option {name} is {value!r}; give seconds from {least:g}")
        if not isinstance(self.ca_file, str):
            raise ConfigError(f"option ca_file is {self.ca_file!r}; give the name of a file")


@dataclass
class Picture:
    """A frame as it travels.

    Args:
        data: JPEG or PNG.
        digest: sha256 of ``data``.
        size: (height, width), pixels.
        sent: A server has got it.
    """

    data: bytes
    digest: bytes
    size: tuple[int, int]
    sent: bool = False


class RemoteEngine:
    """Asks a server.

    Args:
        connection: To the server.
        options: Of this engine.
        info: Of the server's engine.
    """

    def __init__(self, connection: Connection, options: Options, info: EngineInfo) -> None:
        self._connection = connection
        self._options = options
        self.info = info

    def encode(self, rgb: NDArray[np.uint8]) -> Picture:
        """Compress the frame. It is sent with the first command."""
        lossy = self._options.picture == "jpeg"
        parameters = [cv2.IMWRITE_JPEG_QUALITY, self._options.jpeg_quality] if lossy else PNG_PARAMETERS
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        data = cv2.imencode(FORMATS[self._options.picture], bgr, parameters)[1].tobytes()
        return Picture(data, hashlib.sha256(data).digest(), rgb.shape[:2])

    def ask(
        self,
        encoded: Picture,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """As :meth:`Engine.ask`. ``total_s`` and ``first_mask_s`` are measured here, the network included.

        Raises:
            NotReady: The server cannot be reached, hangs, or has another engine now.
            Busy: Its queue is full.
            LisaError: What its engine raises, or the connection broke.
        """
        reading = _AnswerReader(encoded.size, on_event or (lambda event: None))
        with self._readable():
            for event in self._events(encoded, [ask], None, details, should_stop or (lambda: False)):
                answer = reading.read(event)
                if answer is None:
                    continue
                if ask.history is not None and event.get("history") is not None:
                    ask.history.turns[:] = wire.history_of(event["history"]).turns
                return answer
        raise LisaError(f"{self._connection.url} ended its answer too early; ask again")

    def teacher_forced(self, encoded: Picture, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """As :meth:`TeacherForced.teacher_forced`."""
        with self._readable():
            for event in self._events(encoded, asks, answers, False, lambda: False):
                if event.get("event") == "mask":
                    return wire.mask_of(wire.get(event, "bits", bytes), encoded.size)
        raise LisaError(f"{self._connection.url} ended its answer too early; ask again")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns a WireError into a LisaError that names the server."""
        try:
            yield
        except wire.WireError as error:
            raise LisaError(f"{self._connection.url} sent an event that cannot be read: {error}") from error

    def _events(
        self,
        picture: Picture,
        asks: Sequence[Ask],
        answers: Sequence[str] | None,
        details: bool,
        should_stop: ShouldStop,
    ) -> Iterator[dict[str, Any]]:
        """The events of one command; the picture is sent where the server does not have it."""
        request = {
            "asks": [wire.ask_message(ask) for ask in asks],
            "answers": None if answers is None else list(answers),
            "details": details,
            "digest": picture.digest,
        }
        most = MAX_DETAILS_BYTES if details else MAX_ANSWER_BYTES
        for with_picture in (not picture.sent, True):
            body = wire.pack(request | {"picture": picture.data if with_picture else None})
            kept = True
            with closing(self._connection.stream(f"/v{wire.PROTOCOL}/ask", body, most, should_stop)) as stream:
                for event in stream:
                    kept = self._check(event)
                    if not kept:
                        break
                    picture.sent = True
                    yield event
            if kept:
                return

    def _check(self, event: dict[str, Any]) -> bool:
        """False where the server does not have the frame. Raises the error of an event, and WireError."""
        kind = event.get("event")
        if kind == "error":
            raise wire.error_of(event)
        if kind == "begin":
            info = wire.info_of(wire.get(event, "engine", dict))
            if info != self.info:
                raise NotReady(
                    f"{self._connection.url} serves '{info.name}' ({info.precision}, {info.device}) now, and no longer "
                    f"'{self.info.name}' ({self.info.precision}, {self.info.device}); configure the node again"
                )
        return kind != "frame not kept"


class _AnswerReader:
    """Makes the answer of the events of one command. size: (height, width) of the frame."""

    def __init__(self, size: tuple[int, int], on_event: OnEvent) -> None:
        self._size = size
        self._on_event = on_event
        self._begun = time.monotonic()
        self._first_mask_s = 0.0
        self._text = ""
        self._regions: list[Region] = []

    def read(self, event: dict[str, Any]) -> Answer | None:
        """Take in an event, and pass it on. Returns the answer when it is complete."""
        kind = event.get("event")
        if kind == "stage":
            self._on_event(Stage(wire.get(event, "name", str)))
        elif kind == "token":
            self._text = self._text[: wire.get(event, "same", int)] + wire.get(event, "text", str)
            self._on_event(Token(self._text))
        elif kind == "regions":
            self._on_event(Regions(self._new(event)))
        elif kind == "answer":
            return self._answer(event)
        return None

    def _new(self, event: dict[str, Any]) -> list[Region]:
        new = wire.get_list(event, "regions", lambda region: wire.region_of(region, self._size))
        if new and not self._first_mask_s:
            self._first_mask_s = time.monotonic() - self._begun
        self._regions += new
        return new

    def _answer(self, event: dict[str, Any]) -> Answer:
        self._new(event)
        order = wire.get_list(event, "order", lambda index: wire.get({"order": index}, "order", int))
        if any(not 0 <= index < len(self._regions) for index in order):
            raise wire.WireError(f"the answer names regions {order[:10]}; {len(self._regions)} were sent")
        regions = [self._regions[index] for index in order]
        timings = replace(
            wire.timings_of(wire.get(event, "timings", dict)),
            first_mask_s=self._first_mask_s if regions else 0.0,
            total_s=time.monotonic() - self._begun,
        )
        details = None if event.get("details") is None else wire.get(event, "details", dict)
        text, absent = wire.get(event, "text", str), wire.texts(event, "absent")
        return Answer(text, regions, absent, timings, details)


# --- the factory


def load(
    *, model: str, device: str, precision: str, options: dict[str, Any], progress: Callable[[float], None] | None
) -> RemoteEngine:
    """The factory of engine ``http`` and ``https``.

    Raises:
        ConfigError: The URL, an option, or the version of the server cannot be used.
        NotReady: No server answers within the option ``wait_s``.
    """
    del progress
    check_options(options, Options.__dataclass_fields__, "http")
    chosen = Options(**options)
    check_url(model)
    for name, value in (("device", device), ("precision", precision)):
        if value != "auto":
            raise ConfigError(f"{name} is '{value}', which the server chooses: start 'lisa serve' there with --{name}")
    token = os.environ.get(wire.TOKEN_VARIABLE, "")
    connection = Connection(model.rstrip("/"), token, chosen.ca_file, chosen.silence_s)
    info = _hello(connection, chosen.wait_s)
    plain = "" if model.lower().startswith("https:") else ", unencrypted"
    logger.info("camera frames that a command is about are sent to %s%s", connection.url, plain)
    return RemoteEngine(connection, chosen, info)


def check_url(url: str) -> None:
    """Raise ConfigError for a URL that has no host, or more than host, port and path."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is no number
    except ValueError as error:
        raise ConfigError(f"'{url}' is not a URL: {error}; give one such as http://gpu-box:8000") from error
    if parts.username is not None or parts.password is not None:  # not shown: it is a secret
        raise ConfigError(
            f"the URL of the server at '{parts.hostname}' has a user or a password; put the server's token into the "
            f"environment variable {wire.TOKEN_VARIABLE} instead"
        )
    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"'{url}' is not the URL of a server; give one such as http://gpu-box:8000")


def _hello(connection: Connection, wait_s: float) -> EngineInfo:
    """Description of the server's engine. Raises NotReady, ConfigError."""
    end = time.monotonic() + wait_s
    said = False
    while True:
        try:
            hello = connection.get("/hello")
            break
        except NotReady as error:
            if time.monotonic() + TRY_AGAIN_S > end:
                raise
            if not said:
                logger.warning("waiting up to %g s: %s", wait_s, error)
            said = True
            time.sleep(TRY_AGAIN_S)
    try:
        version, protocol = wire.get(hello, "lisa_ros", str), wire.get(hello, "protocol", int)
        if protocol != wire.PROTOCOL:
            raise ConfigError(
                f"{connection.url} has lisa_ros {version:.40}, protocol {protocol}; this is {__version__}, protocol "
                f"{wire.PROTOCOL}: install the same version on both"
            )
        if version != __version__:
            logger.warning("%s has lisa_ros %s, this is %s", connection.url, version, __version__)
        return wire.info_of(wire.get(hello, "engine", dict))
    except wire.WireError as error:
        raise NotReady(f"{connection.url} is not a server of 'lisa serve': {error}; correct the URL") from error
