"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lisa_ros.errors import ConfigError


def check_output(option: str, path: Path) -> None:
    """Raises ConfigError where ``path``, told by ``option``, cannot be written: better before long work than after."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; add a file name")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {path}: {path.parent} may not be written to; choose another folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to. It takes ``path``'s place when the block ends well and vanishes when not.

    Its name ends like ``path``'s, so that writers which choose the format by the ending choose the same.
    """
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
