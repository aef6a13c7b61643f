"""Options of one engine: reading ``name=value``, and the check that the engine knows them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from lisa_ros.errors import ConfigError

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")

PRECISIONS = ("auto", "bf16", "fp16", "fp32", "int8", "nf4")
"""Number formats that LISA and its relatives can be loaded in; another engine may ignore them."""


def parse_options(settings: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` texts as a dict.

    Args:
        settings: For example ``["family=lisa", "points={num_points: 10}"]``. Values are read as YAML.

    Raises:
        ConfigError: A text is not ``name=value``, a name is repeated, or a value is not YAML.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ConfigError(f"option {setting!r} is not name=value; write for example conversation=llava_v1")
        if name in options:
            raise ConfigError(f"option '{name}' is given twice; give it once")
        options[name] = _value(name, value)
    return options


def _value(name: str, text: str) -> Any:
    """A value of YAML that JSON has, too. Raises ConfigError."""
    try:
        value = yaml.safe_load(text)
        json.dumps(value, allow_nan=False)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"option {name}={text!r} cannot be read as YAML: {reason}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"option {name}={text!r} is no text, number, list or mapping; put it in quotes") from error
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)  # YAML 1.1 takes 1e-3 for text and wants 1.0e-3
    return value


def check_options(options: Mapping[str, Any], known: Collection[str], engine: str) -> None:
    """Check the names of options.

    Args:
        options: Value by name.
        known: Names that the engine has.
        engine: Name of the engine, for the error.

    Raises:
        ConfigError: An option is not known. The message names it and lists the known ones.
    """
    for name in options:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"engine '{engine}' has no option '{name}'; its options: {listed}")
