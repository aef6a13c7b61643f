"""``engine.json`` of a model folder: which parts the engine has; and the engine's options.

``{"engine": "grounded", "locator": {"model": "locator"}, "cutter": {"model": "cutter"}}``. The parts are folders inside
the model's folder. The address of a server is never in it: a downloaded folder must not send frames away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.grounded.dialects import NAMES, dialect_named
from lisa_ros.json_file import read_json_object

RECIPE = "engine.json"
ENDPOINT = "endpoint"

MLLMS = {"qwen3_vl": "qwen3-vl", "qwen2_5_vl": "qwen2.5-vl"}
"""model_type of a vision-language model -> its dialect, if engine.json names no other."""

DETECTORS = ("grounding-dino", "mm-grounding-dino")
CLIPSEG = "clipseg"
CONCEPTS = ("sam3", "sam3_video")
LOCATORS = (*MLLMS, *DETECTORS, CLIPSEG, *CONCEPTS)
CUTTERS = ("sam", "sam2", "sam2_video", "sam3_tracker", "sam3_tracker_video", "sam3", "sam3_video")


@dataclass(frozen=True)
class Part:
    """One part of an engine.

    Args:
        folder: With config.json and weights.
        kind: ``model_type`` of its config.json.
        dialect: Name of a dialect, for a vision-language model; else empty.
    """

    folder: Path
    kind: str
    dialect: str = ""


@dataclass(frozen=True)
class Recipe:
    """The parts of an engine. locator: None if it is a server's. cutter: None if the locator cuts masks itself."""

    locator: Part | None
    cutter: Part | None


def read_recipe(folder: Path) -> Recipe:
    """Read ``engine.json`` and look at the parts' config.json.

    Raises:
        CheckpointError: The file is damaged, a part is missing, or a model is of no known kind.
    """
    file = folder / RECIPE
    content = read_json_object(file, CheckpointError)
    for name in content:
        if name not in ("engine", "locator", "cutter"):
            raise CheckpointError(f'{file}: "{name}" is not known; it may have "engine", "locator" and "cutter"')
    locator = _entry(file, content, "locator")
    if locator is None:
        raise CheckpointError(f'{file} names no "locator"; write {{"model": "locator"}} or {{"kind": "endpoint"}}')
    cutter = _entry(file, content, "cutter")
    recipe = Recipe(
        None if locator.get("kind") == ENDPOINT else _part(file, "locator", locator, LOCATORS),
        None if cutter is None else _part(file, "cutter", cutter, CUTTERS),
    )
    cuts_itself = recipe.locator is not None and recipe.locator.kind in (CLIPSEG, *CONCEPTS)
    if recipe.cutter is None and not cuts_itself:
        raise CheckpointError(
            f'{file} names no "cutter", and its locator gives boxes only; write {{"model": "cutter"}}'
        )
    return recipe


def _entry(file: Path, content: Mapping[str, Any], role: str) -> dict[str, Any] | None:
    entry = content.get(role)
    if entry is None:
        return None
    allowed = ("model", "kind", "dialect") if role == "locator" else ("model",)
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise CheckpointError(f'{file}: "{role}" is {entry!r}; it must be an object of texts, as {{"model": "{role}"}}')
    for name in entry:
        if name not in allowed:
            raise CheckpointError(f'{file}: "{role}" has "{name}"; it may have {", ".join(allowed)}')
    if "kind" in entry and (entry["kind"] != ENDPOINT or "model" in entry):
        raise CheckpointError(
            f'{file}: "kind" of the {role} is "{entry["kind"]}"; write "{ENDPOINT}", or name a "model"'
        )
    return entry


