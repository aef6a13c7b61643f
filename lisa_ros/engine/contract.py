"""Checks of everything that goes into an engine (images, commands) and comes out of it (answers, events).

Valid values of other types are converted: any sequence, numpy numbers, text with characters that UTF-8 lacks. An
invalid value raises an error that names the engine and how to fix it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import (
    CAPABILITIES,
    MAX_LABELS,
    MAX_TARGETS,
    POINTS,
    PROPOSALS,
    Answer,
    Ask,
    EngineInfo,
    Event,
    MaskCrop,
    Region,
    Regions,
    Span,
    Stage,
    Timings,
    Token,
)
from lisa_ros.engine.calibration import Calibration
from lisa_ros.errors import CommandError, ConfigError, ImageError

logger = logging.getLogger(__name__)

SLACK = 1e-5
"""Tolerance for scores outside of [0, 1], which rounding can cause; they are clamped."""


def check_rgb(rgb: NDArray[np.uint8]) -> None:
    """Check an image.

    Raises:
        ImageError: ``rgb`` is not uint8 (H, W, 3) with at least one pixel.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"the image is {what}; a uint8 array of shape (height, width, 3) in RGB order is needed")
    if rgb.shape[0] == 0 or rgb.shape[1] == 0:
        raise ImageError(f"the image is {rgb.shape[1]} x {rgb.shape[0]} pixels; it has no pixels to look at")


def check_info(info: EngineInfo) -> None:
    """Check the description of an engine.

    Raises:
        ConfigError: ``info`` is not an EngineInfo, or a capability does not exist.
    """
    if not isinstance(info, EngineInfo):
        raise ConfigError(f"the engine's info is of type {type(info).__name__}; it must be an EngineInfo")
    known = ", ".join(sorted(CAPABILITIES))
    if isinstance(info.capabilities, str) or not isinstance(info.capabilities, Iterable):
        raise ConfigError(
            f"{info.name} has the capabilities {info.capabilities!r}; give a frozenset of some of {known}"
        )
    if unknown := sorted(set(info.capabilities) - CAPABILITIES):
        raise ConfigError(f"{info.name} has the unknown capability '{unknown[0]}'; give some of {known}")


# --- commands


def checked_ask(ask: Ask, info: EngineInfo) -> Ask:
    """Check a command and convert its values to plain Python types.

    Args:
        ask: The command.
        info: Of the engine.

    Raises:
        CommandError: The engine lacks a capability, or a field has an invalid value.
    """
    if not isinstance(ask.text, str):
        raise CommandError(f"the command is {ask.text!r}; it must be text")
    if isinstance(ask.max_new_tokens, bool) or not isinstance(ask.max_new_tokens, int) or ask.max_new_tokens < 1:
        raise CommandError(f"max_new_tokens is {ask.max_new_tokens!r}; it must be a whole number from 1")
    targets = _targets(ask)
    points = _points(ask)
    box = None if ask.box is None else _box(ask.box)
    supported = ", ".join(sorted(info.capabilities)) or "commands in words only"
    if (points or box is not None) and POINTS not in info.capabilities:
        what = "no points" if points else "neither points nor a box"
        raise CommandError(f"{info.name} takes {what}; it supports {supported}")
    if ask.proposals is not None and PROPOSALS not in info.capabilities:
        raise CommandError(f"{info.name} takes no proposals; it supports {supported}")
    if not ask.text.strip() and not targets and not points and box is None:
        raise CommandError("the command is empty; say what to find, for example 'the thing to drink from'")
    return replace(ask, targets=targets, points=points, point_labels=_labels(ask, len(points)), box=box)


def _targets(ask: Ask) -> tuple[str, ...]:
    if isinstance(ask.targets, str):
        raise CommandError(f"targets is the text {ask.targets!r}; give a sequence of names")
    targets = tuple(ask.targets)
    if len(targets) > MAX_TARGETS:
        raise CommandError(
            f"{len(targets)} targets; at most {MAX_TARGETS} fit into one labels image: send several commands"
        )
    for target in targets:
        if not isinstance(target, str) or not target.strip():
            raise CommandError(f"a target is {target!r}; each must be a name, for example 'cup'")
    return tuple(map(str, targets))


def _points(ask: Ask) -> tuple[tuple[float, float], ...]:
    try:
        points = tuple((float(x), float(y)) for x, y in ask.points)
    except (TypeError, ValueError) as error:
        raise CommandError(f"points are {ask.points!r}; give pairs of x and y in pixels") from error
    if not all(map(math.isfinite, (value for point in points for value in point))):
        raise CommandError(f"points are {list(points)}; they must be finite numbers of pixels")
    return points


def _labels(ask: Ask, count: int) -> tuple[int, ...]:
    labels = tuple(ask.point_labels)
    if labels and len(labels) != count:
        raise CommandError(f"{len(labels)} point_labels for {count} points; give one for each")
    if not all(label in (0, 1) for label in labels):
        raise CommandError(f"point_labels are {list(labels)}; use 1 for on the object, 0 for not on it")
    return tuple(map(int, labels))


