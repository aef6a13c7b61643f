"""Servers that are not what they say: each is an error in one line, hangs nobody and fills no memory."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_speed import limit

from lisa_ros import __version__, load_engine
from lisa_ros.engine.api import Ask, EngineInfo
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Busy, Cancelled, ConfigError, LisaError, NotReady
from lisa_ros.remote import wire

INFO = EngineInfo("liar")
HELLO = {"lisa_ros": __version__, "protocol": wire.PROTOCOL, "engine": wire.info_message(INFO)}
BEGIN = wire.pack({"event": "begin", "engine": HELLO["engine"]})
FRAME = np.zeros((32, 48, 3), np.uint8)
TIMINGS = {"encode_s": 0.0, "generate_s": 0.0, "decode_s": 0.0, "first_mask_s": 0.0, "total_s": 0.0}
ANSWER = {"event": "answer", "text": "", "regions": [], "order": [], "absent": [], "timings": TIMINGS}
REGION = {
    "label": 1,
    "box": [0, 0, 8, 8],
    "bits": wire.bits_of(np.ones((8, 8))),
    "area": 64,
    "centroid": [3.5, 3.5],
    "score": 0.5,
    "phrase": "",
    "spans": [],
}


class Liar:
    """An HTTP server of the standard library. ``hello`` and ``ask`` write the response to a request."""

    def __init__(self) -> None:
        self.hello: Callable[[BaseHTTPRequestHandler], None] = lambda handler: reply(handler, HELLO)
        self.ask: Callable[[BaseHTTPRequestHandler], None] = lambda handler: stream(handler, BEGIN)
        self.asked = 0
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                liar.hello(self)

            def do_POST(self) -> None:
                liar.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                liar.ask(self)

            def log_message(self, *arguments) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


def reply(handler: BaseHTTPRequestHandler, content: object, status: int = 200, kind: str = "application/json") -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def stream(handler: BaseHTTPRequestHandler, *parts: bytes) -> None:
    """A stream that ends in time, as far as HTTP can tell."""
    handler.send_response(200)
    handler.send_header("Content-Type", wire.MEDIA_TYPE)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for part in parts:
        handler.wfile.write(part)
        handler.wfile.flush()
    handler.close_connection = True


@pytest.fixture
def liar() -> Iterator[Liar]:
    liar = Liar()
    yield liar
    liar.server.shutdown()
    liar.server.server_close()


def ask(liar: Liar, **options):
    engine = load_engine(liar.url, options={"wait_s": 0, "silence_s": 2, **options})
    return engine.ask(engine.encode(FRAME), Ask("x"))


# --- hello


@pytest.mark.parametrize(
    ("hello", "kind", "message"),
    [
        (
            HELLO | {"protocol": 2, "lisa_ros": "9.0"},
            ConfigError,
            "has lisa_ros 9.0, protocol 2; this is .*, protocol 1",
        ),
        (HELLO | {"protocol": "1"}, NotReady, "is not a server of 'lisa serve': protocol is a str"),
        ({}, NotReady, "is not a server of 'lisa serve'"),
        ([1], NotReady, "something else than 'lisa serve'"),
        (HELLO | {"engine": 3}, NotReady, "engine is a int"),
        (HELLO | {"engine": {**HELLO["engine"], "capabilities": [3]}}, NotReady, "capabilities is a int"),
    ],
)
def test_a_hello_that_does_not_fit_is_named(liar: Liar, hello: object, kind: type, message: str) -> None:
    liar.hello = lambda handler: reply(handler, hello)
    with pytest.raises(kind, match=message):
        ask(liar)


def test_another_version_with_the_same_protocol_is_a_warning(liar: Liar, caplog) -> None:
    liar.hello = lambda handler: reply(handler, HELLO | {"lisa_ros": "9.0"})
    liar.ask = lambda handler: stream(handler, BEGIN, wire.pack(ANSWER))
    ask(liar)
    assert "has lisa_ros 9.0, this is" in caplog.text


def test_capabilities_of_the_future_are_left_out(liar: Liar) -> None:
    liar.hello = lambda handler: reply(
        handler, HELLO | {"engine": {**HELLO["engine"], "capabilities": ["points", "telepathy"]}}
    )
    assert load_engine(liar.url).info.capabilities == {"points"}


@pytest.mark.parametrize(
    ("status", "content", "kind", "message"),
    [
        (200, b"<html>welcome</html>", NotReady, "something else than 'lisa serve'"),
        (404, b"<html>not found</html>", NotReady, "HTTP 404; give the URL of a server of 'lisa serve'"),
        (403, b"", NotReady, "refuses the token"),
        (302, b"", NotReady, "HTTP 302"),
        (500, b"oops", LisaError, "failed .HTTP 500"),
        (503, b"", Busy, "takes no more commands now"),
        (200, b"x" * 3_000_000, NotReady, "something else than 'lisa serve'"),
    ],
)
def test_what_answers_without_being_a_server_is_named(liar: Liar, status: int, content: bytes, kind, message) -> None:
    liar.hello = lambda handler: reply(handler, content, status, "text/html")
    with pytest.raises(kind, match=message):
        ask(liar)


# --- answers


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([BEGIN], "ended its answer too early"),
        ([b"\xc1"], "an answer that cannot be read"),
        ([wire.pack({"event": "begin"})], "cannot be read: engine is a NoneType"),
        ([BEGIN, wire.pack({"event": "error", "error": "Exception", "message": "ha"})], "ha"),
        ([BEGIN, wire.pack({"event": "token", "same": 0, "text": 3})], "text is a int"),
        ([BEGIN, wire.pack({"event": "token", "same": True, "text": "a"})], "same is a bool"),
        ([BEGIN, wire.pack({"event": "regions", "regions": [3]})], "a region is a int"),
        ([BEGIN, wire.pack(ANSWER | {"order": [0]})], "names regions"),
        ([BEGIN, wire.pack(ANSWER | {"order": [-1], "regions": [REGION]})], "names regions"),
        ([BEGIN, wire.pack(ANSWER | {"timings": {}})], "encode_s is a NoneType"),
        ([BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"box": [0, 0, 99, 8]}]})], "not inside the picture"),
        ([BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"box": [-1, 0, 8, 8]}]})], "not inside the picture"),
        ([BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"bits": b"no zlib"}]})], "cannot be decompressed"),
        ([BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"box": [0, 0, 9, 8]}]})], "has 8 bytes of bits"),
        ([BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"spans": [[1, 2, 3]]}]})], "begin and end of a span"),
    ],
)
def test_an_answer_that_is_none_is_an_error_in_one_line(liar: Liar, parts: list[bytes], message: str) -> None:
    liar.ask = lambda handler: stream(handler, *parts)
    with pytest.raises(LisaError, match=message) as caught:
        ask(liar)
    assert "\n" not in str(caught.value)


def test_values_are_checked_as_those_of_any_engine(liar: Liar) -> None:
    liar.ask = lambda handler: stream(
        handler, BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"score": 7}], "order": [0]})
    )
    with pytest.raises(ValueError, match="liar returned the score 7"):
        ask(liar)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Liar, SupportedEngine]]:
    """A server and its engine, for all cases of a property test."""
    liar = Liar()
    yield liar, load_engine(liar.url)
    liar.server.shutdown()
    liar.server.server_close()


@given(tail=st.binary(max_size=60), cut=st.integers(0, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_of_any_kind_are_an_answer_or_an_error(shared, tail: bytes, cut: int) -> None:
    liar, engine = shared
    whole = BEGIN + wire.pack({"event": "regions", "regions": [REGION]}) + wire.pack(ANSWER)
    liar.ask = lambda handler: stream(handler, whole[:cut] + tail)
    with suppress(LisaError, ValueError, TypeError):
        engine.ask(engine.encode(FRAME), Ask("x"))


def test_an_endless_answer_is_cut_off(liar: Liar, monkeypatch) -> None:
    monkeypatch.setattr("lisa_ros.remote.engine.MAX_ANSWER_BYTES", 1_000_000)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        with pytest.raises(OSError):  # noqa: PT011 - of any kind: the client has closed the connection
            stream(handler, *(wire.pack({"event": "stage", "name": "x" * 1000}) for _ in range(100_000)))

    liar.ask = endless
    with pytest.raises(LisaError, match="more bytes than a message may have"):
        ask(liar)


def test_a_mask_that_would_unpack_to_gigabytes_is_refused(liar: Liar) -> None:
    bomb = zlib.compress(bytes(50_000_000))
    liar.ask = lambda handler: stream(handler, BEGIN, wire.pack(ANSWER | {"regions": [REGION | {"bits": bomb}]}))
    with pytest.raises(LisaError, match="has 9 bytes of bits"):
        ask(liar)


def test_html_instead_of_a_stream_is_named(liar: Liar) -> None:
    liar.ask = lambda handler: reply(handler, b"<html>", kind="text/html")
    with pytest.raises(NotReady, match="answers with 'text/html', not as 'lisa serve'"):
        ask(liar)


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_server_that_hangs_is_given_up(liar: Liar, when: str) -> None:
    over = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        if when == "in the middle":
            stream(handler, BEGIN)
        over.wait(limit(60))

    liar.ask = hang
    begun = time.monotonic()
    with pytest.raises(NotReady, match="sent nothing for 2 s"):
        ask(liar)
    assert time.monotonic() - begun < limit(10)
    over.set()


def test_a_cancel_does_not_wait_for_a_server_that_hangs(liar: Liar) -> None:
    over = threading.Event()
    liar.ask = lambda handler: over.wait(limit(60))
    engine = load_engine(liar.url, options={"silence_s": 600})
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        engine.ask(engine.encode(FRAME), Ask("x"), should_stop=lambda: liar.asked > 0)
    assert time.monotonic() - begun < limit(5)
    over.set()


def test_a_connection_that_breaks_before_an_answer_is_tried_once_more(liar: Liar) -> None:
    def slam(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    liar.ask = slam
    with pytest.raises(LisaError, match="broke"):
        ask(liar)
    assert liar.asked == 2


def test_a_frame_that_is_never_kept_is_sent_twice_at_most(liar: Liar) -> None:
    liar.ask = lambda handler: stream(handler, BEGIN, wire.pack({"event": "frame not kept"}))
    with pytest.raises(LisaError, match="ended its answer too early"):
        ask(liar)
    assert liar.asked == 2


# --- TLS


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for the host ``name``, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_tls_needs_the_right_name_and_a_known_certificate(liar: Liar, tmp_path: Path) -> None:
    right, wrong = certificate(tmp_path, "localhost"), certificate(tmp_path, "another-box")
    liar.ask = lambda handler: stream(handler, BEGIN, wire.pack(ANSWER))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*right)
    liar.server.socket = context.wrap_socket(liar.server.socket, server_side=True)
    liar.url = liar.url.replace("http:", "https:")
    assert ask(liar, ca_file=str(right[0])).text == ""
    with pytest.raises(NotReady, match=r"cannot be reached: .*certificate"):
        ask(liar)
    context.load_cert_chain(*wrong)
    with pytest.raises(NotReady, match=r"cannot be reached: .*certificate is not valid for 'localhost'"):
        ask(liar, ca_file=str(wrong[0]))
