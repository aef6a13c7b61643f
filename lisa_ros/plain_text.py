"""Text from elsewhere: control characters are refused in commands, and escaped where text is shown.

A terminal obeys them: a model's answer, a file's name or a label could clear the screen, set its title or more.
"""

from __future__ import annotations

import logging
import unicodedata

from lisa_ros.errors import CommandError

# They turn the direction of text around, so that what is read is not what is there.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_plain(text: str, what: str, allowed: str = "\t\n\r") -> None:
    """Raise CommandError, with the position from 0, for a control character that is not allowed.

    Args:
        text: A command or a target.
        what: What it is, for the message.
        allowed: Control characters that may stand in it: tab and line breaks, since people paste.
    """
    for position, character in enumerate(text):
        if _is_control(character) and character not in allowed:
            raise CommandError(
                f"{what} has the control character U+{ord(character):04X} at position {position}; send plain text"
            )


def escaped(text: object) -> str:
    """The text for a terminal or a page: tabs and line breaks stay, other control characters as in Python's strings."""
    return "".join(_shown(character) for character in str(text))


def escaped_json(document: str) -> str:
    """JSON for a terminal or a file: the same content, with what :func:`escaped` escapes as JSON escapes it."""
    return "".join(
        f"\\u{ord(character):04x}" if _shown(character) != character else character for character in document
    )


class EscapingFormatter(logging.Formatter):
    """Formats log messages for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def _shown(character: str) -> str:
    if character in "\t\n" or not (_is_control(character) or character in _DIRECTIONS):
        return character
    return character.encode("unicode_escape").decode()