def _box(given: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = map(float, given)
    except (TypeError, ValueError) as error:
        raise CommandError(f"the box is {given!r}; give x, y, width and height in pixels") from error
    if not all(map(math.isfinite, (x, y, width, height))):
        raise CommandError(f"the box is {(x, y, width, height)}; it must be finite numbers of pixels")
    if min(width, height) <= 0:
        raise CommandError(f"the box is {width:g} x {height:g} pixels; width and height must be above 0")
    return x, y, width, height


# --- answers


class Contract:
    """Checks the answers and events of one engine about one frame, and converts their values to plain types.

    A ``Region`` or ``MaskCrop`` object that is both in an event and in the answer is converted to one and the same
    object.

    Args:
        info: Of the engine, for errors.
        size: (height, width) of the frame, pixels.
        calibration: Of the model's scores; None leaves them as they are.
    """

    def __init__(self, info: EngineInfo, size: tuple[int, int], calibration: Calibration | None = None) -> None:
        self._name = info.name
        self._size = size
        self._calibration = calibration
        self._regions: dict[int, tuple[Region, Region]] = {}  # id -> (as the engine has it, in plain types)
        self._masks: dict[int, tuple[MaskCrop, MaskCrop]] = {}  # the same

    def answer(self, answer: Answer) -> Answer:
        """The answer in plain types.

        Raises:
            TypeError: A value has a wrong type.
            ValueError: A mask, a score or a span is out of its range.
        """
        if not isinstance(answer, Answer):
            raise TypeError(f"{self._name} returned {type(answer).__name__} instead of an Answer")
        text = self._text(answer.text, "a text")
        absent = tuple(self._text(phrase, "an absent phrase") for phrase in self._sequence(answer.absent, "absent"))
        regions = self._unique(self._sequence(answer.regions, "regions"))
        if len(regions) > MAX_LABELS:
            logger.warning("%s: the answer has %d regions; the first %d are used", self._name, len(regions), MAX_LABELS)
        for region in regions:
            if any(end > len(text) for _, end in region.spans):
                raise ValueError(f"{self._name} returned spans {region.spans} outside its text of {len(text)}")
        if answer.timings is not None and not isinstance(answer.timings, Timings):
            raise TypeError(f"{self._name} returned timings of type {type(answer.timings).__name__}; give a Timings")
        return Answer(text, tuple(regions[:MAX_LABELS]), absent, answer.timings or Timings(), answer.details)

    def event(self, event: Event) -> Event:
        """The event in plain types.

        Raises:
            TypeError: A value has a wrong type.
            ValueError: A mask, a score or a span is out of its range.
        """
        if isinstance(event, Regions):
            return Regions(tuple(self._unique(self._sequence(event.regions, "regions"))))
        if isinstance(event, Token):
            return Token(self._text(event.text, "a text"))
        if isinstance(event, Stage):
            return Stage(self._text(event.name, "a stage"))
        raise TypeError(f"{self._name} sent an event of type {type(event).__name__}; send Stage, Token or Regions")

    def _sequence(self, values: Any, what: str) -> list[Any]:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{self._name} gave {what} of type {type(values).__name__}; it must be a sequence")
        return list(values)

    def _text(self, text: Any, what: str) -> str:
        """Replaces characters that UTF-8 lacks, one by one, so that spans stay valid."""
        if not isinstance(text, str):
            raise TypeError(f"{self._name} gave {what} of type {type(text).__name__}; it must be str")
        return str(text).encode("utf-8", "replace").decode("utf-8")

    def _unique(self, regions: list[Any]) -> list[Region]:
        plain = [self._region(region) for region in regions]
        return list({id(region): region for region in plain}.values())

    def _region(self, region: Any) -> Region:
        if id(region) not in self._regions:
            self._regions[id(region)] = (region, self._plain(region))
        return self._regions[id(region)][1]

    def _plain(self, region: Any) -> Region:
        if not isinstance(region, Region):
            raise TypeError(f"{self._name} returned a region of type {type(region).__name__}; it must be a Region")
        try:
            score = float(region.score)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self._name} returned the score {region.score!r}; it must be a number") from error
        if not -SLACK <= score <= 1 + SLACK:
            raise ValueError(f"{self._name} returned the score {score}; it must be a number in [0, 1]")
        phrase = self._text(region.phrase, "a phrase")
        score = min(max(score, 0.0), 1.0)
        if self._calibration is not None:
            score = self._calibration.probability(score)
        if id(region.mask) not in self._masks:
            self._masks[id(region.mask)] = (region.mask, self._mask(region.mask))
        mask = self._masks[id(region.mask)][1]
        return Region(mask, score, phrase, self._spans(region.spans))

    def _spans(self, spans: tuple[Span, ...]) -> tuple[Span, ...]:
        if any(not 0 <= begin <= end for begin, end in spans):
            raise ValueError(f"{self._name} returned the spans {spans}; they must be (begin, end) of the text")
        return spans

    def _mask(self, mask: Any) -> MaskCrop:
        if not isinstance(mask, MaskCrop):
            raise TypeError(f"{self._name} returned a mask of type {type(mask).__name__}; make it with crop_mask")
        pixels = mask.pixels
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.shape != (mask.height, mask.width)
            or min(mask.x, mask.y) < 0
        ):
            what = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(
                f"{self._name} returned a mask of {what} for {mask.width} x {mask.height} pixels at ({mask.x}, "
                f"{mask.y}); make it with crop_mask"
            )
        covered = int(np.count_nonzero(pixels))
        if covered != mask.area or np.count_nonzero(pixels == 255) != covered:
            raise ValueError(
                f"{self._name} returned a mask whose pixels are not 0 or 255, or whose area {mask.area} is not the "
                f"{covered} pixels that it covers; make it with crop_mask"
            )
        if mask.x + mask.width > self._size[1] or mask.y + mask.height > self._size[0]:
            raise ValueError(
                f"{self._name}: a mask lies at x {mask.x}, y {mask.y}, {mask.width} x {mask.height} pixels; the image "
                f"has {self._size[1]} x {self._size[0]}: resize the mask to the image first"
            )
        x, y, width, height = int(mask.x), int(mask.y), int(mask.width), int(mask.height)
        centroid = (float(mask.centroid[0]), float(mask.centroid[1]))
        area = int(mask.area)
        return MaskCrop(
            mask.label, x, y, width, height, np.ascontiguousarray(pixels), float(mask.score), area, centroid
        )
