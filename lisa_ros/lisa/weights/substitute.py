"""Files that stand where weights should be: the commonest broken downloads, named as what they are."""

from __future__ import annotations

from pathlib import Path

_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html", b"<?xml")


def substitute(file: Path) -> str:
    """What ``file`` is instead of weights, with how to fix it; empty where it is neither of the known kinds."""
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
