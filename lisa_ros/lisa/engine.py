"""The engine that serves LISA's checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError

if TYPE_CHECKING:
    from lisa_ros.lisa.segmenter import Segmenter

OPTIONS = ("conversation", "family", "vision_tower")
FAMILIES = ("lisa",)


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Segmenter:
    """The factory of engine ``lisa``.

    Args:
        model: Folder of the checkpoint.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        options: ``vision_tower`` (folder or cached hub id of the CLIP tower), ``conversation`` (name of a template),
            ``family`` (one of ``FAMILIES``).
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used.
        CheckpointError: The folder is missing, damaged or not LISA's.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.lisa.segmenter import Segmenter  # here: it imports torch

    check_options(options, OPTIONS, "lisa")
    for name, value in options.items():
        if not isinstance(value, str):
            raise ConfigError(f"option {name} is {value!r}; it must be text")
    family = options.get("family", "lisa")
    if family not in FAMILIES:
        raise ConfigError(f"option family is '{family}'; choose one of {', '.join(FAMILIES)}")
    return Segmenter.from_checkpoint(
        model,
        vision_tower=options.get("vision_tower"),
        conversation=options.get("conversation"),
        device=device,
        precision=precision,
        progress=progress,
    )
