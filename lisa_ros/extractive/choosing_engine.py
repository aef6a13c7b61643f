"""The factories of engines that choose: LISA's answers, masks chosen among proposals.

``llm-seg`` has LLM-Seg's selector, ``cells`` a pointer at image tokens, ``nearest`` needs no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import check_options
from lisa_ros.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from lisa_ros.extractive.features import Vision
    from lisa_ros.extractive.segmenter import ChoosingSegmenter
    from lisa_ros.extractive.selector import Selector
    from lisa_ros.lisa.segmenter import Segmenter

SELECTOR = "selector.safetensors"
"""The selector's tensors, by the reference's names without what stands in front of ``lisa_``; beside a LISA."""

DINO = "dinov2-large"
"""Folder of DINOv2 beside the selector, or beside its folder."""

POINTER = "cells.safetensors"
"""Tensors of a pointer at cells, beside a model with a map of classes."""

COMMON = ("conversation", "family", "limit", "order", "proposer", "proposer_options", "vision_tower")
"""Options of all of these engines."""


def recognises(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder is LLM-Seg's."""
    del config
    return (folder / SELECTOR).is_file()


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> ChoosingSegmenter:
    """The factory of engine ``llm-seg``.

    Args:
        model: Folder of a LISA, with ``selector.safetensors`` in it.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        options: Those of :func:`load_nearest`, and ``choice`` (similarity, threshold or both), ``threshold`` (of the
            share of a mask that belongs), ``selector`` (another file), ``dino`` (folder of DINOv2; ``none``: the
            model's own image embedding).
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used.
        CheckpointError: The folder is missing, damaged or not LLM-Seg's.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.extractive.choosing import Selecting  # here: it imports torch
    from lisa_ros.extractive.proposers.settings import ProposerSettings
    from lisa_ros.extractive.selector import Choice, Selector
    from lisa_ros.lisa.weights.tensors import iterate_tensors

    check_options(options, (*COMMON, "choice", "dino", "selector", "threshold"), "llm-seg")
    settings = ProposerSettings.of(options)
    choice = Choice(options.get("choice", Choice.rule), options.get("threshold", Choice.threshold))
    file = Path(options.get("selector", Path(model) / SELECTOR)).expanduser()
    if not file.is_file():
        raise CheckpointError(
            f"there is no selector of LLM-Seg in {file}; 'lisa merge' writes one from LLM-Seg's own checkpoint, and "
            "'recipe: choose_small' trains one for the demo model"
        )
    selector = Selector.from_tensors({name: tensor.clone() for name, tensor in iterate_tensors([file])})
    segmenter = _segmenter(model, device, precision, options, progress)
    if selector.width != segmenter.spec.out_dim:
        raise CheckpointError(
            f"the selector in {file} compares {selector.width} numbers, the [SEG] embeddings of {segmenter.name} have "
            f"{segmenter.spec.out_dim}; they are not of one model"
        )
    vision = _vision(options.get("dino"), Path(model), selector, segmenter)
    selector.to(segmenter.device)
    segmenter.choose_with(settings.load(segmenter), Selecting(selector, vision, choice), settings.arrangement)
    return segmenter


def load_cells(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> ChoosingSegmenter:
    """The factory of engine ``cells``: ``[SEG]`` points at image tokens. For models with a map of classes.

    Args:
        model: Folder of the demo model, or of one of its kind.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        options: Those of :func:`load_nearest`, and ``pointer`` (file; ``cells.safetensors`` in the folder).
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used, or the model has no map of classes.
        CheckpointError: The folder or the pointer is missing or damaged, or they are not of one model.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.extractive.cells import CellPointer, Pointing  # here: it imports torch
    from lisa_ros.extractive.proposers.drawn import ClassMap
    from lisa_ros.extractive.proposers.settings import ProposerSettings
    from lisa_ros.lisa.weights.tensors import iterate_tensors

    check_options(options, (*COMMON, "pointer"), "cells")
    settings = ProposerSettings.of(options)
    file = Path(options.get("pointer", Path(model) / POINTER)).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no pointer at cells in {file}; 'recipe: choose_small' trains one")
    pointer = CellPointer.from_tensors({name: tensor.clone() for name, tensor in iterate_tensors([file])})
    segmenter = _segmenter(model, device, precision, options, progress)
    if not isinstance(segmenter.lisa.vision_tower, ClassMap):
        raise ConfigError(
            f"engine 'cells' needs image tokens of the whole picture; those of {segmenter.name} show its middle: use "
            "engine 'llm-seg'"
        )
    sizes = segmenter.spec.out_dim, segmenter.lisa.llama.config.hidden_size
    if (pointer.channels, pointer.hidden_size) != sizes:
        raise CheckpointError(
            f"the pointer in {file} compares {pointer.channels} with {pointer.hidden_size} numbers, {segmenter.name} "
            f"has {sizes[0]} and {sizes[1]}; they are not of one model"
        )
    pointer.to(segmenter.device)
    segmenter.choose_with(settings.load(segmenter), Pointing(pointer), settings.arrangement)
    return segmenter


