"""The factory of the engine ``grounded``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.api import EXPLAIN, HISTORY
from lisa_ros.errors import CheckpointError, ConfigError, NotReady
from lisa_ros.grounded.dialects import dialect_named, dialect_of
from lisa_ros.grounded.finds import Cutter, Locator
from lisa_ros.grounded.locators.mllm import MllmLocator
from lisa_ros.grounded.recipe import CLIPSEG, DETECTORS, MLLMS, RECIPE, Options, Part, Recipe, read_options, read_recipe

if TYPE_CHECKING:
    from lisa_ros.grounded.segmenter import GroundedSegmenter
    from lisa_ros.grounded.weights.load import Place

logger = logging.getLogger(__name__)


def load(
    *,
    model: str,
    device: str,
    precision: str,
    options: dict[str, Any],
    progress: Callable[[float], None] | None,
) -> GroundedSegmenter:
    """The factory of engine ``grounded``.

    Args:
        model: Folder with ``engine.json`` and the parts that it names.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, bf16, fp16 or fp32.
        options: See :class:`lisa_ros.grounded.recipe.Options`.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        ConfigError: An option or the precision cannot be used, or a package is missing.
        CheckpointError: A part is missing, damaged or of another size than its config.json says.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    from lisa_ros.grounded.segmenter import GroundedSegmenter
    from lisa_ros.grounded.weights.load import Place  # here: it imports torch
    from lisa_ros.lisa.out_of_memory import out_of_memory

    chosen = read_options(options)
    recipe = read_recipe(_folder(model))
    if recipe.locator is None and not chosen.endpoint:
        raise ConfigError(
            f"{model} has no locator of its own; set the option endpoint to the URL of a server, such as "
            "http://gpu-box:8000/v1"
        )
    place = Place.pick(device, precision)
    with out_of_memory(f"loading {Path(model).name} as {place.precision} on {place.device}"):
        report = progress or _ignore
        locator, says_why = _locator(recipe, chosen, place)
        report(0.7)
        cutter = _cutter(recipe, place)
        report(1.0)
    return GroundedSegmenter(
        locator,
        cutter,
        device=str(place.device),
        precision=place.precision,
        check=chosen.check == "absence" and says_why,
        use_points=chosen.points,
        capabilities=frozenset({EXPLAIN, HISTORY}) if says_why else frozenset(),
        guard=out_of_memory,
    )


def _folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not (folder / RECIPE).is_file():
        raise CheckpointError(f"{folder} has no {RECIPE}; 'lisa fetch --list' shows the models of this engine")
    return folder


def _locator(recipe: Recipe, options: Options, place: Place) -> tuple[Locator, bool]:
    """The locator, and whether it is a language model, which can explain and confirm."""
    if options.endpoint:
        return _endpoint_locator(options), True
    part = recipe.locator
    assert part is not None, "checked by the caller"
    if part.kind in MLLMS:
        from lisa_ros.grounded.locators.qwen import QwenChat

        dialect = dialect_named(options.dialect or part.dialect)
        return MllmLocator(QwenChat.load(part, place), dialect, **_mllm_options(options)), True
    return _phrase_locator(part, options, place), False


def _endpoint_locator(options: Options) -> Locator:
    """Asks the server for its model now, so that an unknown family is an error now; a server may also come later."""
    from lisa_ros.grounded.locators.endpoint import EndpointChat

    chat = EndpointChat(
        options.endpoint, options.endpoint_model, options.timeout_s, options.jpeg_quality, options.structured
    )
    if options.dialect:
        return MllmLocator(chat, dialect_named(options.dialect), **_mllm_options(options))
    if options.endpoint_model:
        return MllmLocator(chat, dialect_of(options.endpoint_model), **_mllm_options(options))
    try:
        return MllmLocator(chat, dialect_of(chat.resolve()), **_mllm_options(options))
    except NotReady as error:
        logger.warning("%s; asked again with the first command", error)
        return MllmLocator(chat, lambda: dialect_of(chat.resolve()), **_mllm_options(options))


def _phrase_locator(part: Part, options: Options, place: Place) -> Locator:
    if part.kind in DETECTORS:
        from lisa_ros.grounded.locators.detector import DetectorLocator

        return DetectorLocator.load(part, place, options)
    if part.kind == CLIPSEG:
        from lisa_ros.grounded.locators.clipseg import ClipSegLocator

        return ClipSegLocator.load(part, place, options)
    from lisa_ros.grounded.locators.concepts import ConceptLocator

    return ConceptLocator.load(part, place, options)


def _mllm_options(options: Options) -> dict[str, Any]:
    return {
        "max_side": options.max_side,
        "max_objects": options.max_objects,
        "structured": options.structured != "off",
        "think": options.think,
    }


def _cutter(recipe: Recipe, place: Place) -> Cutter | None:
    if recipe.cutter is None:
        return None
    from lisa_ros.grounded.cutters.sam import SamCutter

    return SamCutter.load(recipe.cutter, place)


def _ignore(share: float) -> None:
    del share
