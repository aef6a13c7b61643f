"""An engine with everything that holds for all engines: checks before the question, one ask for each target."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import (
    CAPABILITIES,
    EXPLAIN,
    HISTORY,
    MAX_TARGETS,
    POINTS,
    PROPOSALS,
    TARGETS,
    TEACHER_FORCED,
    Answer,
    Ask,
    Engine,
    EngineInfo,
    Event,
    MaskCrop,
    OnEvent,
    Region,
    Regions,
    ShouldStop,
    Stage,
    TeacherForced,
    Timings,
    Token,
    Turn,
)
from lisa_ros.errors import Cancelled, CommandError, ConfigError, ImageError

logger = logging.getLogger(__name__)

SLACK = 1e-5
"""A score may be outside [0, 1] by as much: it is rounded."""


def check_rgb(rgb: NDArray[np.uint8]) -> None:
    """Raise ImageError unless ``rgb`` is uint8 (H, W, 3) with at least one pixel."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"the image is {what}; a uint8 array of shape (height, width, 3) in RGB order is needed")
    if rgb.shape[0] == 0 or rgb.shape[1] == 0:
        raise ImageError(f"the image is {rgb.shape[1]} x {rgb.shape[0]} pixels; it has no pixels to look at")


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded frame: its size (height, width) in pixels, and the engine's own value."""

    size: tuple[int, int]
    value: Any