def load_nearest(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> ChoosingSegmenter:
    """The factory of engine ``nearest``: no training, the nearest mask prompt. For models with a map of classes.

    Args:
        model: Folder of the demo model, or of one of its kind.
        device: auto, cpu, cuda or cuda:N.
        precision: One of ``engine.options.PRECISIONS``.
        options: ``proposer`` (name or ``package.module:callable``), ``proposer_options`` (mapping), ``order`` (area,
            score, position or proposer), ``limit`` (most proposals; 0: all), and LISA's.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used, or the model has no map of classes.
        CheckpointError: The folder is missing, damaged or not LISA's.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.extractive.choosing import NearestPrompt  # here: it imports torch
    from lisa_ros.extractive.proposers.drawn import Drawn
    from lisa_ros.extractive.proposers.settings import ProposerSettings

    check_options(options, COMMON, "nearest")
    settings = ProposerSettings.of(options)
    segmenter = _segmenter(model, device, precision, options, progress)
    proposer = settings.load(segmenter)
    drawn = proposer if isinstance(proposer, Drawn) else Drawn(segmenter)
    segmenter.choose_with(proposer, NearestPrompt(drawn), settings.arrangement)
    return segmenter


def _segmenter(
    model: str,
    device: str,
    precision: str,
    options: Mapping[str, Any],
    progress: Callable[[float], None] | None,
) -> ChoosingSegmenter:
    from lisa_ros.extractive.segmenter import ChoosingSegmenter

    for name in ("vision_tower", "conversation", "dino", "selector", "pointer"):
        if not isinstance(options.get(name, ""), str):
            raise ConfigError(f"option {name} is {options[name]!r}; it must be text")
    segmenter = ChoosingSegmenter.from_checkpoint(
        model,
        vision_tower=options.get("vision_tower"),
        conversation=options.get("conversation"),
        device=device,
        precision=precision,
        progress=progress,
    )
    assert isinstance(segmenter, ChoosingSegmenter)
    return segmenter


def _vision(dino: str | None, model: Path, selector: Selector, segmenter: Segmenter) -> Vision:
    """DINOv2 where there is one, else the model's own embedding; its width must be the selector's."""
    from lisa_ros.extractive.features import DinoTower, OwnEmbedding

    vision: Vision
    near = [folder for folder in (model / DINO, model.parent / DINO) if (folder / "config.json").is_file()]
    if dino not in (None, "none") or (dino is None and near):
        folder = Path(dino).expanduser() if dino else near[0]
        vision = DinoTower.from_folder(folder, segmenter.device, segmenter.lisa.dtype)
    else:
        vision = OwnEmbedding(segmenter)
    needed = selector.lisa_dino_conv.in_channels if selector.lisa_dino_conv is not None else None
    if needed != vision.channels:
        raise CheckpointError(
            f"the selector reads features of {needed} channels, and there are {vision.channels}; for LLM-Seg's own "
            "checkpoint get DINOv2 with 'lisa fetch facebook/dinov2-large', or name its folder by the option dino"
        )
    return vision
