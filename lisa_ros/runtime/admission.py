"""Which questions are taken: text, lengths and limits, checked before anything is queued or computed."""

from __future__ import annotations

from dataclasses import replace

from lisa_ros.engine.api import Ask, EngineInfo
from lisa_ros.engine.contract import checked_ask
from lisa_ros.errors import CommandError
from lisa_ros.plain_text import check_plain
from lisa_ros.runtime.requests import Limits, Request

MAX_SESSION_LENGTH = 256
# A question is written to the worker's pipe at once, also while nobody reads there: a longer one than the pipe holds
# would stop the node until somebody does. max_command_length is bounded for the same reason.
MAX_TARGETS_LENGTH = 10_000
MAX_POINTS = 1_000


def clean_request(request: Request, limits: Limits) -> None:
    """Bring the question into the form that is asked. Raises CommandError for one that cannot be asked."""
    request.deadline = request.received + (request.timeout_s or limits.timeout_s)
    request.ask = clean_ask(request.ask, limits)
    check_session(request.session)
    if request.timeout_s < 0:
        raise CommandError(f"the timeout is {request.timeout_s:g} s; give a positive one, or 0 for the node's limit")


def clean_ask(ask: Ask, limits: Limits) -> Ask:
    """``ask`` with its text and targets as one line each. Raises CommandError."""
    without_text = not ask.text.strip() and (len(ask.targets) or len(ask.points) or ask.box is not None)
    text = "" if without_text else clean_command(ask.text, limits.max_command_length)
    targets = tuple(clean_command(target, limits.max_command_length, "a target") for target in ask.targets)
    length = sum(map(len, targets))
    if length > MAX_TARGETS_LENGTH:
        raise CommandError(
            f"the targets have {length} characters; at most {MAX_TARGETS_LENGTH} are taken: ask in parts"
        )
    if len(ask.points) > MAX_POINTS:
        raise CommandError(f"{len(ask.points)} points; at most {MAX_POINTS} are taken")
    return replace(ask, text=text, targets=targets, max_new_tokens=limits.max_new_tokens)


def check_supported(request: Request, info: EngineInfo) -> None:
    """Raise CommandError for a question that this engine cannot be asked."""
    request.ask = checked_ask(request.ask, info)


def clean_command(text: str, max_length: int, what: str = "the command") -> str:
    """The text as one line. Raises CommandError for an empty or too long one, or one with control characters.

    Line breaks and tabs become spaces, since people paste. Special tokens of the model stay: to it they are text.
    """
    if len(text) > max_length:
        raise CommandError(f"{what} has {len(text)} characters; at most {max_length} are taken (max_command_length)")
    check_plain(text, what)
    line = " ".join(text.split())
    if not line:
        raise CommandError(f"{what} is empty; say what to find, for example 'the thing to drink from'")
    return line


def check_session(session: str) -> None:
    """Raise CommandError for a session name that nobody would choose on purpose."""
    check_plain(session, "the session name", allowed="")
    if len(session) > MAX_SESSION_LENGTH:
        raise CommandError(f"the session name has {len(session)} characters; at most {MAX_SESSION_LENGTH} are taken")
