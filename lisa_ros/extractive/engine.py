"""The engine that serves ELISA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError

if TYPE_CHECKING:
    from lisa_ros.extractive.extractor import Extractor
    from lisa_ros.extractive.proposers.proposer import Arrangement
    from lisa_ros.extractive.proposers.sam import SamOptions

OPTIONS = ("alpha_clip", "family", "limit", "order", "parity", "proposer", "proposer_options", "weights")
FAMILY = "elisa"


def recognises(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder has ``llava/`` with a model and ``models/`` with weights, as ELISA's training writes them."""
    del config
    return (folder / "llava" / "config.json").is_file() and any((folder / "models").glob("*.pth"))


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Extractor:
    """The factory of engine ``elisa``.

    Args:
        model: Folder with ``llava/`` and ``models/``.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        options: ``parity`` (bool: exactly as the reference, with phantom rows and mask words in questions), ``weights``
            (name of the ``.pth`` file, if there are several), ``alpha_clip`` (folder of AlphaCLIP's visual tower),
            ``family`` (``elisa``), ``proposer`` (``sam``: proposals where a command brings none; without it each
            command must bring its own), ``proposer_options`` (mapping of the settings of SAM's mask generator; its
            ``model`` is SAM's folder), ``order`` and ``limit`` of SAM's proposals.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used.
        CheckpointError: The folder is missing, damaged or not ELISA's.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.extractive.load import load_extractor  # here: it imports torch

    check_options(options, OPTIONS, FAMILY)
    parity = options.get("parity", False)
    if not isinstance(parity, bool):
        raise ConfigError(f"option parity is {parity!r}; it must be true or false")
    for name in ("alpha_clip", "weights", "family"):
        if not isinstance(options.get(name, ""), str):
            raise ConfigError(f"option {name} is {options[name]!r}; it must be text")
    if options.get("family", FAMILY) != FAMILY:
        raise ConfigError(f"option family is '{options['family']}'; {model} is an ELISA: leave it out or set {FAMILY}")
    sam = _sam_options(options)
    return load_extractor(
        Path(model).expanduser(),
        device=device,
        precision=precision,
        weights=options.get("weights"),
        alpha_clip=Path(options["alpha_clip"]).expanduser() if "alpha_clip" in options else None,
        parity=parity,
        sam=sam,
        progress=progress,
    )


def _sam_options(options: Mapping[str, Any]) -> tuple[SamOptions, Arrangement] | None:
    """Settings of the proposer and of what is kept; None without a proposer. Raises ConfigError."""
    from lisa_ros.extractive.proposers.sam import SamOptions  # here: it imports torch
    from lisa_ros.extractive.proposers.settings import PROPOSER_OPTIONS, ProposerSettings

    if not set(PROPOSER_OPTIONS) & set(options):
        return None
    settings = ProposerSettings.of(options)
    if settings.name != "sam":
        raise ConfigError(f"option proposer is '{settings.name}'; engine '{FAMILY}' proposes with 'sam' only")
    check_options(settings.options, SamOptions.__dataclass_fields__, "sam")
    return SamOptions(**settings.options), settings.arrangement
