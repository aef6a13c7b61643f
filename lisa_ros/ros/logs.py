"""Python's logging to ROS logging."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any


def plain(text: str) -> str:
    """``text`` with control characters as escapes, so that nothing a model or a peer wrote reaches the terminal raw.

    Line breaks and tabs stay: tracebacks have them.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else escaped(character)
        for character in text
    )


def escaped(character: str) -> str:
    """As Python writes it: \\x1b, \\u202e."""
    return character.encode("unicode_escape").decode()


class RosHandler(logging.Handler):
    """Hands every record to a node's logger. ``ros_logger``: what ``Node.get_logger()`` gives."""

    def __init__(self, ros_logger: Any) -> None:
        super().__init__(logging.INFO)
        self._ros_logger = ros_logger

    def emit(self, record: logging.LogRecord) -> None:
        text = plain(f"{record.getMessage()} [{record.name}]")
        # A line for each level: a call site of rclpy's logger keeps its first severity for ever.
        if record.levelno >= logging.ERROR:
            self._ros_logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros_logger.warning(text)
        else:
            self._ros_logger.info(text)
