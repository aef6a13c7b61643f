"""What a server with OpenAI's protocol streams: events with pieces of text and their log probabilities.

The events are read here, since the client's own reader sets no limit to what a server may send.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from lisa_ros.errors import LisaError
from lisa_ros.grounded.locators.chat import Piece
from lisa_ros.grounded.locators.refusals import of_status, one_line

MOST_BYTES = 4_000_000
"""Of one answer; with log probabilities, a token takes some hundred bytes of it."""


@dataclass(frozen=True)
class Chunk:
    """One event of the stream. top: probability by token, of the candidates for the first token."""

    pieces: tuple[Piece, ...]
    top: dict[str, float]


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, until ``[DONE]``.

    Raises:
        LisaError: There are more than MOST_BYTES.
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


def chunk_of(data: str) -> Chunk:
    """A chunk of the stream; what it lacks is empty.

    Raises:
        LisaError: It is no JSON, or the server reports an error inside its stream.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LisaError(f"the endpoint sent an event that is not JSON: {one_line(data)}") from error
    error_ = content.get("error") if isinstance(content, dict) else None
    if error_:
        words = error_.get("message", error_) if isinstance(error_, dict) else error_
        code = error_.get("code") if isinstance(error_, dict) else None
        raise of_status("the endpoint", code if isinstance(code, int) else 500, one_line(words))
    try:
        choice = content["choices"][0]
        text = choice["delta"].get("content") or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
    except (AttributeError, IndexError, KeyError, TypeError):
        return Chunk((), {})  # usage, role, a comment
    return Chunk(_pieces(str(text), tokens), _top(tokens))


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
