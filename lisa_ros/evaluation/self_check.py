"""A self-test of any engine in about a minute: photographs, drawn squares, an absent target and a cancel.

It says whether a model is usable on this machine, not how good it is: that is what ``evaluate`` measures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Answer, Ask
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import Cancelled, LisaError
from lisa_ros.evaluation.metrics import overlap
from lisa_ros.perception.masks import union_image
from lisa_ros.perception.photo import read_picture_file

PICTURES = Path(__file__).parent / "check_pictures"

GOOD_IOU = 0.5
"""From this IoU on, a mask shows the target."""

GOOD_CANCEL_S = 2.0
"""Longest time from a cancel to its end, seconds."""

SEEN_SIDE = 1024
"""Longest side of a picture as most models see it, pixels."""

CANCEL_AFTER_S = 0.02
"""When the cancel comes, seconds after its command."""

SKEW = 0.1
"""Shifts beyond this share of the picture, and scales that differ from 1 by more, are faults of the coordinates."""


class Verdict(IntEnum):
    """Of one check, and of all of them; the value is the exit code of ``lisa check``."""

    GOOD = 0
    BROKEN = 1
    POOR = 3


@dataclass(frozen=True)
class Line:
    """The result of one check.

    Args:
        group: photograph, square, absent or cancel.
        name: What was asked, and about which picture.
        verdict: GOOD, POOR, or BROKEN for an error.
        iou: Of the answer's masks with the truth; None where there is no truth.
        to_mask_s: Seconds to the first mask, with the encoding for the first command about a picture; None without one.
        words: What is wrong; empty if nothing is.
    """

    group: str
    name: str
    verdict: Verdict
    iou: float | None = None
    to_mask_s: float | None = None
    words: str = ""


@dataclass
class SelfCheck:
    """The results so far.

    Args:
        lines: In the order of the checks.
        remarks: What the engine itself has noticed, and what the squares say about its coordinates.
    """

    lines: list[Line] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def verdict(self, group: str) -> Verdict:
        """Of one group: a share of its checks must be good."""
        verdicts = [line.verdict for line in self.lines if line.group == group]
        if Verdict.BROKEN in verdicts:
            return Verdict.BROKEN
        return Verdict.GOOD if verdicts.count(Verdict.GOOD) >= ENOUGH[group] * len(verdicts) else Verdict.POOR

    @property
    def whole(self) -> Verdict:
        """BROKEN if anything is, else GOOD if every group is."""
        verdicts = [self.verdict(group) for group in ENOUGH]
        return Verdict.BROKEN if Verdict.BROKEN in verdicts else max(verdicts)


ENOUGH = {"photograph": 0.7, "square": 0.8, "absent": 1.0, "cancel": 1.0}
"""Group -> share of its checks that must be good."""


@dataclass(frozen=True)
class Photograph:
    """One bundled picture. targets: command -> value in the picture's mask file. absent: what is not in it."""

    name: str
    targets: dict[str, int]
    absent: str = ""

    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        return read_picture_file(PICTURES / f"{self.name}.jpg")

    def truth(self, value: int) -> NDArray[np.bool_]:
        """(H, W) bool."""
        return read_picture_file(PICTURES / f"{self.name}.png")[:, :, 0] == value


PHOTOGRAPHS = (
    Photograph("coffee", {"the coffee cup": 1, "the saucer": 2, "the spoon": 3}, absent="the bicycle"),
    Photograph("astronaut", {"the black helmet": 1, "the round badge": 2}),
    Photograph("cat", {"the eyes of the cat": 1, "the nose of the cat": 2}, absent="the screwdriver"),
)


