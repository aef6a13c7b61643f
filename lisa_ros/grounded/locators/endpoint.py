"""A model behind a URL with OpenAI's chat protocol: vLLM, SGLang, llama.cpp, Ollama, transformers serve.

Every request is streamed: closing the stream is what makes a server stop working for a command that nobody waits for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import ShouldStop
from lisa_ros.errors import (
    Busy,
    Cancelled,
    CommandError,
    ConfigError,
    ImageError,
    LisaError,
    NotReady,
    TimedOut,
)
from lisa_ros.grounded.locators.chat import Message, OnPiece, Piece, probability_of_yes

logger = logging.getLogger(__name__)

KEY_VARIABLE = "LISA_ENDPOINT_KEY"
"""Environment variable with the key of the endpoint. There is no parameter: parameters can be read by everybody."""

CONNECT_S = 2.0
POLL_S = 0.02
"""How often a waiting command looks whether it was cancelled."""

LOSSLESS = 100
"""This quality stands for PNG."""

MOST_BYTES = 4_000_000
"""Of one answer; with log probabilities, a token takes some hundred bytes of it."""


@dataclass(frozen=True)
class _Chunk:
    """One event of the stream. top: probability by token, of the candidates for the first token."""

    pieces: tuple[Piece, ...]
    top: dict[str, float]


class EndpointChat:
    """A model behind a URL.

    The server is asked for its models with the first command that reaches it, so that a server that starts later than
    the robot is found.

    Args:
        url: Base URL that ends in ``/v1``.
        model: Name of the model; empty takes the first that the server lists.
        timeout_s: Longest time of one answer, seconds.
        jpeg_quality: Of the pictures that are sent, from 1 to 100; 100 sends PNG.
        structured: ``auto`` sends a JSON schema until the server refuses it; ``on`` and ``off``.

    Raises:
        ConfigError: The package ``openai`` is missing, or the URL cannot be used.
    """

    def __init__(
        self, url: str, model: str = "", timeout_s: float = 60.0, jpeg_quality: int = 90, structured: str = "auto"
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("an endpoint needs the package openai; pip install 'lisa_ros[endpoint]'") from error
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint is '{url}'; give a URL such as http://gpu-box:8000/v1")
        self.url = url.rstrip("/")
        self._openai = openai
        self._model = model
        self._checked = False
        self._timeout_s = timeout_s
        self._jpeg_quality = jpeg_quality
        self._sends_schema = structured != "off"
        self._may_drop_schema = structured == "auto"
        # max_retries=0: the client would repeat a 5xx twice, and one command would become three.
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY_VARIABLE) or "none",
            max_retries=0,
            timeout=openai.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()
        logger.warning("camera frames are sent to %s: they leave this machine", self.url)

    @property
    def refuses_schema(self) -> bool:
        """Whether the server has refused a JSON schema."""
        return self._may_drop_schema and not self._sends_schema

    @property
    def name(self) -> str:
        return self._model or self.url

    def resolve(self, should_stop: ShouldStop = lambda: False) -> str:
        """The model's name, checked once against the server's list.

        Returns:
            The name.

        Raises:
            NotReady: The server cannot be reached, lists no model, or does not have this one.
        """
        if self._checked:
            return self._model
        listed = self._listed(should_stop)
        if not self._model and not listed:
            raise NotReady(f"{self.url} lists no model; set the option endpoint_model to the name that it serves")
        if self._model and listed and self._model not in listed:
            # llama.cpp answers with what it has, whatever name is asked for.
            raise NotReady(
                f"{self.url} serves {', '.join(listed[:5])}, not '{self._model}'; correct the option endpoint_model"
            )
        self._model = self._model or listed[0]
        self._checked = True
        return self._model

    def picture(self, rgb: NDArray[np.uint8]) -> str:
        """The picture as a data URL, so that the server fetches nothing. rgb: uint8 (h, w, 3)."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        kind, settings = "jpeg", [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality]
        if self._jpeg_quality == LOSSLESS:
            kind, settings = "png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
        data = cv2.imencode(f".{kind}", bgr, settings)[1].tobytes()
        return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

    def stream(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        max_tokens: int,
        on_piece: OnPiece,
        should_stop: ShouldStop,
    ) -> None:
        """See :meth:`Chat.stream`."""

        def take(chunk: _Chunk) -> bool:
            return any(on_piece(piece) for piece in chunk.pieces)

        request = self._request(messages, max_tokens, should_stop) | {"logprobs": True}
        if schema is None or not self._sends_schema:
            self._run(request, take, should_stop)
            return
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        try:
            self._run(request | {"response_format": form}, take, should_stop)
        except _Refused as refusal:
            if not self._may_drop_schema or refusal.status not in (400, 422, 500):
                raise
            logger.warning("%s refuses a JSON schema (%s); asked without from now on", self.url, refusal)
            self._run(request, take, should_stop)  # another fault shows again, without a schema to blame
            self._sends_schema = False

    def yes_probability(self, message: Message, should_stop: ShouldStop) -> float | None:
        """See :meth:`Chat.yes_probability`."""
        tokens: dict[str, float] = {}

        def take(chunk: _Chunk) -> bool:
            tokens.update(chunk.top or {piece.text: 1.0 for piece in chunk.pieces if piece.text.strip()})
            return bool(tokens)

        request = self._request([message], 1, should_stop) | {"logprobs": True, "top_logprobs": 5}
        self._run(request, take, should_stop)
        return probability_of_yes(tokens)

    def _request(self, messages: Sequence[Message], max_tokens: int, should_stop: ShouldStop) -> dict[str, Any]:
        return {
            "model": self.resolve(should_stop),
            "messages": [{"role": message.role, "content": _content(message)} for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
        }

    def _listed(self, should_stop: ShouldStop) -> list[str]:
        """Names that the server lists; empty if it has no list, as `transformers serve` with a local folder."""
        names: list[str] = []

        async def read(put: Callable[[str], object]) -> None:
            for model in (await self._client.models.list()).data or ():
                put(str(model.id))

        def take(name: str) -> bool:
            names.append(name)
            return len(names) >= 100

        try:
            self._follow(read, take, should_stop)
        except (_Refused, AttributeError, TypeError) as error:
            if isinstance(error, _Refused) and error.status in (401, 403):
                raise
            logger.info("%s does not list its models: %s", self.url, error)
        return names

    def _run(self, request: dict[str, Any], take: Callable[[_Chunk], bool], should_stop: ShouldStop) -> None:
        """One request; again once if the connection was dead before the first byte, since a pooled one may be."""
        begun = False

        def watch(chunk: _Chunk) -> bool:
            nonlocal begun
            begun = True
            return take(chunk)

        try:
            self._follow(lambda put: self._read(request, put), watch, should_stop)
        except _Disconnected as error:
            if begun:
                raise LisaError(f"{self.url} broke off its answer ({error}); see the server's log") from error
            self._follow(lambda put: self._read(request, put), watch, should_stop)

    def _follow(
        self,
        read: Callable[[Callable[[Any], object]], Any],
        take: Callable[[Any], bool],
        should_stop: ShouldStop,
    ) -> None:
        """Run ``read`` on the loop's thread and pass on here what it puts, until ``take`` has enough."""
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = object()

        async def run() -> None:
            try:
                await read(inbox.put)
            finally:
                inbox.put(end)

        future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        deadline = time.monotonic() + self._timeout_s
        try:
            while True:
                if should_stop():
                    raise Cancelled("canceled while the endpoint answered")
                if time.monotonic() > deadline:
                    raise TimedOut(f"{self.url} did not finish in {self._timeout_s:g} s (option timeout_s)")
                try:
                    item = inbox.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if item is end:
                    break
                if take(item):
                    return
            with self._translated():
                future.result()
        finally:
            future.cancel()  # closes the stream, and so frees the server

    async def _read(self, request: dict[str, Any], put: Callable[[_Chunk], object]) -> None:
        async with self._client.chat.completions.with_streaming_response.create(**request) as response:
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise _Refused(200, f"the answer is of type '{kind}', no stream of events; is this an OpenAI endpoint?")
            async for data in _events(response.iter_bytes()):
                put(_chunk_of(data))

    @contextlib.contextmanager
    def _translated(self) -> Any:
        """Turn the client's errors into ours, with the remedy."""
        openai = self._openai
        try:
            yield
        except openai.APIStatusError as error:
            raise _of_status(self.url, error.status_code, _words(error)) from error
        except openai.APITimeoutError as error:
            if "Connect" in type(error.__cause__).__name__:
                raise NotReady(f"{self.url} cannot be reached in {CONNECT_S:g} s; is the server on?") from error
            raise TimedOut(f"{self.url} did not answer in {self._timeout_s:g} s (option timeout_s)") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if type(cause).__name__ == "ConnectError":
                raise NotReady(f"{self.url} cannot be reached ({cause}); is the server on?") from error
            raise _Disconnected(_line(cause or error)) from error
        except openai.OpenAIError as error:
            raise LisaError(f"{self.url}: {_line(error)}") from error
        except (LisaError, asyncio.CancelledError):
            raise
        except Exception as error:  # the HTTP library's own, while the answer streams
            raise _Disconnected(_line(error)) from error


class _Refused(LisaError):
    """The server answered with a status that says no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Disconnected(NotReady):
    """The connection broke."""


def _of_status(url: str, status: int, words: str) -> LisaError:
    """The error of an HTTP status."""
    if status in (401, 403):
        return NotReady(f"{url} refuses the key ({status}); set {KEY_VARIABLE} in the environment of this process")
    if status == 404:
        return NotReady(f"{url} has no such address or model (404: {words}); the URL must end in /v1")
    if status in (429, 503):
        return Busy(f"{url} has too much to do ({status}: {words}); ask again later")
    if status in (408, 504):
        return TimedOut(f"{url} gave up ({status}: {words})")
    lowered = words.lower()
    if (
        status in (400, 413)
        and "context" in lowered
        and ("length" in lowered or "size" in lowered or "token" in lowered)
    ):
        return CommandError(f"{url}: the prompt is too long ({words}); shorten the command or lower max_side")
    if status in (400, 413) and "image" in lowered:
        return ImageError(f"{url} cannot use the picture ({words})")
    return _Refused(status, f"{url} answered {status}: {words}")


def _words(error: Any) -> str:
    """What a server says about its refusal, as one short line."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return _line(body["message"])
    return _line(body if isinstance(body, str) else error)


def _line(text: object) -> str:
    """One short line, also of a page of HTML."""
    return " ".join(str(text).split())[:200] or type(text).__name__


def _content(message: Message) -> Any:
    if message.picture is None:
        return message.text
    return [{"type": "image_url", "image_url": {"url": message.picture}}, {"type": "text", "text": message.text}]


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, until ``[DONE]``.

    Raises LisaError for more than MOST_BYTES: the client's own decoder sets no limit.
    """
    rest, total = b"", 0
    async for part in parts:
        total += len(part)
        if total > MOST_BYTES:
            raise LisaError(f"the endpoint sent over {MOST_BYTES / 1e6:g} MB for one answer; is it an OpenAI endpoint?")
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[len(b"data:") :].strip().decode("utf-8", "replace")
            if data == "[DONE]":
                return
            yield data


def _chunk_of(data: str) -> _Chunk:
    """A chunk of the stream; what it lacks is empty.

    Raises:
        LisaError: It is no JSON, or the server reports an error inside its stream.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise LisaError(f"the endpoint sent an event that is not JSON: {_line(data)}") from error
    error_ = content.get("error") if isinstance(content, dict) else None
    if error_:
        words = error_.get("message", error_) if isinstance(error_, dict) else error_
        code = error_.get("code") if isinstance(error_, dict) else None
        raise _of_status("the endpoint", code if isinstance(code, int) else 500, _line(words))
    try:
        choice = content["choices"][0]
        text = choice["delta"].get("content") or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
    except (AttributeError, IndexError, KeyError, TypeError):
        return _Chunk((), {})  # usage, role, a comment
    return _Chunk(_pieces(str(text), tokens), _top(tokens))


def _pieces(text: str, tokens: Any) -> tuple[Piece, ...]:
    """The text of a chunk by tokens, if the log probabilities fit it; else as one piece."""
    try:
        pieces = tuple(Piece(str(token["token"]), float(token["logprob"])) for token in tokens)
    except (KeyError, TypeError, ValueError):
        pieces = ()
    if "".join(piece.text for piece in pieces) == text:
        return pieces
    return (Piece(text),) if text else ()


def _top(tokens: Any) -> dict[str, float]:
    top: dict[str, float] = {}
    try:
        for candidate in tokens[0]["top_logprobs"]:
            logprob = float(candidate["logprob"])
            if not math.isnan(logprob):
                top[str(candidate["token"])] = math.exp(min(logprob, 0.0))
    except (IndexError, KeyError, TypeError, ValueError):
        return {}
    return top
