"""What holds for all engines: checks of commands and answers, and targets for engines that do not support them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import (
    EXPLAIN,
    HISTORY,
    MAX_LABELS,
    TARGETS,
    TEACHER_FORCED,
    Answer,
    Ask,
    Engine,
    EngineInfo,
    Event,
    OnEvent,
    Proposals,
    ProposesMasks,
    Region,
    Regions,
    ShouldStop,
    TeacherForced,
    Timings,
    Token,
    Turn,
)
from lisa_ros.engine.calibration import Calibration
from lisa_ros.engine.contract import Contract, check_info, check_rgb, checked_ask
from lisa_ros.errors import Cancelled, CommandError, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded frame.

    Args:
        size: (height, width) of the frame, pixels.
        value: The value that the engine's ``encode`` returned.
    """

    size: tuple[int, int]
    value: Any


class SupportedEngine:
    """Wraps any engine. ``load_engine`` returns one, so node, command line, bag and evaluation share these rules.

    - Points, a box or proposals that the engine does not support raise CommandError before any inference.
    - ``explain`` and ``history`` are ignored if the engine does not support them.
    - ``targets`` work with every engine: without the capability, the engine answers each target alone.
    - Answers and events are checked; an invalid one raises TypeError or ValueError.

    Args:
        engine: Any object with ``info``, ``encode`` and ``ask``.
        calibration: Turns its scores into probabilities; None leaves them as they are.

    Raises:
        ConfigError: An attribute is missing, or ``info`` is invalid.
    """

    def __init__(self, engine: Engine, calibration: Calibration | None = None) -> None:
        missing = [name for name in ("info", "encode", "ask") if not hasattr(engine, name)]
        if missing:
            raise ConfigError(f"{type(engine).__name__} is not an engine: it has no {', '.join(missing)}")
        check_info(engine.info)
        if TEACHER_FORCED in engine.info.capabilities and not isinstance(engine, TeacherForced):
            raise ConfigError(f"{engine.info.name} has the capability {TEACHER_FORCED} and no method of that name")
        self.engine = engine
        self.calibration = calibration
        self._history_warned = False

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def encode(self, rgb: NDArray[np.uint8]) -> Encoded:
        """As :meth:`Engine.encode`, after a check of the image.

        Raises:
            ImageError: ``rgb`` is not uint8 (H, W, 3) with at least one pixel.
        """
        check_rgb(rgb)
        return Encoded(rgb.shape[:2], self.engine.encode(rgb))

    def check(self, ask: Ask) -> None:
        """Check a command without inference.

        Raises:
            CommandError: This engine cannot answer the command.
        """
        checked_ask(ask, self.info)

    def ask(
        self,
        encoded: Encoded,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """As :meth:`Engine.ask`, for any command that passes :meth:`check`."""
        ask = self._without_unsupported(checked_ask(ask, self.info))
        on_event, should_stop = on_event or _ignore, should_stop or _never
        if ask.targets and TARGETS not in self.info.capabilities:
            return self._ask_each(encoded, ask, on_event, should_stop, details)
        return self._ask_engine(encoded, ask, on_event, should_stop, details)

    def teacher_forced(self, encoded: Encoded, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """As :meth:`TeacherForced.teacher_forced`.

        Raises:
            CommandError: The engine has no teacher-forced scores.
        """
        if TEACHER_FORCED not in self.info.capabilities or not isinstance(self.engine, TeacherForced):
            raise CommandError(f"{self.info.name} has no teacher-forced answers; leave them out")
        return self.engine.teacher_forced(encoded.value, asks, answers)

    def proposals(self, encoded: Encoded) -> Proposals:
        """As :meth:`ProposesMasks.proposals`.

        Raises:
            CommandError: The engine proposes no masks.
        """
        if not isinstance(self.engine, ProposesMasks):
            raise CommandError(f"{self.info.name} proposes no masks; choose option family=nearest or family=llm-seg")
        return self.engine.proposals(encoded.value)

    def _ask_engine(
        self, encoded: Encoded, ask: Ask, on_event: OnEvent, should_stop: ShouldStop, details: bool
    ) -> Answer:
        """The engine's answer by the contract; its total time is measured here where the engine gives no timings."""
        begun = time.perf_counter()
        contract = Contract(self.info, encoded.size, self.calibration)

        def checked(event: Event) -> None:
            on_event(contract.event(event))

        answer = self.engine.ask(encoded.value, ask, on_event=checked, should_stop=should_stop, details=details)
        answer = contract.answer(answer)
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
        """One ask for each target, once if it is given twice; texts joined by newlines, spans shifted."""
        texts: list[str] = []
        regions: list[Region] = []
        absent: list[str] = []
        answers: list[Answer] = []
        for target in dict.fromkeys(ask.targets):
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
        if len(regions) > MAX_LABELS:
            logger.warning("%d regions for %d targets; the first %d are used", len(regions), len(texts), MAX_LABELS)
        gone = tuple(dict.fromkeys(absent))
        return Answer(text, tuple(regions[:MAX_LABELS]), gone, _sum(answers), _joined_details(answers, details))


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
            moved = replace(region, phrase=self._target, spans=spans, span=None)
            self._regions[id(region)] = (region, moved)
        return self._regions[id(region)][1]


def numbered(region: Region, label: int) -> Region:
    """``region`` whose mask has ``label`` and the region's score."""
    return replace(region, mask=replace(region.mask, label=label, score=float(region.score)))


def numbered_answer(answer: Answer) -> Answer:
    """``answer`` whose masks have the labels 1, 2, ... in their order, and their regions' scores."""
    return replace(answer, regions=tuple(numbered(region, label) for label, region in enumerate(answer.regions, 1)))


def unanswered(regions: Sequence[Region], absent: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Targets that an answer neither marks nor reports as absent.

    Args:
        regions: Of the answer.
        absent: Of the answer.
        targets: Of the command.
    """
    mentioned = {name.casefold() for name in (*absent, *(region.phrase for region in regions))}
    return [target for target in dict.fromkeys(targets) if target.casefold() not in mentioned]


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
