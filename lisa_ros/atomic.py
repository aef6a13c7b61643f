"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lisa_ros.errors import ConfigError


def check_outputs(told: Mapping[str, Path | None]) -> None:
    """Raises ConfigError where a file to write, by its option, cannot be written, or is named twice.

    Better before long work than after.
    """
    outputs = {option: path for option, path in told.items() if path is not None and not is_stream(path)}
    for option, path in outputs.items():
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.parent}; create it first")
        if path.is_dir():
            raise ConfigError(f"{option} {path} is a folder; add a file name")
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"{option} {path}: {path.parent} may not be written to; choose another folder")
    files = [path.resolve() for path in outputs.values()]
    if twice := [option for option, path in outputs.items() if files.count(path.resolve()) > 1]:
        raise ConfigError(f"{' and '.join(twice)} name one file, {outputs[twice[0]]}; each needs its own")


def is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to. It takes ``path``'s place when the block ends well and vanishes when not.

    Its name ends like ``path``'s, so that writers which choose the format by the ending choose the same. Who may
    read it is the umask's business, whatever the writer thinks. A device or a pipe is written to as it is.
    """
    if is_stream(path):
        yield path
        return
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch()
        mode = unfinished.stat().st_mode
        unfinished.unlink()  # a writer that writes nothing is not to leave an empty file
        yield unfinished
        unfinished.chmod(mode)  # whoever may read what is made here: safetensors (0.8) makes files for its user alone
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