class SupportedEngine:
    """Wraps any engine. ``load_engine`` returns one, so node, CLI, bag and evaluation share these rules.

    - What the engine lacks is answered before it is asked: CommandError for points, box and proposals; ``explain`` and
      ``history`` are left out.
    - ``targets`` work with every engine: one without the capability is asked once for each.
    """

    def __init__(self, engine: Engine) -> None:
        """Raises ConfigError where ``engine`` does not have ``info``, ``encode`` and ``ask``, or its info is wrong."""
        missing = [name for name in ("info", "encode", "ask") if not hasattr(engine, name)]
        if missing:
            raise ConfigError(f"{type(engine).__name__} is not an engine: it has no {', '.join(missing)}")
        check_info(engine.info)
        self.engine = engine
        self._history_warned = False

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def encode(self, rgb: NDArray[np.uint8]) -> Encoded:
        """As :meth:`Engine.encode`, for an image that was checked. Raises ImageError."""
        check_rgb(rgb)
        return Encoded(rgb.shape[:2], self.engine.encode(rgb))

    def check(self, ask: Ask) -> None:
        """Raise CommandError for a question that this engine cannot be asked; costs no inference."""
        check_ask(ask, self.info)

    def ask(
        self,
        encoded: Encoded,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """As :meth:`Engine.ask`, for any question that passes :meth:`check`."""
        self.check(ask)
        ask = self._without_unsupported(ask)
        on_event, should_stop = on_event or _ignore, should_stop or _never
        if ask.targets and TARGETS not in self.info.capabilities:
            return self._ask_each(encoded, ask, on_event, should_stop, details)
        return self._ask_engine(encoded, ask, on_event, should_stop, details)

    def teacher_forced(self, encoded: Encoded, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """As :meth:`TeacherForced.teacher_forced`. Raises CommandError where the engine lacks it."""
        if TEACHER_FORCED not in self.info.capabilities or not isinstance(self.engine, TeacherForced):
            raise CommandError(f"{self.info.name} has no teacher-forced answers; leave them out")
        return self.engine.teacher_forced(encoded.value, asks, answers)

    def _ask_engine(
        self, encoded: Encoded, ask: Ask, on_event: OnEvent, should_stop: ShouldStop, details: bool
    ) -> Answer:
        """The engine's answer, checked; its total time is measured here where the engine gives no timings."""
        begun = time.perf_counter()

        def checked(event: Event) -> None:
            check_event(event, self.info, encoded.size)
            on_event(event)

        answer = self.engine.ask(encoded.value, ask, checked, should_stop, details)
        check_answer(answer, self.info, encoded.size)
        if answer.timings == Timings():
            total_s = time.perf_counter() - begun
            timings = Timings(generate_s=total_s, first_mask_s=total_s if answer.regions else 0.0, total_s=total_s)
            answer = replace(answer, timings=timings)
        return answer

    def _without_unsupported(self, ask: Ask) -> Ask:
        capabilities = self.info.capabilities
        if ask.explain and EXPLAIN not in capabilities:
            ask = replace(ask, explain=False)
        if ask.history is not None and HISTORY not in capabilities:
            if not self._history_warned:
                logger.warning("%s keeps no history: each command of a session stands alone", self.info.name)
                self._history_warned = True
            ask = replace(ask, history=None)
        return ask

    def _ask_each(
        self, encoded: Encoded, ask: Ask, on_event: OnEvent, should_stop: ShouldStop, details: bool
    ) -> Answer:
        """One ask for each target; texts joined by newlines, spans shifted."""
        texts: list[str] = []
        regions: list[Region] = []
        absent: list[str] = []
        answers: list[Answer] = []
        for target in ask.targets:
            if should_stop():
                raise Cancelled("canceled between two targets")
            watch = _Shifted(on_event, "".join(f"{text}\n" for text in texts), target)
            one = replace(ask, text=target, targets=(), history=None)
            answer = self._ask_engine(encoded, one, watch, should_stop, details)
            # Regions that were sent keep their identity, so that none is sent twice.
            of_target = [watch.shifted(region) for region in answer.regions]
            if not any(region.mask.area for region in of_target):
                absent.append(target)
            texts.append(answer.text)
            regions += of_target
            answers.append(answer)
        text = "\n".join(texts)
        if ask.history is not None:
            ask.history.append(Turn(", ".join(ask.targets), text))
        return Answer(text, regions, tuple(dict.fromkeys(absent)), _sum(answers), _joined_details(answers, details))


class _Shifted:
    """Passes one target's events on as part of the whole answer."""

    def __init__(self, on_event: OnEvent, before: str, target: str) -> None:
        self._on_event = on_event
        self._before = before
        self._target = target
        self._regions: dict[int, tuple[Region, Region]] = {}  # id -> (as the engine has it, as it is passed on)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Token):
            event = Token(self._before + event.text)
        elif isinstance(event, Regions):
            event = Regions([self.shifted(region) for region in event.regions])
        self._on_event(event)

    def shifted(self, region: Region) -> Region:
        if id(region) not in self._regions:
            by = len(self._before)
            spans = tuple((begin + by, end + by) for begin, end in region.spans)
            moved = replace(region, phrase=region.phrase or self._target, spans=spans, span=None)
            self._regions[id(region)] = (region, moved)
        return self._regions[id(region)][1]


def check_ask(ask: Ask, info: EngineInfo) -> None:
    """Raise CommandError unless an engine with ``info`` can be asked this."""
    supported = ", ".join(sorted(info.capabilities)) or "commands in words only"
    if (len(ask.points) or ask.box is not None) and POINTS not in info.capabilities:
        what = "no points" if len(ask.points) else "neither points nor a box"
        raise CommandError(f"{info.name} takes {what}; it supports {supported}")
    if ask.proposals is not None and PROPOSALS not in info.capabilities:
        raise CommandError(f"{info.name} takes no proposals; it supports {supported}")
    if any(len(point) != 2 for point in ask.points):
        raise CommandError(f"points are {list(ask.points)}; give pairs of x and y in pixels")
    if ask.box is not None and len(ask.box) != 4:
        raise CommandError(f"the box is {ask.box}; give x, y, width and height in pixels")
    if len(ask.point_labels) and len(ask.point_labels) != len(ask.points):
        raise CommandError(f"{len(ask.point_labels)} point_labels for {len(ask.points)} points; give one for each")
    if not all(label in (0, 1) for label in ask.point_labels):
        raise CommandError(f"point_labels are {list(ask.point_labels)}; use 1 for on the thing, 0 for not on it")
    if not np.isfinite(np.array([*np.ravel(list(ask.points)), *(ask.box or ())], float)).all():
        raise CommandError("points and box must be finite numbers of pixels")
    if ask.box is not None and min(ask.box[2:]) <= 0:
        raise CommandError(f"the box is {ask.box[2]:g} x {ask.box[3]:g} pixels; width and height must be above 0")
    if isinstance(ask.targets, str):
        raise CommandError(f"targets is the text {ask.targets!r}; give a sequence of names")
    if len(ask.targets) > MAX_TARGETS:
        raise CommandError(f"{len(ask.targets)} targets; at most {MAX_TARGETS} fit into a labels image, ask in parts")
    for target in ask.targets:
        if not isinstance(target, str) or not target.strip():
            raise CommandError(f"a target is {target!r}; each must be a name, for example 'cup'")
    if not isinstance(ask.text, str):
        raise CommandError(f"the command is {ask.text!r}; it must be text")
    if not ask.text.strip() and not ask.targets and not len(ask.points) and ask.box is None:
        raise CommandError("the command is empty; say what to find, for example 'the thing to drink from'")


def check_answer(answer: Answer, info: EngineInfo, size: tuple[int, int]) -> None:
    """Raise TypeError or ValueError that names what is wrong with the answer about a frame of ``size`` (H, W)."""
    if not isinstance(answer, Answer):
        raise TypeError(f"{info.name} returned {type(answer).__name__} instead of an Answer")
    if not isinstance(answer.text, str):
        raise TypeError(f"{info.name} returned a text of type {type(answer.text).__name__}; it must be str")
    for name in ("regions", "absent"):
        value = getattr(answer, name)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError(f"{info.name} returned {name} of type {type(value).__name__}; it must be a list or a tuple")
    for region in answer.regions:
        _check_region(region, info, size)
        if any(not 0 <= begin <= end <= len(answer.text) for begin, end in region.spans):
            raise ValueError(f"{info.name} returned spans {region.spans} outside its text of {len(answer.text)}")


def check_event(event: Event, info: EngineInfo, size: tuple[int, int]) -> None:
    """Raise TypeError or ValueError that names what is wrong with an event about a frame of ``size`` (H, W)."""
    if isinstance(event, Regions):
        for region in event.regions:
            _check_region(region, info, size)
    elif isinstance(event, Token):
        if not isinstance(event.text, str):
            raise TypeError(f"{info.name} sent a text of type {type(event.text).__name__}; it must be str")
    elif not isinstance(event, Stage):
        raise TypeError(f"{info.name} sent an event of type {type(event).__name__}; send Stage, Token or Regions")


def check_info(info: EngineInfo) -> None:
    """Raise ConfigError unless ``info`` is an EngineInfo whose capabilities exist."""
    if not isinstance(info, EngineInfo):
        raise ConfigError(f"the engine's info is of type {type(info).__name__}; it must be an EngineInfo")
    if isinstance(info.capabilities, str) or (unknown := sorted(set(info.capabilities) - CAPABILITIES)):
        what = repr(info.capabilities) if isinstance(info.capabilities, str) else f"'{unknown[0]}'"
        known = ", ".join(sorted(CAPABILITIES))
        raise ConfigError(f"{info.name} has the unknown capability {what}; give a frozenset of some of {known}")


def _check_region(region: Region, info: EngineInfo, size: tuple[int, int]) -> None:
    if not isinstance(region, Region):
        raise TypeError(f"{info.name} returned a region of type {type(region).__name__}; it must be a Region")
    _check_mask(region.mask, info, size)
    if not -SLACK <= region.score <= 1 + SLACK:
        raise ValueError(f"{info.name} returned the score {region.score}; it must be a number in [0, 1]")


def _check_mask(mask: MaskCrop, info: EngineInfo, size: tuple[int, int]) -> None:
    if not isinstance(mask, MaskCrop):
        raise TypeError(f"{info.name} returned a mask of type {type(mask).__name__}; make it with crop_mask")
    pixels = mask.pixels
    if pixels.dtype != np.uint8 or pixels.shape != (mask.height, mask.width) or min(mask.x, mask.y) < 0:
        raise ValueError(
            f"{info.name} returned a mask of {pixels.dtype} {pixels.shape} for {mask.width} x {mask.height} pixels at "
            f"({mask.x}, {mask.y}); make it with crop_mask"
        )
    if mask.x + mask.width > size[1] or mask.y + mask.height > size[0]:
        raise ValueError(
            f"{info.name}: a mask lies at x {mask.x}, y {mask.y}, {mask.width} x {mask.height} pixels; the image has "
            f"{size[1]} x {size[0]}: resize the mask to the image first"
        )


def numbered(region: Region, label: int) -> Region:
    """``region`` whose mask has ``label`` and the region's score."""
    return replace(region, mask=replace(region.mask, label=label, score=float(region.score)))


def _sum(answers: Sequence[Answer]) -> Timings:
    """Of asks that ran one after another."""
    first_mask_s = before_s = 0.0
    for answer in answers:
        if not first_mask_s and answer.timings.first_mask_s:
            first_mask_s = before_s + answer.timings.first_mask_s
        before_s += answer.timings.total_s
    total = {
        name: sum(getattr(answer.timings, name) for answer in answers)
        for name in ("encode_s", "generate_s", "decode_s", "total_s")
    }
    return Timings(first_mask_s=first_mask_s, **total)


def _joined_details(answers: Sequence[Answer], wanted: bool) -> dict[str, Any] | None:
    """Arrays joined along the masks; ``answer_ids`` becomes a list of lists."""
    if not wanted:
        return None
    every = [answer.details or {} for answer in answers]
    joined: dict[str, Any] = {}
    for name in dict.fromkeys(name for details in every for name in details):
        values = [details[name] for details in every if name in details]
        arrays = all(isinstance(value, np.ndarray) for value in values)
        joined[name] = np.concatenate(values) if arrays else list(values)
    return joined


def _ignore(event: Event) -> None:
    del event


def _never() -> bool:
    return False


__all__ = [
    "Encoded",
    "SupportedEngine",
    "check_answer",
    "check_ask",
    "check_event",
    "check_info",
    "check_rgb",
    "numbered",
]