@dataclass(frozen=True)
class Square:
    """A drawn picture with a red square. size: (height, width) of the picture. x, y: corner. side: pixels."""

    size: tuple[int, int]
    x: int
    y: int
    side: int

    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3): a red square and a smaller blue one on soft grey."""
        height, width = self.size
        ramp = np.linspace(150, 215, width, dtype=np.float32)[None] + np.linspace(-20, 20, height)[:, None]
        rgb = np.repeat(ramp.astype(np.uint8)[:, :, None], 3, axis=2)
        small = self.side // 2
        x, y = (self.x + width // 2) % (width - small), (self.y + height // 2) % (height - small)
        cv2.rectangle(rgb, (x, y), (x + small - 1, y + small - 1), (40, 70, 210), -1)
        cv2.rectangle(rgb, (self.x, self.y), (self.x + self.side - 1, self.y + self.side - 1), (215, 25, 25), -1)
        return rgb

    def truth(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        truth = np.zeros(self.size, bool)
        truth[self.y : self.y + self.side, self.x : self.x + self.side] = True
        return truth


SQUARES = (
    Square((480, 640), 60, 50, 120),
    Square((720, 1280), 980, 460, 180),
    Square((640, 360), 200, 90, 100),
    Square((512, 512), 330, 340, 110),
    Square((300, 1000), 640, 150, 90),
)

OnLine = Callable[[Line], object]


def self_check(engine: SupportedEngine, on_line: OnLine | None = None) -> SelfCheck:
    """Run all checks.

    Args:
        engine: Is asked.
        on_line: Called with each result.

    Returns:
        All results. An error of the engine is a result, too.
    """
    check = SelfCheck()
    places: list[Place] = []
    for line in _lines(engine, places):
        check.lines.append(line)
        if on_line is not None:
            on_line(line)
    check.remarks += coordinate_faults(places)
    own = getattr(engine.engine, "remarks", None)
    check.remarks += [str(remark) for remark in own()] if callable(own) else []
    return check


def _lines(engine: SupportedEngine, places: list[Place]) -> Iterator[Line]:
    for photograph in PHOTOGRAPHS:
        frame = _Frame(engine, photograph.rgb())
        for command, value in photograph.targets.items():
            name = f"{command} ({photograph.name})"
            yield _found(frame, "photograph", name, command, photograph.truth(value))[0]
        if photograph.absent:
            yield _absent(frame, photograph)
    for square in SQUARES:
        truth = square.truth()
        name = f"the red square ({square.size[1]} x {square.size[0]})"
        line, mask = _found(_Frame(engine, square.rgb()), "square", name, "the red square", truth)
        if mask is not None and mask.any():
            size = np.array(square.size[::-1], np.float64)
            places.append(Place(size, _centre(truth) / size, _centre(mask) / size))
        yield line
    yield _cancel(engine)


class _Frame:
    """A picture that is encoded with its first command."""

    def __init__(self, engine: SupportedEngine, rgb: NDArray[np.uint8]) -> None:
        self._engine, self._rgb = engine, rgb
        self._encoded: Encoded | None = None

    def ask(self, command: str) -> tuple[Answer, float]:
        """The answer, and the seconds until its first mask; those of the encoding count for the first command."""
        begun = time.perf_counter()
        if self._encoded is None:
            self._encoded = self._engine.encode(self._rgb)
        encode_s = time.perf_counter() - begun
        answer = self._engine.ask(self._encoded, Ask(command))
        return answer, encode_s + answer.timings.first_mask_s


def _found(
    frame: _Frame, group: str, name: str, command: str, truth: NDArray[np.bool_]
) -> tuple[Line, NDArray[np.bool_] | None]:
    try:
        answer, seconds = frame.ask(command)
    except Exception as error:  # whatever an engine raises is a result
        return _broken(group, name, error), None
    mask = union_image([region.mask for region in answer.regions], truth.shape) > 0
    iou = overlap(mask, truth).iou
    to_mask_s = seconds if answer.found else None
    good = iou >= GOOD_IOU
    return Line(group, name, _judged(good), iou, to_mask_s, "" if good else _what_is_wrong(mask, truth)), mask


def _what_is_wrong(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> str:
    if not mask.any():
        return "no mask"
    shared = np.count_nonzero(mask & truth)
    if not shared:
        return "the mask is of something else"
    if shared > 0.9 * np.count_nonzero(truth):
        return "the mask holds the target and more"
    if shared > 0.9 * np.count_nonzero(mask):
        return "the mask is a part of the target"
    return "the mask is beside the target"


def _absent(frame: _Frame, photograph: Photograph) -> Line:
    name = f"{photograph.absent} ({photograph.name}, not there)"
    try:
        answer, _ = frame.ask(photograph.absent)
    except Exception as error:
        return _broken("absent", name, error)
    words = f"{len(answer.regions)} mask{'s' if len(answer.regions) > 1 else ''} of what is not there"
    return Line("absent", name, _judged(not answer.found), words=words if answer.found else "")


def _cancel(engine: SupportedEngine) -> Line:
    """A cancel in the middle of a command, and the next command after it."""
    name = "a cancel, and the next command"
    begun = 0.0

    def should_stop() -> bool:
        return time.perf_counter() > begun + CANCEL_AFTER_S

    try:
        encoded = engine.encode(SQUARES[0].rgb())
        begun = time.perf_counter()
        _ask_until(engine, encoded, should_stop)
        took_s = time.perf_counter() - begun - CANCEL_AFTER_S
        engine.ask(encoded, Ask("the red square"))
    except Exception as error:
        return _broken("cancel", name, error)
    if took_s <= 0:
        return Line("cancel", name, Verdict.GOOD, words="answered before it could be canceled")
    words = f"took {took_s:.1f} s to stop" if took_s > GOOD_CANCEL_S else ""
    return Line("cancel", name, _judged(not words), words=words)


def _ask_until(engine: SupportedEngine, encoded: Encoded, should_stop: Callable[[], bool]) -> None:
    with contextlib.suppress(Cancelled):
        engine.ask(encoded, Ask("the red square", explain=True), should_stop=should_stop)


def _broken(group: str, name: str, error: Exception) -> Line:
    kind = "" if isinstance(error, LisaError) else f"{type(error).__name__}: "
    return Line(group, name, Verdict.BROKEN, words=kind + " ".join(str(error).split()))


def _judged(good: bool) -> Verdict:
    return Verdict.GOOD if good else Verdict.POOR


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


@dataclass(frozen=True, eq=False)
class Place:
    """Where a square is, and where it was found. size: (width, height) of the picture. Centres (2,): shares of it."""

    size: NDArray[np.float64]
    true: NDArray[np.float64]
    found: NDArray[np.float64]


def coordinate_faults(places: Sequence[Place]) -> list[str]:
    """What the places of the squares say about an engine's coordinates.

    Returns:
        Faults in words; empty if there are none, or too few squares to tell.
    """
    if len(places) < 3:
        return []
    true, found = np.array([place.true for place in places]), np.array([place.found for place in places])  # (N, 2)
    if np.abs(found - true).max() <= SKEW / 2:
        return []
    if _grows_with_size(places):
        return [
            "coordinates are scaled by the size of the picture: pixels read as shares, or shares as pixels; set the "
            "option dialect"
        ]
    faults = []
    for axis, name in enumerate(("x", "y")):
        scale, shift = np.polyfit(true[:, axis], found[:, axis], 1)
        rest = found[:, axis] - (scale * true[:, axis] + shift)
        if np.abs(rest).max() > SKEW:
            continue  # not one scale and shift: the squares were not recognised
        if abs(scale - 1) > SKEW:
            faults.append(
                f"{name} is scaled by {scale:.2f}: the coordinates are of another frame; set the option dialect, or "
                "have the server leave the size of pictures alone"
            )
        elif abs(shift) > SKEW / 2:
            faults.append(f"{name} is shifted by {shift:+.0%} of the picture: the server crops or pads pictures")
    return faults


def _grows_with_size(places: Sequence[Place]) -> bool:
    """Whether found over true places is the size of the picture, as models see it, times a constant; or its inverse."""
    ratios = np.array([place.found / place.true for place in places])
    sizes = np.array([place.size * min(1.0, SEEN_SIDE / place.size.max()) for place in places])
    return any(np.ptp(constants) < 2 * SKEW * constants.mean() for constants in (ratios / sizes, ratios * sizes))


def table(check: SelfCheck) -> str:
    """The groups and the whole, for the terminal."""
    lines = [f"{group:12}{_word(check.verdict(group)):8}{_counts(check, group)}" for group in ENOUGH]
    lines += [f"note: {remark}" for remark in check.remarks]
    whole = {
        Verdict.GOOD: "usable on this machine",
        Verdict.POOR: "works, but misses the quality; see docs/models.md for other models",
        Verdict.BROKEN: "broken; see the errors above",
    }
    return "\n".join([*lines, f"=> {whole[check.whole]}"])


def row(line: Line) -> str:
    """One result, for the terminal."""
    iou = f"{line.iou:.2f}" if line.iou is not None else "-"
    seconds = f"{line.to_mask_s:.2f} s" if line.to_mask_s is not None else "-"
    return f"{line.name:46}{iou:>5}{seconds:>10}  {_word(line.verdict)}{f': {line.words}' if line.words else ''}"


HEADER = f"{'asked for':46}{'IoU':>5}{'to mask':>10}"


def _word(verdict: Verdict) -> str:
    return verdict.name.lower()


def _counts(check: SelfCheck, group: str) -> str:
    lines = [line for line in check.lines if line.group == group]
    good = sum(line.verdict == Verdict.GOOD for line in lines)
    ious = [line.iou for line in lines if line.iou is not None]
    mean = f", mean IoU {np.mean(ious):.2f}" if ious else ""
    return f"{good} of {len(lines)} good{mean}"
