"""From what a camera sees to an object in the tray: look, grip, lift, put down, look again.

Nothing here knows the simulation: ``Arm`` and ``Eyes`` are interfaces, and any robot with a suction cup can have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ABOVE_M = 0.06  # where a guarded descent begins, above the point
PRESS_M = 0.012  # below the point, where it ends without a contact
SAME_M = 0.03  # two looks show the same thing, if its middle has moved by less
APART_M = 0.012  # a point so near to one that failed is not tried
LIFT_M = 0.12  # before the sensor is read again
DROP_M = 0.008  # free height under an object that is put down
TRIES = 5
LIFTED = "lifted"  # the line of the story at this moment


class CannotReach(Exception):
    """The arm cannot go somewhere; the message says where."""


@dataclass(frozen=True, eq=False)
class Point:
    """A place for the cup, world frame. position: (3,) m. normal: (3,) unit vector. score: in [0, 1]."""

    position: NDArray[np.float64]
    normal: NDArray[np.float64]
    score: float


@dataclass(frozen=True, eq=False)
class Seen:
    """One object that an answer marks, world frame.

    Attributes:
        middle: (3,) m, of what is seen of it.
        points: Where to grip it, the best one first.
    """

    middle: NDArray[np.float64]
    points: Sequence[Point]


class Arm(Protocol):
    """A robot with a suction cup that points down. Positions are those of the cup's rim, metres, world frame."""

    def move_to(self, position: NDArray[np.float64], guarded: bool = False) -> None:
        """Along a straight line; guarded: slowly, until the cup touches something. Raises CannotReach."""

    def grip(self) -> None:
        """Vacuum on."""

    def release(self) -> None:
        """Vacuum off."""

    def holds(self) -> bool:
        """Whether the vacuum holds something, as a pressure sensor tells."""

    def park(self) -> None:
        """Out of the camera's view."""

    def position(self) -> NDArray[np.float64]:
        """(3,) of the cup's rim."""


class Eyes(Protocol):
    """A camera and a model."""

    def ask(self, command: str) -> Sequence[Seen]:
        """The objects that the command means, in a picture of now, the largest first; none where it finds nothing."""


class Place(Protocol):
    """Where objects are put down."""

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of its middle, m."""

    def inside(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of the points (N, 3) lie above it: (N,)."""


class Verdict(Enum):
    """How a command ended."""

    PICKED = "picked"
    NOT_FOUND = "not found"
    FAILED = "failed"


class Trouble(Enum):
    """Why an attempt failed; the value is for people."""

    NO_GRIP = "the cup does not hold at this point"
    FELL = "the object fell on the way"
    STILL_THERE = "looked again: it is still on the table"
    NO_POINT = "there is no other point to grip"
    OUT_OF_REACH = "out of reach"


@dataclass
class Outcome:
    """What became of a command.

    Attributes:
        verdict: How it ended.
        target: What was tried last.
        points: Those that were tried, in order.
        troubles: What went wrong, in order.
        story: One line for each step, for people.
        seen_in_tray: Whether the last look saw it there.
    """

    verdict: Verdict = Verdict.FAILED
    target: Seen | None = None
    points: list[Point] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    seen_in_tray: bool = False


