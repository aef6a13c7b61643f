"""What stands where a model's file or folder should be: the commonest broken downloads, named as what they are."""

from __future__ import annotations

import re
from pathlib import Path

from lisa_ros.errors import CheckpointError

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""Name of a repository of the hub."""
_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html", b"<?xml")


def substitute(file: Path) -> str:
    """What ``file`` is instead of a model's file, with how to fix it; empty where it is none of the known kinds."""
    if file.is_symlink() and not file.exists():
        return (
            f"{file} is a link to a file that is gone, as in a cache of the hub that was cleaned; download the model "
            "again, for example with 'lisa fetch'"
        )
    try:
        with file.open("rb") as opened:
            start = opened.read(256)
    except OSError:
        return ""
    if start.startswith(_LFS):
        return (
            f"{file} is a Git LFS pointer of {file.stat().st_size} bytes, not the file itself; run 'git lfs pull' in "
            "that folder, or get the model with 'lisa fetch'"
        )
    if start.lstrip().lower().startswith(_HTML):
        return f"{file} is a web page, not a model's file; download it again, for example with 'lisa fetch'"
    return ""


def check_link(file: Path) -> None:
    """Raise CheckpointError where ``file`` is a link to a file that is gone: it would read as if it were not there."""
    if file.is_symlink() and not file.exists():
        raise CheckpointError(substitute(file))


def missing_folder(folder: Path) -> str:
    """Why ``folder`` is no model folder, with how to fix it."""
    if folder.exists():
        return f"{folder} is not a folder; a checkpoint is a folder with config.json and weights"
    if folder.is_symlink():
        return f"{folder} is a link to a folder that is gone; get the model again, for example with 'lisa fetch'"
    if REPOSITORY.fullmatch(str(folder)):
        return (
            f"{folder} is not a folder here; get that model with 'lisa fetch {folder}', then name its folder, "
            f"{folder.name}"
        )
    return f"{folder} is not a folder: there is no such path; get a model with 'lisa fetch xinlai/LISA-7B-v1'"
