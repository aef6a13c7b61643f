"""The HTTP server of ``lisa serve``: an engine for clients that have none (lisa_ros.remote.engine).

| request | answer |
|---|---|
| GET /hello | versions and the engine's description, JSON |
| POST /v1/ask | the events of one command, a stream of msgpack (lisa_ros.remote.wire) |
| GET /health | 200, or 503 where the engine hangs; without the token |
| GET /metrics | Prometheus' text format |

A client that closes the stream of a command cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable
from typing import Any

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lisa_ros import __version__
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Busy, CommandError, LisaError
from lisa_ros.remote import wire
from lisa_ros.remote.commands import END, NOT_KEPT, Command, EngineThread, Limits, Question

logger = logging.getLogger(__name__)

OPEN = ("/health",)
"""Paths that need no token: a load balancer has none."""


def make_app(engine: SupportedEngine, limits: Limits, token: str = "") -> Starlette:
    """The ASGI application.

    Args:
        engine: Answers all commands, one at a time.
        limits: What is taken.
        token: Secret that every client must send; empty: none.
    """
    metrics = Metrics()
    thread = EngineThread(engine, limits, metrics.count)
    metrics.watch(thread)
    service = Service(thread)
    routes = [
        Route("/hello", service.hello),
        Route(f"/v{wire.PROTOCOL}/ask", service.ask, methods=["POST"]),
        Route("/health", service.health),
        Route("/metrics", metrics.page),
    ]
    handlers: dict[Any, Callable[..., Any]] = {
        LisaError: _as_json,
        wire.WireError: _as_json,
        HTTPException: _as_json,
        ClientDisconnect: _as_json,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.thread = thread
    if token:
        app.add_middleware(TokenCheck, token=token)
    return app


class Service:
    """The endpoints of one engine."""

    def __init__(self, thread: EngineThread) -> None:
        self._thread = thread

    async def hello(self, request: Request) -> Response:
        """Who answers here."""
        del request
        return JSONResponse(
            {"lisa_ros": __version__, "protocol": wire.PROTOCOL, "engine": wire.info_message(self._thread.engine.info)}
        )

    async def health(self, request: Request) -> Response:
        """Whether the engine works."""
        del request
        stuck_s = self._thread.stuck_s
        if stuck_s > self._thread.limits.stuck_s:
            text = f"the engine has not stopped for {stuck_s:.0f} s; start the server again"
            return JSONResponse({"status": "stuck", "message": text}, 503)
        return JSONResponse({"status": "ok", "waiting": self._thread.waiting})

    async def ask(self, request: Request) -> Response:
        """Answer one command.

        Raises:
            HTTPException: The request is too large or too slow.
            WireError, CommandError: It cannot be read or answered.
            Busy: Too many commands wait.
        """
        question = Question(wire.unpack(await self._body(request)), self._thread)
        stream = EventStream(self._thread)
        stream.put(wire.pack({"event": "begin", "engine": wire.info_message(self._thread.engine.info)}))
        if question.can_be_asked:
            stream.command = Command(question.answer, stream.send, self._thread.limits.timeout_s)
            self._thread.submit(stream.command)
        else:
            stream.put(wire.pack(NOT_KEPT))
            stream.put(END)
        return stream

    async def _body(self, request: Request) -> bytes:
        most, limit_s = self._thread.limits.max_request_bytes, self._thread.limits.upload_s
        body = bytearray()

        async def read() -> None:
            async for part in request.stream():
                body.extend(part)
                if len(body) > most:
                    raise HTTPException(413, f"the request has more than {most} bytes; send a smaller picture")

        try:
            await asyncio.wait_for(read(), limit_s)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"the request was not complete after {limit_s:g} s") from error
        return bytes(body)


class EventStream(Response):
    """The response to one command: its events, as they come, and a sign of life where none comes.

    Ends the command where the client closes the connection.
    """

    media_type = wire.MEDIA_TYPE

    def __init__(self, thread: EngineThread) -> None:
        super().__init__()
        del self.headers["content-length"]  # nobody knows it yet
        self.command: Command | None = None
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[bytes] = asyncio.Queue()

    def put(self, event: bytes) -> None:
        self._events.put_nowait(event)

    def send(self, event: bytes) -> None:
        """As :meth:`put`, from any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended, and with it the loop
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        sending = asyncio.ensure_future(self._send_events(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # raises what went wrong
        except OSError:  # the client is gone
            pass
        finally:
            sending.cancel()
            gone.cancel()
            if self.command is not None:
                self._thread.give_up(self.command)

    async def _send_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        more = True
        while more:
            events = [await self._next()]
            while not self._events.empty():  # what came meanwhile goes along: a packet costs more than an event
                events.append(self._events.get_nowait())
            more = END not in events
            await send({"type": "http.response.body", "body": b"".join(events), "more_body": more})

    async def _next(self) -> bytes:
        try:
            return await asyncio.wait_for(self._events.get(), wire.PING_S)
        except asyncio.TimeoutError:
            return wire.pack({"event": "ping"})


async def _disconnected(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


class TokenCheck:
    """Refuses requests without the token. Compares in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refused = JSONResponse({"error": "NotReady", "message": "the token is wrong or missing"}, 401)
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _as_json(request: Request, error: Exception) -> Response:
    """An error that is known before the stream begins."""
    del request
    if isinstance(error, ClientDisconnect):  # nobody reads it
        name, text, status = "LisaError", "the request is incomplete", 400
    elif isinstance(error, HTTPException):
        name, text, status = "LisaError", str(error.detail), error.status_code
    elif isinstance(error, LisaError):
        name, text, status = type(error).__name__, str(error), 503 if isinstance(error, Busy) else 400
    else:
        name, text, status = CommandError.__name__, f"the request cannot be read: {error}", 400
    return JSONResponse({"error": name, "message": text}, status, {"Retry-After": "1"} if status == 503 else None)


class Metrics:
    """Figures for Prometheus, of one server."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._commands = prometheus_client.Counter(
            "lisa_commands", "Commands that ended, by outcome", ["outcome"], registry=self._registry
        )
        self._seconds = prometheus_client.Histogram(
            "lisa_command_seconds",
            "Seconds from the arrival of a command to its end",
            registry=self._registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )

    def watch(self, thread: EngineThread) -> None:
        """Show what the thread does now."""
        waiting = prometheus_client.Gauge("lisa_waiting", "Commands that wait", registry=self._registry)
        waiting.set_function(lambda: thread.waiting)
        running = prometheus_client.Gauge("lisa_running", "Commands that run", registry=self._registry)
        running.set_function(lambda: int(thread.running is not None))
        stuck = prometheus_client.Gauge(
            "lisa_stuck_seconds", "Seconds since a command was to stop and did not", registry=self._registry
        )
        stuck.set_function(lambda: thread.stuck_s)

    def count(self, command: Command, outcome: str) -> None:
        """A command ended."""
        self._commands.labels(outcome).inc()
        self._seconds.observe(time.monotonic() - command.arrived)

    async def page(self, request: Request) -> Response:
        """The figures."""
        del request
        return Response(prometheus_client.generate_latest(self._registry), media_type="text/plain; version=0.0.4")