class Picker:
    """Picks the first object that a command means, and tries other points where one fails.

    Args:
        arm: Moves.
        eyes: Look.
        tray: Where the object is put.
        travel_m: Height at which objects are carried.
        say: Is given each line of the story when it happens.
    """

    def __init__(
        self, arm: Arm, eyes: Eyes, tray: Place, travel_m: float = 0.6, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.arm, self.eyes, self.tray, self.travel_m, self.say = arm, eyes, tray, travel_m, say

    def pick(self, command: str) -> Outcome:
        """Carries out a command. Ends with the arm parked."""
        outcome = Outcome()
        seen = self._look(command)
        if not seen:
            outcome.verdict = Verdict.NOT_FOUND
            self._say(outcome, "there is nothing like that on the table")
            return outcome
        while len(outcome.points) < TRIES:
            outcome.target = target = seen[0]
            # The rules that propose points take turns: after a failure the next one is asked, not the same one again.
            turn = len(outcome.points) % max(len(target.points), 1)
            points = [*target.points[turn:], *target.points[:turn]]
            point = next((p for p in points if all(apart(p.position, old.position) for old in outcome.points)), None)
            if point is None:
                self._fail(outcome, Trouble.NO_POINT)
                break
            outcome.points.append(point)
            placed = self._carry(target, point, outcome)
            self.arm.park()
            again = self.eyes.ask(command)
            outcome.seen_in_tray = any(self._is_in_tray(other) for other in again)
            if outcome.seen_in_tray:
                self._say(outcome, "looked again: it is in the tray")
                outcome.verdict = Verdict.PICKED
                break
            on_table = [other for other in again if not self._is_in_tray(other)]
            if placed and all(apart(other.middle, target.middle, SAME_M) for other in on_table):
                self._say(outcome, "looked again: it is gone from its place")
                outcome.verdict = Verdict.PICKED
                break
            seen = on_table or seen
            self._fail(outcome, Trouble.STILL_THERE)
        return outcome

    def _look(self, command: str) -> list[Seen]:
        """What the command means and is not in the tray already."""
        self.arm.park()
        return [one for one in self.eyes.ask(command) if not self._is_in_tray(one)]

    def _carry(self, target: Seen, point: Point, outcome: Outcome) -> bool:
        """Grips at a point and puts into the tray. Returns whether the cup held the object all the way."""
        arm, up = self.arm, np.array([0, 0, 1.0])
        try:
            self._travel_to(point.position)
            arm.grip()
            arm.move_to(point.position + ABOVE_M * up)
            arm.move_to(point.position - PRESS_M * up, guarded=True)
            touched = arm.position()
            if not arm.holds():
                self._fail(outcome, Trouble.NO_GRIP)
                return False
            arm.move_to(touched + LIFT_M * up)
            if not arm.holds():
                self._fail(outcome, Trouble.FELL)
                return False
            self._say(outcome, LIFTED)
            arm.move_to(np.append(touched[:2], self.travel_m))
            # The middle of the object goes to the middle of the tray, not the point where it is held.
            goal = np.append(np.array(self.tray.centre) - (target.middle - point.position)[:2], self.travel_m)
            arm.move_to(goal)
            arm.move_to(np.append(goal[:2], max(touched[2], 0.0) + DROP_M), guarded=True)
            if not arm.holds():
                self._fail(outcome, Trouble.FELL)
                return False
            self._say(outcome, "put into the tray")
            return True
        except CannotReach as error:
            self._fail(outcome, Trouble.OUT_OF_REACH, str(error))
            return False
        finally:
            arm.release()
            self._retreat()

    def _retreat(self) -> None:
        """Straight up, as high as the arm reaches here."""
        x, y, z = self.arm.position()
        for height in np.linspace(self.travel_m, z, 6)[:-1]:
            try:
                self.arm.move_to(np.array([x, y, height]))
                return
            except CannotReach:
                continue

    def _travel_to(self, position: NDArray[np.float64]) -> None:
        """Up, and over the position."""
        here = self.arm.position()
        if here[2] < self.travel_m:
            self.arm.move_to(np.append(here[:2], self.travel_m))
        self.arm.move_to(np.append(position[:2], self.travel_m))

    def _is_in_tray(self, one: Seen) -> bool:
        return bool(self.tray.inside(one.middle[None])[0])

    def _fail(self, outcome: Outcome, trouble: Trouble, line: str = "") -> None:
        outcome.troubles.append(trouble)
        self._say(outcome, line or trouble.value)

    def _say(self, outcome: Outcome, line: str) -> None:
        outcome.story.append(line)
        self.say(line)


def apart(a: NDArray[np.float64], b: NDArray[np.float64], limit_m: float = APART_M) -> bool:
    """Whether two points are farther from each other than a limit."""
    return float(np.linalg.norm(a - b)) > limit_m
