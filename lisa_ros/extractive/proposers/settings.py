"""The options of an engine that say what proposes, and what of that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lisa_ros.errors import ConfigError
from lisa_ros.extractive.proposers.proposer import Arrangement, Proposer
from lisa_ros.extractive.proposers.registry import default_proposer, find_proposer, load_proposer
from lisa_ros.lisa.segmenter import Segmenter

PROPOSER_OPTIONS = ("limit", "order", "proposer", "proposer_options")
"""Names of the engine's options."""


@dataclass(frozen=True)
class ProposerSettings:
    """What proposes.

    Args:
        name: Of a proposer, or ``package.module:callable``; empty: the engine's own choice.
        options: Of the proposer.
        arrangement: What is kept.
    """

    name: str
    options: Mapping[str, Any]
    arrangement: Arrangement

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ProposerSettings:
        """Read the options of an engine.

        Raises:
            ConfigError: One of them cannot be used, or there is no such proposer.
        """
        name, settings = options.get("proposer", ""), options.get("proposer_options", {})
        if not isinstance(name, str):
            raise ConfigError(f"option proposer is {name!r}; it must be text")
        if name:
            find_proposer(name)
        if not isinstance(settings, Mapping):
            raise ConfigError(f"option proposer_options is {settings!r}; give a mapping, such as {{smallest: 3}}")
        arrangement = Arrangement(options.get("order", Arrangement.order), options.get("limit", Arrangement.limit))
        return cls(name, settings, arrangement)

    def load(self, segmenter: Segmenter) -> Proposer:
        """Create the proposer. Raises ConfigError where it cannot be used with this model or these options."""
        return load_proposer(self.name or default_proposer(segmenter), segmenter, self.options)
