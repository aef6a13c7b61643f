"""What the parts of an engine are, how much memory they need together, and under which licences they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lisa_ros.errors import CheckpointError
from lisa_ros.grounded.recipe import MLLMS, RECIPE, Part, read_recipe
from lisa_ros.grounded.weights.presets import CUTTERS, LOCATORS
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.inspect import (
    CACHE_TOKENS,
    Memory,
    Report,
    origin_of,
    read_headers,
    search_not_finite,
    size_of,
)
from lisa_ros.lisa.weights.tensors import find_files

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
NUMBERS_PER_PIXEL = 50
"""Numbers that a SAM's image encoder holds for each pixel of its input at its height, estimated."""

_LICENCE = re.compile(r"^license:\s*([\w.+-]+)", re.MULTILINE)
_LICENCE_NAME = re.compile(r"^license_name:\s*([\w.+-]+)", re.MULTILINE)


def is_engine(folder: Path) -> bool:
    """Whether a folder names the engine ``grounded``."""
    file = folder / RECIPE
    return file.is_file() and read_json_object(file, CheckpointError).get("engine") == "grounded"


def inspect_engine(folder: Path) -> Report:
    """Inspect a folder with ``engine.json``. Only headers are read, and small weights searched for NaN.

    Returns:
        The report; faults that do not prevent it are in ``problems``.

    Raises:
        CheckpointError: ``engine.json`` or a part is missing or damaged.
    """
    recipe = read_recipe(folder)
    report = Report(folder.resolve().name, "locator and cutter", str(folder), 0, [], {}, {})
    memory = dict.fromkeys(_BYTES, Memory(0, 0, 0))
    parts = [(role, part) for role, part in (("locator", recipe.locator), ("cutter", recipe.cutter)) if part]
    if recipe.locator is None:
        report.facts["locator"] = "a server's, by the option endpoint; its memory is not in the figures below"
    for role, part in parts:
        files = find_files(part.folder)
        _, dtypes = read_headers(files)
        count = sum(dtypes.values())
        report.size += size_of(files)
        report.files += [f"{part.folder.name}/{file.name}" for file in files]
        for dtype, number in dtypes.items():
            report.dtypes[dtype] = report.dtypes.get(dtype, 0) + number
        report.parameters[role] = count
        report.facts[role] = _describe(part)
        search_not_finite(report, files)
        config = read_json_object(part.folder / "config.json", CheckpointError)
        for precision, one in memory.items():
            memory[precision] = _added(one, count, config, part, _BYTES[precision])
    report.memory = memory
    report.cache_tokens = CACHE_TOKENS if recipe.locator is not None and recipe.locator.kind in MLLMS else 0
    report.notes.append("the names of the tensors are compared when the engine loads")
    return report


def _describe(part: Part) -> str:
    origin = origin_of(part.folder)
    words = [part.kind, *([f"dialect {part.dialect}"] if part.dialect else [])]
    words.append(f"licence {_licence(part.folder, origin)}")
    if origin:
        revision = f" at {origin['revision']}" if origin.get("revision") else ""
        words.append(f"from {origin['source']}{revision}")
    return ", ".join(words)


def _licence(folder: Path, origin: dict[str, Any]) -> str:
    """By the table of presets, else by the model card; ``unknown`` without one."""
    for source in (*LOCATORS.values(), *CUTTERS.values()):
        if source.repository and source.repository == origin.get("source"):
            return source.licence
    try:
        card = (folder / "README.md").read_text("utf-8", errors="replace")[:4000]
    except OSError:
        return "unknown"
    found = _LICENCE_NAME.search(card) or _LICENCE.search(card)
    return found[1] if found else "unknown"


def _added(memory: Memory, parameters: int, config: dict[str, Any], part: Part, size: int) -> Memory:
    """``memory`` with that of one more part. Parts work one after another, so the larger work counts."""
    cache = work = 0
    if part.kind in MLLMS:
        text = config.get("text_config") or config
        heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
        width = int(text.get("head_dim") or int(text["hidden_size"]) // int(text["num_attention_heads"]))
        cache = 2 * int(text["num_hidden_layers"]) * heads * width * CACHE_TOKENS * size
    else:
        side = (config.get("prompt_encoder_config") or {}).get("image_size", 1024)
        work = NUMBERS_PER_PIXEL * int(side) ** 2 * size
    return Memory(memory.weights + parameters * size, memory.cache + cache, max(memory.work, work))
