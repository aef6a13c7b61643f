"""The steps of a pick, with an arm and eyes of the test's own; the cell is in test_cell.py."""

from __future__ import annotations

import numpy as np
import pytest

from lisa_sim.picking import CannotReach, Outcome, Picker, Point, Seen, Trouble, Verdict

UP = np.array([0, 0, 1.0])


class Square:
    """A tray of 30 cm at (1, 0)."""

    centre = (1.0, 0.0)

    def inside(self, points: np.ndarray) -> np.ndarray:
        return (np.abs(points[:, :2] - self.centre) < 0.15).all(axis=1)


class World:
    """One object with some points, of which some hold; the arm and the eyes in one."""

    def __init__(self, holding: set[int], count: int = 3, falls: bool = False, far: bool = False) -> None:
        self.middle = np.array([0.0, 0.0, 0.05])
        self.offsets = [np.array([0.04 * number, 0, 0.05]) for number in range(count)]
        self.holding, self.falls, self.far = holding, falls, far
        self.vacuum = self.held = False
        self.here = np.array([0.0, 0.0, 0.6])
        self.tried: list[int] = []
        self.parked_looks: list[bool] = []
        self.parked = False

    def move_to(self, position: np.ndarray, guarded: bool = False) -> None:
        if self.far and position[2] < 0.5:
            raise CannotReach("(0.00, 0.00, 0.05) m is out of the arm's reach")
        moved, self.here, self.parked = position - self.here, np.array(position), False
        if self.held:
            self.middle = self.middle + moved
            if self.falls and self.here[2] > 0.3:
                self.held, self.middle = False, np.array([0.0, 0.2, 0.05])
        if guarded and self.vacuum and not self.held:
            near = [n for n, o in enumerate(self.points()) if np.linalg.norm(o[:2] - self.here[:2]) < 0.005]
            self.tried += near
            self.held = bool(set(near) & self.holding)

    def points(self) -> list[np.ndarray]:
        return [self.middle - [0, 0, 0.05] + offset for offset in self.offsets]

    def grip(self) -> None:
        self.vacuum = True

    def release(self) -> None:
        self.vacuum = self.held = False
        self.middle = np.append(self.middle[:2], 0.05)

    def holds(self) -> bool:
        return self.held

    def park(self) -> None:
        self.parked = True

    def position(self) -> np.ndarray:
        return self.here

    def ask(self, command: str) -> list[Seen]:
        self.parked_looks.append(self.parked)
        if command == "nothing":
            return []
        return [Seen(self.middle, [Point(position, UP, 0.5) for position in self.points()])]


def pick(world: World, command: str = "it") -> Outcome:
    return Picker(world, world, Square()).pick(command)


def test_an_object_is_put_into_the_middle_of_the_tray_and_seen_there() -> None:
    world = World({0})
    outcome = pick(world)
    assert outcome.verdict is Verdict.PICKED
    assert outcome.seen_in_tray
    np.testing.assert_allclose(world.middle[:2], Square.centre, atol=1e-9)
    assert outcome.story == ["lifted", "put into the tray", "looked again: it is in the tray"]


def test_the_arm_is_out_of_view_at_every_look() -> None:
    world = World({2})
    pick(world)
    assert len(world.parked_looks) == 4
    assert all(world.parked_looks)


@pytest.mark.parametrize("good", [1, 2])
def test_another_point_is_tried_where_one_does_not_hold(good: int) -> None:
    world = World({good})
    outcome = pick(world)
    assert outcome.verdict is Verdict.PICKED
    assert world.tried == list(range(good + 1))
    assert outcome.troubles.count(Trouble.NO_GRIP) == good


def test_points_that_failed_are_not_tried_again() -> None:
    world = World(set())
    outcome = pick(world)
    assert outcome.verdict is Verdict.FAILED
    assert world.tried == [0, 1, 2]
    assert outcome.troubles[-1] is Trouble.NO_POINT


def test_an_object_that_falls_is_said_so_and_is_not_taken_for_picked() -> None:
    outcome = pick(World({0, 1, 2}, falls=True))
    assert outcome.verdict is Verdict.FAILED
    assert Trouble.FELL in outcome.troubles


def test_what_the_model_does_not_find_moves_nothing() -> None:
    world = World({0})
    outcome = pick(world, "nothing")
    assert outcome.verdict is Verdict.NOT_FOUND
    assert not world.tried
    assert outcome.story == ["there is nothing like that on the table"]


def test_what_is_out_of_reach_is_said_in_the_arms_words() -> None:
    outcome = pick(World({0}, far=True))
    assert outcome.verdict is Verdict.FAILED
    assert set(outcome.troubles) >= {Trouble.OUT_OF_REACH}
    assert "(0.00, 0.00, 0.05) m is out of the arm's reach" in outcome.story


def test_an_arm_that_cannot_go_straight_up_goes_as_high_as_it_can() -> None:
    class LowArm(World):
        def move_to(self, position: np.ndarray, guarded: bool = False) -> None:
            if position[2] > 0.3 and self.here[2] < 0.3:  # from above it came down with another elbow
                raise CannotReach("(0.00, 0.00, 0.60) m is out of the arm's reach")
            super().move_to(position, guarded)

    world = LowArm({0})
    outcome = pick(world)
    assert outcome.verdict is Verdict.FAILED
    assert Trouble.OUT_OF_REACH in outcome.troubles
    assert 0.2 < world.here[2] < 0.3
    assert all(world.parked_looks)


def test_an_object_without_a_point_is_not_gripped() -> None:
    outcome = pick(World({0}, count=0))
    assert outcome.verdict is Verdict.FAILED
    assert outcome.troubles == [Trouble.NO_POINT]


def test_what_lies_in_the_tray_already_is_not_picked() -> None:
    world = World({0})
    world.middle = np.array([1.0, 0.0, 0.05])
    assert pick(world).verdict is Verdict.NOT_FOUND
