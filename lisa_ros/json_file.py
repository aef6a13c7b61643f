"""JSON files, read with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lisa_ros.errors import ConfigError, LisaError


def read_json(file: Path, error: type[LisaError] = ConfigError, *, encodings: tuple[str, ...] = ("utf-8-sig",)) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Args:
        file: The file.
        error: What to raise if the file is missing or broken.
        encodings: Tried in this order; UTF-8 alone by default.

    Raises:
        LisaError: Of the type ``error``; the message names the file.
    """
    try:
        data = file.read_bytes()
        return json.loads(_decode(data, encodings))
    except FileNotFoundError as cause:
        raise error(f"{file} does not exist") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{file} is not readable JSON: {cause}") from cause


def read_json_object(file: Path, error: type[LisaError] = ConfigError) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises as :func:`read_json`, and for any other value."""
    content = read_json(file, error)
    if not isinstance(content, dict):
        raise error(f"{file} is not a JSON object")
    return content


def _decode(data: bytes, encodings: tuple[str, ...]) -> str:
    for encoding in encodings[:-1]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    return data.decode(encodings[-1])
