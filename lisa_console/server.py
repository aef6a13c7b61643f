"""The web server: one static page and one WebSocket, on a thread of its own beside rclpy's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import WSCloseCode, WSMsgType, web

from lisa_console.access import DELAY_S, Access, Refused
from lisa_console.events import Event
from lisa_console.hub import MOST_VIEWERS, Hub
from lisa_console.protocol import MOST_BYTES, Hello, Malformed, read_request, write_event
from lisa_console.viewers import Viewer

log = logging.getLogger(__name__)

STATIC = Path(__file__).with_name("static")
HEARTBEAT_S = 5.0
HELLO_S = 10.0  # within which a page must say its token
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves pages until it is stopped.

    Args:
        hub: What pages see and may do. Its methods are called on the server's thread only.
        access: Who may.
        host: Address to listen on.
        port: TCP port; 0: a free one.
        tls: Certificate; None: no TLS.
    """

    def __init__(self, hub: Hub, access: Access, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._hub, self._access, self._host, self._tls = hub, access, host, tls
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="console-web", daemon=True)

    def start(self) -> None:
        """Listen. Raises OSError where the address is not to be had."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close every connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5.0)

    def tell(self, event: Event) -> None:
        """Passes an event to the hub; on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hub.take, event)

    @property
    def address(self) -> str:
        """Of the page, without the token."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}/"

    @property
    def url(self) -> str:
        """Address of the page, with the token where there is one."""
        return f"{self.address}#token={self._access.token}" if self._access.token else self.address

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self._failure = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/", self._page)
        application.router.add_get("/ws", self._connect)
        application.router.add_static("/static/", STATIC)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self.port, ssl_context=self._tls)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
        finally:
            for viewer in list(self._hub.viewers):
                viewer.close()
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Host, and headers of every answer."""
        try:
            self._access.check_host(request.headers)
            if request.path == "/ws":
                self._access.check_origin(request.headers)
                return await handler(request)
            response = await handler(request)
        except Refused as error:
            response = web.Response(status=403, text=f"{error}\n")
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.reason}\n")
        response.headers.update(HEADERS)
        return response

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MOST_BYTES, compress=False)
        await socket.prepare(request)
        if await self._is_welcome(socket):
            await self._attend(socket)
        return socket

    async def _is_welcome(self, socket: web.WebSocketResponse) -> bool:
        """The first message is the token; there is room."""
        try:
            message = await socket.receive(HELLO_S)
            hello = read_request(message.data) if message.type is WSMsgType.TEXT else None
            if not isinstance(hello, Hello):
                raise Refused("the first message must be hello, with the token")
            self._access.check_token(hello.token)
            if len(self._hub.viewers) >= MOST_VIEWERS:
                raise Refused(f"{MOST_VIEWERS} pages are open already; close one")
        except (Refused, Malformed) as error:
            await asyncio.sleep(DELAY_S)  # so that nobody can try many tokens
            with contextlib.suppress(ConnectionError):
                await socket.send_str(write_event("refused", text=str(error)))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
            return False
        except asyncio.TimeoutError:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
            return False
        return True

    async def _attend(self, socket: web.WebSocketResponse) -> None:
        """One page, until it goes."""

        async def send(frame: str | bytes) -> None:
            await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))

        reading = asyncio.current_task()
        assert reading is not None

        def close() -> None:
            reading.cancel()

        viewer = Viewer(send, close)
        self._hub.enter(viewer)
        writing = asyncio.create_task(viewer.write())
        writing.add_done_callback(lambda task: None if task.cancelled() else close())
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    try:
                        self._hub.carry_out(read_request(message.data), viewer)
                    except Malformed as error:
                        viewer.say(write_event("problem", id="", text=f"the page sent something malformed: {error}"))
                elif message.type is WSMsgType.BINARY:
                    viewer.say(write_event("problem", id="", text="the page sent something malformed: binary data"))
        except asyncio.CancelledError:
            log.warning("a page that does not read was closed")
        finally:
            writing.cancel()
            self._hub.leave(viewer)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(socket.close(), 1.0)
