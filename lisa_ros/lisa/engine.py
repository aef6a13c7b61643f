"""The engine that serves checkpoints of LISA and its relatives (``family``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.family import family_named

if TYPE_CHECKING:
    from lisa_ros.lisa.segmenter import Segmenter

OPTIONS = ("coarse_regions", "conversation", "family", "points", "vision_tower")


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
            ``family`` (one of ``family.FAMILIES``), ``points`` (READ: num_points, t_pos, t_neg, down_sample),
            ``coarse_regions`` (CoReS: whether coarse masks are sent as early regions, which the answer leaves out).
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used.
        CheckpointError: The folder is missing, damaged or not LISA's.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.lisa.segmenter import Segmenter  # here: it imports torch

    check_options(options, OPTIONS, "lisa")
    for name in ("vision_tower", "conversation"):
        if not isinstance(options.get(name, ""), str):
            raise ConfigError(f"option {name} is {options[name]!r}; it must be text")
    if not isinstance(options.get("coarse_regions", False), bool):
        raise ConfigError(f"option coarse_regions is {options['coarse_regions']!r}; it must be true or false")
    return Segmenter.from_checkpoint(
        model,
        vision_tower=options.get("vision_tower"),
        conversation=options.get("conversation"),
        family=family_named(options["family"]) if "family" in options else None,
        points=options.get("points"),
        coarse_regions=options.get("coarse_regions", False),
        device=device,
        precision=precision,
        progress=progress,
    )
