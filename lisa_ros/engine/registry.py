"""Which engine serves a model.

A model is a folder, a URL, ``package.module:callable``, or empty for the bundled demo model. The engine of a folder is
chosen in this order:

0. the option ``family``, where it is the name of an engine;
1. the name under ``"engine"`` in ``engine.json``, or else in ``config.json``;
2. the first engine whose function ``recognises(folder, config)`` returns True;
3. the engine ``lisa``.

A name is one of ``BUILT_IN`` or a Python entry point of the group ``lisa_ros.engines``. A folder can name an installed
engine, but no code: loading a downloaded model runs no code of that model.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from lisa_ros.engine.api import Factory
from lisa_ros.engine.calibration import read_calibration
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_ros.process_tuning import limit_spinning

logger = logging.getLogger(__name__)

GROUP = "lisa_ros.engines"
DEFAULT = "lisa"
BUILT_IN = {
    "lisa": "lisa_ros.lisa.engine:load",
    "lisa_small": "lisa_small.engine:load",
    "grounded": "lisa_ros.grounded.engine:load",
    "llm-seg": "lisa_ros.extractive.choosing_engine:load",
    "cells": "lisa_ros.extractive.choosing_engine:load_cells",
    "nearest": "lisa_ros.extractive.choosing_engine:load_nearest",
    "elisa": "lisa_ros.extractive.engine:load",
    "elisa_small": "lisa_small.extractor:load",
    "http": "lisa_ros.remote.engine:load",
    "https": "lisa_ros.remote.engine:load",
}
"""Name -> ``module:callable`` of the factory. Imported only when a model needs it."""

SCHEMES = ("http", "https")
"""Built-in engines that serve URLs and no folders."""

_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def load_engine(
    model: str | Path = "",
    device: str = "auto",
    precision: str = "auto",
    options: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> SupportedEngine:
    """Load the engine that serves ``model``. Never touches the network for a folder.

    Args:
        model: Folder, URL, ``package.module:callable``, or empty for the bundled demo model.
        device: auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.
        precision: auto, bf16, fp16, fp32, int8 or nf4; an engine may ignore it.
        options: Options of that engine.
        progress: Called with the loaded share, in [0, 1].

    Returns:
        The engine, wrapped in the checks that hold for all engines, with the folder's calibration of its scores.

    Raises:
        ConfigError: There is no such engine, or an option or the precision cannot be used.
        CheckpointError: The folder is missing, damaged or of another engine.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    model = str(model)
    limit_spinning()  # before the factory's module imports torch
    factory = find_factory(model, (options or {}).get("family"))
    _check_signature(factory, model)
    calibration = None
    if not is_callable_name(model) and not is_url(model):
        folder = Path(model).expanduser() if model else bundled_model()
        model, calibration = str(folder), read_calibration(folder)
    chosen = {"model": model, "device": device, "precision": precision}
    return SupportedEngine(factory(**chosen, options=dict(options or {}), progress=progress), calibration)


def find_factory(model: str, family: object = None) -> Factory:
    """The factory that creates the engine for a model.

    Args:
        model: Folder, URL, ``package.module:callable``, or empty for the bundled demo model.
        family: The option of this name. Where it is the name of an engine, that engine serves a folder.

    Raises:
        ConfigError: The engine is not installed or cannot be imported, or ``model`` is the name of an engine.
        CheckpointError: The folder's ``engine.json`` is damaged.
    """
    check_model(model)
    if is_callable_name(model):
        return cast(Factory, import_callable(model))
    if url := _URL.match(model):
        return named(url[1].lower(), f"no engine serves '{model}'")
    folder = Path(model).expanduser() if model else bundled_model()
    name = family if isinstance(family, str) and family in _families() else engine_name(folder)
    return named(name, f"{folder} names the engine '{name}', which is not installed")


def check_model(model: str) -> None:
    """Check what can be checked of a model without importing its engine, which may take seconds.

    Args:
        model: As in ``find_factory``.

    Raises:
        ConfigError: ``model`` is the name of an engine, or its engine needs torch, which is not installed.
        CheckpointError: The folder's ``engine.json`` is damaged.
    """
    if model in known() and not Path(model).exists():
        raise ConfigError(f"'{model}' is the name of an engine; give a model: a folder or package.module:callable")
    if importlib.util.find_spec("torch") is not None or is_callable_name(model) or _URL.match(model):
        return
    name = engine_name(Path(model).expanduser() if model else bundled_model())
    if name in BUILT_IN:  # others fail by themselves where they lack a package
        raise ConfigError(
            f"the engine '{name}' needs torch, which is not installed; pip install torch transformers, or set model to "
            "one whose engine works without it"
        )


