"""Proposers by name: the built-in ones, installed ones, and ``package.module:callable``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, cast

from lisa_ros.engine.registry import import_callable, is_callable_name
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.proposers.proposer import Proposer, ProposerFactory
from lisa_ros.lisa.segmenter import Segmenter

GROUP = "lisa_ros.proposers"
"""Entry points of installed proposers."""

BUILT_IN = {
    "drawn": "lisa_ros.extractive.proposers.drawn:load",
}
"""Name -> ``module:callable`` of the factory. Imported only when it is named."""


def known() -> list[str]:
    """Names of all proposers, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))]))


def load_proposer(name: str, segmenter: Segmenter, options: Mapping[str, Any] | None = None) -> Proposer:
    """Create a proposer.

    Args:
        name: One of ``known``, or ``package.module:callable``.
        segmenter: The model whose frames it is given.
        options: Of the proposer.

    Raises:
        ConfigError: There is no such proposer, it cannot be imported, or it cannot be used with this model or options.
    """
    factory = _factory(name)
    try:
        inspect.signature(factory).bind(segmenter=segmenter, options={})
    except TypeError as error:
        raise ConfigError(
            f"the factory of proposer '{name}' must take the keywords segmenter and options: {error}"
        ) from error
    return factory(segmenter=segmenter, options=dict(options or {}))


def _factory(name: str) -> ProposerFactory:
    if name in BUILT_IN:
        return cast(ProposerFactory, import_callable(BUILT_IN[name], "proposer"))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return cast(ProposerFactory, import_callable(entry.value, "proposer"))
    if is_callable_name(name):
        return cast(ProposerFactory, import_callable(name, "proposer"))
    raise ConfigError(f"there is no proposer '{name}'; choose one of {', '.join(known())}, or package.module:callable")
