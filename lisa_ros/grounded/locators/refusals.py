"""Refusals of a server as errors of this package, with the remedy."""

from __future__ import annotations

from typing import Any

from lisa_ros.errors import Busy, CommandError, ImageError, LisaError, NotReady, TimedOut

KEY_VARIABLE = "LISA_ENDPOINT_KEY"
"""Environment variable with the key of the endpoint. There is no parameter: parameters can be read by everybody."""


class Refused(LisaError):
    """The server answered with a status that says no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Disconnected(NotReady):
    """The connection broke."""


def of_status(url: str, status: int, words: str) -> LisaError:
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
    return Refused(status, f"{url} answered {status}: {words}")


def words_of(error: Any) -> str:
    """What a server says about its refusal, as one short line."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return one_line(body["message"])
    return one_line(body if isinstance(body, str) else error)


def one_line(text: object) -> str:
    """One short line, also of a page of HTML."""
    return " ".join(str(text).split())[:200] or type(text).__name__