def engine_name(folder: Path) -> str:
    """Name of the engine that serves a model folder.

    Raises:
        CheckpointError: ``engine.json`` is damaged, or the name in it or in ``config.json`` is not text.
    """
    for file in ("engine.json", "config.json"):
        name = _read(folder / file).get("engine")
        if name is not None:
            if not isinstance(name, str):
                raise CheckpointError(f'{folder / file}: "engine" is {name!r}; it must be the name of an engine')
            return name
    config = _read(folder / "config.json")
    for name in known():
        if name not in (DEFAULT, *SCHEMES) and _recognises(name, folder, config):
            return name
    return DEFAULT


def is_callable_name(model: str) -> bool:
    """Whether ``model`` has the form ``package.module:callable`` and no file or folder has this name."""
    return _CALLABLE.fullmatch(model) is not None and not Path(model).exists()


def is_url(value: str) -> bool:
    """Whether ``value`` begins like a URL, with a scheme."""
    return _URL.match(value) is not None


def bundled_model() -> Path:
    """Folder of the bundled demo model.

    Raises:
        ConfigError: The demo model is not installed.
    """
    try:
        folder: Path = importlib.import_module("lisa_small").model_folder()
    except ModuleNotFoundError as error:
        raise ConfigError(
            "no model is given, and the bundled demo model (package lisa_small) is not installed; give a model"
        ) from error
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"this installation has no demo model in {folder}; give another model, for example that of "
            "'lisa fetch xinlai/LISA-7B-v1'"
        )
    return folder


def known() -> list[str]:
    """Names of all installed engines, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))]))


def _families() -> list[str]:
    """Engines that the option ``family`` may name. LISA's own families are options of its engine."""
    return [name for name in known() if name != DEFAULT]


def named(name: str, why: str) -> Factory:
    """The factory of an engine.

    Args:
        name: Name of the engine.
        why: First part of the error message, if there is no such engine.

    Raises:
        ConfigError: The engine is not installed or cannot be imported.
    """
    if name in BUILT_IN:
        return cast(Factory, import_callable(BUILT_IN[name]))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return _load_entry(entry)
    raise ConfigError(f"{why}; installed engines: {', '.join(known())}")


def _load_entry(entry: EntryPoint) -> Factory:
    try:
        factory: Factory = entry.load()
    except Exception as error:  # a third party's module may fail in any way
        raise ConfigError(f"engine '{entry.name}' ({entry.value}) cannot be imported: {error}") from error
    return factory


def import_callable(name: str, kind: str = "engine") -> Any:
    """What ``package.module:callable`` names.

    Args:
        name: The name.
        kind: Of thing that the callable makes, for errors.

    Raises:
        ConfigError: It cannot be imported, or is not callable.
    """
    module, _, attribute = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except ModuleNotFoundError as error:
        own = f"{module}.".startswith(f"{error.name}.")
        remedy = "put the folder of the package in PYTHONPATH" if own else f"install the Python module '{error.name}'"
        raise ConfigError(f"{kind} '{name}' cannot be imported: {error}; {remedy}") from error
    except Exception as error:  # the module of a user may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{kind} '{name}' cannot be imported: {reason}; give package.module:callable") from error
    if not callable(value):
        raise ConfigError(f"{kind} '{name}' is a {type(value).__name__}; it must be a callable that makes the {kind}")
    return value


def module_of(name: str) -> str:
    """Name of the module that has the factory of the engine ``name``.

    Raises:
        ConfigError: The engine is not installed.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name and name not in BUILT_IN:
            return entry.module
    if name not in BUILT_IN:
        raise ConfigError(f"engine '{name}' is not installed; installed engines: {', '.join(known())}")
    return BUILT_IN[name].partition(":")[0]


def _recognises(name: str, folder: Path, config: dict[str, Any]) -> bool:
    """Ask an engine that offers ``recognises(folder, config)`` beside its factory; one that fails is left out."""
    module = module_of(name)
    try:
        recognises = getattr(importlib.import_module(module), "recognises", None)
        return bool(recognises and recognises(folder, config))
    except Exception as error:
        logger.warning("engine '%s' (%s) cannot say whether it serves %s: %s", name, module, folder, error)
        return False


def _check_signature(factory: Factory, model: str) -> None:
    try:
        inspect.signature(factory).bind(model="", device="", precision="", options={}, progress=None)
    except TypeError as error:
        raise ConfigError(
            f"the factory of {model or 'the demo model'} must take the keywords model, device, precision, options and "
            f"progress: {error}"
        ) from error
    except ValueError:  # a builtin without a signature
        return


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing, or a damaged config.json, which its engine reports.

    Raises CheckpointError for a damaged engine.json.
    """
    if not file.is_file():
        return {}
    try:
        content = read_json_object(file, CheckpointError)
    except CheckpointError:
        if file.name == "engine.json":
            raise
        return {}
    if file.name == "engine.json" and "engine" not in content:
        raise CheckpointError(f'{file} names no engine; write {{"engine": "name"}}')
    return content
