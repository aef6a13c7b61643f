"""Servers with OpenAI's protocol on loopback: llama.cpp, transformers serve, and a stub for what those never do."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from machine_speed import limit

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A server in a process of its own.

    Args:
        command: With ``{port}``.
        log: File for its output.
        health: Path that answers 200 when the server is ready.
    """

    def __init__(self, command: list[str], log: Path, health: str = "/health") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._log, self._health = log, health
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        deadline = time.monotonic() + limit(60)
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
            with contextlib.suppress(OSError, urllib.error.URLError):
                address = f"http://127.0.0.1:{self.port}{self._health}"
                if urllib.request.urlopen(address, timeout=2).status == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready in time: {self._log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def llama_server(qwen3_vl: Path, work: Path) -> Iterator[Process]:
    """llama.cpp with the tiny Qwen3-VL of a folder."""
    import gguf_files

    language, vision = gguf_files.write(qwen3_vl, work / "gguf")
    command = [sys.executable, str(HERE / "llama_server.py"), str(language), str(vision), "{port}"]
    server = Process(command, work / "llama.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def transformers_server(model: Path, work: Path) -> Iterator[Process]:
    """``transformers serve`` with the model of a folder."""
    program = Path(sys.executable).parent / "transformers"
    command = [str(program), "serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", "{port}"]
    server = Process(command, work / "serve.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


# --- a stub


Behaviour = Callable[["Handler", dict[str, Any]], None]


class Stub:
    """A server that behaves as told. Use as a context manager.

    Attributes:
        chat: Answers a request for a chat completion.
        models: Names that it lists; None answers 500.
        requests: Bodies of the requests so far.
        closed: Set when a client closes a stream before its end.
    """

    def __init__(self, chat: Behaviour | None = None, models: list[str] | None = None) -> None:
        self.chat = chat or answering('{"present": false, "objects": []}')
        self.models: list[str] | None = models if models is not None else ["qwen3-vl-stub"]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.closed = threading.Event()
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"stub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Stub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.stub.models is None:
            return self.send_body(500, b'{"detail": "no cache"}')
        content = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.stub.models]}
        self.send_body(200, json.dumps(content).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.stub.requests.append(body)
        self.stub.headers.append({name.lower(): value for name, value in self.headers.items()})
        try:
            self.stub.chat(self, body)
        except OSError:
            self.stub.closed.set()
            self.close_connection = True

    def send_body(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_text(self, text: str, tokens: list[dict[str, Any]] | None = None) -> None:
        choice: dict[str, Any] = {"index": 0, "delta": {"content": text}}
        choice |= {"logprobs": {"content": tokens}} if tokens is not None else {}
        self.send_event(json.dumps({"object": "chat.completion.chunk", "choices": [choice]}))

    def send_event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def answering(*texts: str, yes: float | None = None) -> Behaviour:
    """Streams the texts in turn, one for each request, in pieces of five characters; then the last one again.

    yes: P(yes) for questions of one token, as log probabilities; None answers them "yes" without any.
    """
    left = list(texts)

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        if body["max_tokens"] == 1:
            tokens = None
            if yes is not None:
                top = [{"token": "yes", "logprob": math.log(yes)}, {"token": " No", "logprob": math.log(1 - yes)}]
                tokens = [{"token": "yes", "logprob": math.log(yes), "top_logprobs": top}]
            handler.send_text("yes", tokens)
        else:
            text = left.pop(0) if len(left) > 1 else left[0]
            for begin in range(0, len(text), 5):
                handler.send_text(text[begin : begin + 5])
        handler.send_event("[DONE]")

    return answer


def refusing(status: int, message: str, then: Behaviour | None = None) -> Behaviour:
    """Answers a status; after the first time ``then``, if it is given."""
    refused = False

    def refuse(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal refused
        if refused and then is not None:
            return then(handler, body)
        refused = True
        return handler.send_body(status, json.dumps({"error": {"message": message, "code": status}}).encode())

    return refuse


def endless(handler: Handler, body: dict[str, Any]) -> None:
    """Streams until the client closes or the stub stops."""
    handler.begin_stream()
    while not handler.stub.stopping.wait(0.01):
        handler.send_text("and so on " * 20)


def silent(handler: Handler, body: dict[str, Any]) -> None:
    """Never answers; notices when the client closes."""
    handler.connection.settimeout(0.05)
    while not handler.stub.stopping.is_set():
        try:
            if handler.connection.recv(1) == b"":
                raise BrokenPipeError("the client closed")
        except TimeoutError:
            continue
