"""HTTP to one server of ``lisa serve``: requests, streams of events that can be closed at any time, and errors.

An event loop in a thread of its own does the network's part, so that a caller is never stuck in a read: a stream can be
closed while the server is silent. It also works in a process that has an event loop of its own, such as a notebook.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import Future
from typing import Any

import httpx

from lisa_ros.engine.api import ShouldStop
from lisa_ros.errors import Busy, Cancelled, ConfigError, LisaError, NotReady
from lisa_ros.remote import wire

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""Seconds between two looks at whether the caller wants to stop."""

CONNECT_S = 2.0
MAX_PLAIN_BYTES = 1_000_000
"""Of a response that is not a stream of events."""


class Connection:
    """Requests to one server.

    Args:
        url: ``http`` or ``https``, without a query.
        token: Secret of the server; empty: none.
        ca_file: PEM file with the certificate that has signed the server's; empty: the system's certificates.
        silence_s: A server that sends nothing for so long is given up.

    Raises:
        ConfigError: The URL or the file cannot be used.
    """

    def __init__(self, url: str, token: str, ca_file: str, silence_s: float) -> None:
        self.url = url
        self._silence_s = silence_s
        headers = {"Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._client = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
                verify=ssl.create_default_context(cafile=ca_file or None),
                trust_env=False,  # frames and token go to the server that was named, through nobody else
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigError(f"'{url}' is not a URL: {error}; give one such as http://gpu-box:8000") from error
        except OSError as error:
            raise ConfigError(f"option ca_file is {ca_file!r}: {error}; give a file of certificates (PEM)") from error
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="connection", daemon=True).start()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at ``path``. Raises NotReady, LisaError."""
        return self._run(self._get(path)).result()

    def stream(
        self, path: str, body: bytes, max_bytes: int, should_stop: ShouldStop
    ) -> Generator[dict[str, Any], None, None]:
        """Send a request and yield the events of its response. Close the iterator to close the stream.

        Args:
            path: Of the server.
            body: Of the request.
            max_bytes: Most bytes of the response.
            should_stop: Called at least every 20 ms while the server is silent.

        Raises:
            Cancelled: ``should_stop`` returned True.
            NotReady: The server cannot be reached, hangs, or is no server of ``lisa serve``.
            LisaError: What the server answers instead of a stream, or the connection broke.
        """
        events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        posting = self._run(self._post(path, body, max_bytes, events))
        try:
            while not should_stop():
                try:
                    event = events.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if event is None:
                    posting.result()  # raises what went wrong
                    return
                yield event
            raise Cancelled("canceled; the server was told by closing the stream")
        finally:
            posting.cancel()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            async with self._client.stream("GET", path) as response:
                text = await self._text(response)
        except (httpx.HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        if response.status_code != httpx.codes.OK:
            raise self._refused(response, text)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise NotReady(f"{self.url} answers with something else than 'lisa serve' does; correct the URL")
        return content

    async def _post(
        self, path: str, body: bytes, max_bytes: int, events: queue.SimpleQueue[dict[str, Any] | None]
    ) -> None:
        """Put every event, then None."""
        try:
            begun = False
            for attempt in (1, 2):
                try:
                    async for event in self._events(path, body, max_bytes):
                        begun = True
                        events.put(event)
                    return
                except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                    # A kept connection whose other end is gone is noticed by its use only: try once on a new one.
                    if begun or attempt == 2 or isinstance(error, httpx.ConnectError):
                        raise
        except wire.WireError as error:
            raise LisaError(f"{self.url} sent an answer that cannot be read: {error}") from error
        except (httpx.HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            events.put(None)

    async def _events(self, path: str, body: bytes, max_bytes: int) -> AsyncIterator[dict[str, Any]]:
        headers = {"Content-Type": wire.MEDIA_TYPE}
        async with self._client.stream("POST", path, content=body, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise self._refused(response, await self._text(response))
            kind = response.headers.get("content-type", "")
            if kind != wire.MEDIA_TYPE:
                raise NotReady(
                    f"{self.url} answers with {kind or 'no type'!r:.60}, not as 'lisa serve'; correct the URL"
                )
            unpacker = wire.Unpacker(max_bytes)
            async for data in response.aiter_raw():
                for event in unpacker.feed(data):
                    yield event

    async def _text(self, response: httpx.Response) -> str:
        data = bytearray()
        async for part in response.aiter_raw():
            data += part
            if len(data) > MAX_PLAIN_BYTES:
                break
        return data[:MAX_PLAIN_BYTES].decode("utf-8", "replace")

    def _refused(self, response: httpx.Response, text: str) -> LisaError:
        """The error of a response that is not 200."""
        code = response.status_code
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return NotReady(
                f"{self.url} refuses the token (HTTP {code}); set the environment variable {wire.TOKEN_VARIABLE} to "
                "that of the server"
            )
        try:
            return wire.error_of(json.loads(text))
        except (ValueError, AttributeError):
            pass
        if code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
            return Busy(f"{self.url} takes no more commands now (HTTP {code}); ask later")
        if response.is_server_error:
            return LisaError(f"{self.url} failed (HTTP {code}); see the server's log")
        return NotReady(f"{self.url} answers HTTP {code}; give the URL of a server of 'lisa serve' of this version")

    def _unreachable(self, error: Exception) -> LisaError:
        """What httpx or the system says, as one of our errors."""
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return NotReady(f"{self.url} sent nothing for {self._silence_s:g} s; see whether the server hangs")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return NotReady(f"{self.url} cannot be reached: {reason}; start 'lisa serve' there, or correct the URL")
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return ConfigError(f"{self.url} cannot be used: {reason}; give a URL such as http://gpu-box:8000")
        return LisaError(f"the connection to {self.url} broke: {reason}; ask again")
