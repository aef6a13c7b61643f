"""The engine that serves the demo model, and models that its recipe trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.api import Engine

if TYPE_CHECKING:
    from lisa_small.network.networks import SmallNetworks


def recognises(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder's config.json has an image encoder of its own, as the recipe writes it."""
    del folder
    own = config.get("lisa")
    return isinstance(own, dict) and "image_encoder" in own


def networks() -> SmallNetworks:
    """The networks that a checkpoint of this engine is built of."""
    from lisa_small.network.networks import SmallNetworks  # here: it imports torch

    return SmallNetworks()


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Engine:
    """The factory of engine ``lisa_small``: LISA's, for checkpoints with networks of our own."""
    from lisa_ros.lisa import engine  # here: it imports torch

    return engine.load(model=model, device=device, precision=precision, options=options, progress=progress)
