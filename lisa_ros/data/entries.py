"""Entries of an annotation file: each can be used, or is counted and left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lisa_ros.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")


def usable(entries: Any, read: Callable[[Any], T], kind: str, file: Path) -> list[T]:
    """Read every entry of a list.

    Args:
        entries: The list, out of ``file``.
        read: One entry -> its value; raises KeyError, TypeError, ValueError, AttributeError or OverflowError for a
            broken one.
        kind: What the entries are, in the plural, for messages.
        file: For messages.

    Returns:
        The values of those that can be read, in order. The others are counted in the log, the first with its reason.

    Raises:
        ConfigError: It is no list, or none of its entries can be used.
    """
    if not isinstance(entries, list):
        raise ConfigError(f"{file} has no list of {kind}")
    values, broken = [], []
    for number, entry in enumerate(entries):
        try:
            values.append(read(entry))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            broken.append(f"number {number} ({error!r})")
    if broken and not values:
        raise ConfigError(f"none of the {len(entries)} {kind} of {file} can be used; the first is {broken[0]}")
    if broken:
        log.warning("skipped: %d of %d %s of %s; the first is %s", len(broken), len(entries), kind, file, broken[0])
    return values


def text_of(value: Any) -> str:
    """``value`` itself, a text with something in it. Raises TypeError for anything else, such as null or a number."""
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r:.40} is no text")
    return value