def _part(file: Path, role: str, entry: Mapping[str, str], kinds: tuple[str, ...]) -> Part:
    name = entry.get("model", "")
    if not name or Path(name).name != name or name in (".", ".."):
        raise CheckpointError(f'{file}: "model" of the {role} is "{name}"; it must be the name of a folder beside it')
    folder = file.parent / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}, the {role}, is missing or has no config.json; fetch the model again")
    kind = read_json_object(folder / "config.json", CheckpointError).get("model_type")
    if kind not in kinds:
        raise CheckpointError(f"{folder} holds a model of type '{kind}', no {role}; known are {', '.join(kinds)}")
    dialect = entry.get("dialect", MLLMS.get(kind, ""))
    if dialect and kind not in MLLMS:
        raise CheckpointError(f"{file}: a {kind} has no dialect; remove it")
    if dialect not in ("", *NAMES):
        raise CheckpointError(f'{file}: dialect is "{dialect}"; choose one of {", ".join(NAMES)}')
    return Part(folder, kind, dialect)


# --- options


@dataclass(frozen=True)
class Options:
    """Options of the engine, with their defaults. docs/engines.md explains them.

    Args:
        endpoint: Base URL of a server, ending in /v1; empty runs the locator here.
        endpoint_model: Name of its model; empty takes the first that it lists.
        dialect: Of the model; empty derives it from the model's name.
        structured: auto, on or off: constrain answers by a JSON schema.
        think: Ask for the reason before the objects.
        check: absence asks about each mask whether it shows the object; off does not.
        points: Give the model's points to the cutter.
        max_objects: Most objects of one answer.
        max_side: Longest side of the picture as the model sees it, pixels.
        jpeg_quality: Of pictures that are sent, 1 to 100; 100 sends PNG.
        timeout_s: Longest time of one answer of a server, seconds.
        box_threshold: Least score of a box, of noun phrases and concepts.
        text_threshold: Least score of a word, of noun phrases.
    """

    endpoint: str = ""
    endpoint_model: str = ""
    dialect: str = ""
    structured: str = "auto"
    think: bool = False
    check: str = "absence"
    points: bool = True
    max_objects: int = 8
    max_side: int = 1024
    jpeg_quality: int = 90
    timeout_s: float = 60.0
    box_threshold: float = 0.3
    text_threshold: float = 0.25


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "endpoint": (lambda v: v == "" or v.startswith(("http://", "https://")), "a URL such as http://gpu-box:8000/v1"),
    "endpoint_model": (lambda v: True, "the name of a model"),
    "dialect": (lambda v: v == "" or bool(dialect_named(v)), "the name of a dialect"),
    "structured": (lambda v: v in ("auto", "on", "off"), "auto, on or off"),
    "think": (lambda v: True, "true or false"),
    "check": (lambda v: v in ("absence", "off"), "absence or off"),
    "points": (lambda v: True, "true or false"),
    "max_objects": (lambda v: 1 <= v <= 32, "a whole number from 1 to 32"),
    "max_side": (lambda v: 112 <= v <= 4096, "a whole number of pixels from 112 to 4096"),
    "jpeg_quality": (lambda v: 1 <= v <= 100, "a whole number from 1 to 100"),
    "timeout_s": (lambda v: 0 < v <= 3600, "seconds above 0, at most 3600"),
    "box_threshold": (lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "text_threshold": (lambda v: 0 <= v < 1, "a number from 0 to below 1"),
}


def read_options(given: Mapping[str, Any]) -> Options:
    """Check options.

    YAML reads ``on`` and ``off`` as true and false; both are accepted where they are words.

    Raises:
        ConfigError: An option is unknown, or has a value of another type or out of its range.
    """
    check_options(given, tuple(_RANGES), "grounded")
    values = {}
    for name, value in given.items():
        default = getattr(Options, name)
        if isinstance(default, str) and isinstance(value, bool):
            value = "on" if value else "off"
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        fits, remedy = _RANGES[name]
        if type(value) is not type(default) or not fits(value):
            raise ConfigError(f"option {name} is {value!r}; give {remedy}")
        values[name] = value
    return Options(**values)
