"""The demo model as an extractive engine: it names proposals of its own instead of drawing a mask for each ``[SEG]``.

With weights of ``recipe: extract_small`` it was trained for that. Without, the embedding of ``[SEG]`` chooses the
nearest proposal (the option ``family: elisa_small`` on the demo model's folder).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_small import model_folder

if TYPE_CHECKING:
    from lisa_ros.extractive.extractor import Extractor

ENGINE, BASE, WEIGHTS = "elisa_small", "lisa-small", "extract.safetensors"
OPTIONS = ("family", "limit", "order", "proposer", "proposer_options")


def base_folder(name: str) -> Path:
    """Folder of the model that an extractive one is based on.

    Args:
        name: ``lisa-small`` for the bundled one, or a folder.

    Raises:
        ConfigError: There is no model.
    """
    folder = model_folder() if name == BASE else Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no finished small model: it has no config.json")
    return folder


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> Extractor:
    """The factory of engine ``elisa_small``.

    Args:
        model: Folder with ``engine.json`` and ``extract.safetensors``, or that of a demo model.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``, but for int8 and nf4.
        options: ``family`` (``elisa_small``); ``proposer`` (name or ``package.module:callable``; without it the things
            that the model sees, each drawn), ``proposer_options`` (mapping), ``order`` and ``limit`` of its proposals.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used.
        CheckpointError: The folder is damaged or of another model.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.extractive.proposers.settings import PROPOSER_OPTIONS, ProposerSettings  # here: it imports torch
    from lisa_small.extraction import load_extractor

    check_options(options, OPTIONS, ENGINE)
    proposing = ProposerSettings.of(options) if set(PROPOSER_OPTIONS) & set(options) else None
    folder = Path(model)
    facts = read_json_object(folder / "engine.json", CheckpointError) if (folder / "engine.json").is_file() else {}
    trained = folder / WEIGHTS if facts else None
    base = base_folder(str(facts.get("base", BASE))) if facts else folder
    name = str(facts.get("name", "elisa-small (untrained)" if trained is None else ENGINE))
    return load_extractor(
        base, trained, name, device=device, precision=precision, proposing=proposing, progress=progress
    )
