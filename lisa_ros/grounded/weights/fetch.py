"""Compose a model folder of a preset: its parts from the hub, pinned and checked, and ``engine.json``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.grounded.recipe import ENDPOINT, RECIPE
from lisa_ros.grounded.weights.adapter import merge_adapter
from lisa_ros.grounded.weights.inspect import inspect_engine
from lisa_ros.grounded.weights.presets import Preset
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.fetch import Say, fetch_parts

BASE, ADAPTER = "locator-base", "locator-adapter"
"""Folders of a model and its LoRA weights, which are merged into the folder of the locator."""


def fetch_engine(preset: Preset, out: Path | None = None, *, say: Say = print) -> Path:
    """Write the folder of an engine. An interrupted run goes on where it stopped.

    Args:
        preset: What it is made of.
        out: Folder to write; None takes the preset's name, in the working directory.
        say: Called with each line of progress.

    Returns:
        The folder.

    Raises:
        CheckpointError: A repository or ``out`` cannot be used, a file is damaged, or there is too little disk space.
        OSError: A file cannot be read or written.
    """
    out = (out or Path(preset.name)).expanduser()
    content = _content(preset)
    file = out / RECIPE
    if file.is_file() and read_json_object(file, CheckpointError) != content:
        raise CheckpointError(f"{out} holds another engine; choose another folder with --out")
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file; choose another folder with --out")
    parts: dict[Path, str] = {}
    merged = out / "locator" / "config.json"
    if preset.locator.adapter and not merged.is_file():
        parts |= {out / BASE: preset.locator.repository, out / ADAPTER: preset.locator.adapter}
    elif preset.locator.repository and not preset.locator.adapter:
        parts[out / "locator"] = preset.locator.repository
    if preset.cutter is not None:
        parts[out / "cutter"] = preset.cutter.repository
    fetch_parts(parts, out, say)
    if out / ADAPTER in parts:
        say(f"merging the LoRA weights of {preset.locator.adapter}")
        merge_adapter(out / BASE, out / ADAPTER, out / "locator")
        shutil.rmtree(out / BASE)
        shutil.rmtree(out / ADAPTER)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    problems = inspect_engine(out).problems
    if problems:
        raise CheckpointError(f"{out} was written, but it cannot be used: {'; '.join(problems)}")
    return out


def _content(preset: Preset) -> dict[str, object]:
    """What engine.json says."""
    locator = {"model": "locator"} if preset.locator.repository else {"kind": ENDPOINT}
    if preset.locator.dialect:
        locator["dialect"] = preset.locator.dialect
    cutter = {"cutter": {"model": "cutter"}} if preset.cutter is not None else {}
    return {"engine": "grounded", "locator": locator, **cutter}
