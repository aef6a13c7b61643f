"""Reads a pickle that holds plain values, and refuses every other.

The RefCOCO annotations are published as pickles. A pickle is a program: it may import any name and call it. Lists,
dicts, strings and numbers need no import, so none is admitted.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from lisa_ros.errors import ConfigError


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only lists, dicts, text and numbers are admitted")


def load_plain(file: Path) -> Any:
    """The value in ``file``, made of containers, text, bytes, numbers, booleans and None.

    Python 2's pickles are read too. Raises ConfigError where the file is missing, damaged or holds anything more.
    """
    try:
        with open(file, "rb") as data:
            return _PlainUnpickler(data, encoding="utf-8", errors="replace").load()
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist") from error
    # A damaged pickle makes the machine stumble in as many ways as it has instructions.
    except Exception as error:
        raise ConfigError(f"{file} was not read: {error}") from error
