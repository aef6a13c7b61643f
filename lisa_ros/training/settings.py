"""Settings of a yaml as dataclasses: what is unknown, missing or of another type is named."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from lisa_ros.errors import ConfigError

T = typing.TypeVar("T")


def build(kind: type[T], content: Any, where: str = "", beside: Iterable[str] = ()) -> T:
    """``content`` as the dataclass ``kind``. where: the name that it has in the file. beside: settings of others there.

    Raises ConfigError naming the setting that is unknown, missing or of another type.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where or 'the configuration'} is {content!r}; it needs settings, each with a name")
    hints = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(typing.cast(Any, kind))}
    prefix = f"{where}." if where else ""
    if unknown := set(content) - set(fields):
        name = min(unknown, key=str)
        close = get_close_matches(str(name), [*fields, *beside], 1, cutoff=0.75)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join([*fields, *beside])}"
        raise ConfigError(f"'{prefix}{name}' is not a setting; {hint}")
    required = [
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if missing := [f"'{prefix}{name}'" for name in required if name not in content]:
        several = len(missing) > 1
        raise ConfigError(f"the setting{'s' * several} {', '.join(missing)} {'are' if several else 'is'} missing")
    values = {name: _value(hints[name], value, prefix + name) for name, value in content.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def check_positive(settings: Any, *names: str) -> None:
    """Raises ConfigError where one of the numbers is not above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise ConfigError(f"{name} is {getattr(settings, name)}; it must be above 0")


def check_shares(settings: Any, *names: str) -> None:
    """Raises ConfigError where one of the numbers is not from 0 to 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}; a share is from 0 to 1")


def _value(kind: Any, value: Any, name: str) -> Any:
    """``value`` as a ``kind``: YAML reads 3e-4 as text, and gives lists where tuples are meant."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (tuple, list):
        return origin(_value(parts[0], one, f"{name}[{i}]") for i, one in enumerate(_list(value, name)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}; it needs a value behind each name")
        return {str(key): _value(parts[1], one, f"{name}.{key}") for key, one in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        choices = [part for part in parts if part is not type(None)]
        # Text or settings: YAML tells them apart.
        settings = [part for part in choices if dataclasses.is_dataclass(part)]
        return _value(settings[0] if settings and isinstance(value, Mapping) else choices[0], value, name)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, name)
    if kind in (int, float):
        return _number(kind, value, name)
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false")
    if kind is str and not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be text")
    return value


def _number(kind: type, value: Any, name: str) -> Any:
    try:
        if isinstance(value, bool) or not math.isfinite(float(value)) or (kind is int and float(value) != int(value)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r}; it must be {'a whole ' if kind is int else 'a '}number") from error


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} is {value!r}; it must be a list")
    return list(value)
