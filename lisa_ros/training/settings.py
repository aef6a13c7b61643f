"""Settings of a yaml as dataclasses: what is unknown, missing or of another type is named."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from lisa_ros.errors import ConfigError


def build(kind: type, content: Any, where: str = "") -> Any:
    """``content`` as the dataclass ``kind``. where: the name that it has in the file.

    Raises ConfigError naming the setting that is unknown, missing or of another type.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where or 'the configuration'} is {content!r}; it needs settings, each with a name")
    types = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    if unknown := set(content) - set(fields):
        name = min(unknown, key=str)
        close = get_close_matches(str(name), fields, 1)
        meant = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(fields)}"
        raise ConfigError(f"'{prefix}{name}' is not a setting; {meant}")
    required = [
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in content]:
        raise ConfigError(f"the setting '{prefix}{missing[0]}' is missing")
    made = {name: _value(types[name], value, prefix + name) for name, value in content.items()}
    try:
        return kind(**made)
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
    origin = typing.get_origin(kind)
    if origin is tuple:
        return tuple(_value(typing.get_args(kind)[0], one, f"{name}[{i}]") for i, one in enumerate(_list(value, name)))
    if origin is list:
        return _list(value, name)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}; it needs a number behind each name")
        return {str(key): _value(typing.get_args(kind)[1], one, f"{name}.{key}") for key, one in value.items()}
    choices = typing.get_args(kind)
    if value is None and type(None) in choices:
        return None
    for choice in choices or (kind,):
        if dataclasses.is_dataclass(choice) and (isinstance(value, Mapping) or len(choices) < 2):
            return build(typing.cast(type, choice), value, name)
        if typing.get_origin(choice) is dict:
            return _value(choice, value, name)
    if kind in (int, float) or int in choices:
        return _number(int if kind is int or int in choices else float, value, name)
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false")
    if (kind is str or str in choices) and not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be text")
    return value


def _number(kind: type, value: Any, name: str) -> Any:
    try:
        if isinstance(value, bool) or (kind is int and float(value) != int(value)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r}; it must be {'a whole ' if kind is int else 'a '}number") from error


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} is {value!r}; it must be a list")
    return list(value)
