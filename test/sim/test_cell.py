"""The simulated cell: its picture, its robots, and episodes with true masks."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the cell is simulated by MuJoCo: pip install mujoco")

from lisa_sim.cell import ROBOT, ROBOTS, TRAY, Cell
from lisa_sim.episodes import run_episode, true_masks
from lisa_sim.inverse_kinematics import Arm
from lisa_sim.robot import DOWN, Pose, Unreachable
from lisa_sim.scenario import Episode, depth_of, episodes
from lisa_sim.tray import Tray
from lisa_sim.ur5e import READY, add_tool, description
from lisa_small.scenes.render import Studio

SEED = 90_000


@pytest.fixture(scope="module")
def scenes(opengl) -> list[Episode]:
    studio = Studio()
    made = list(episodes(studio, SEED, range(11)))[:10]
    studio.close()
    return made


@pytest.fixture(scope="module", params=sorted(ROBOTS))
def cell(request, scenes: list[Episode]) -> Iterator[Cell]:
    cell = Cell(scenes[0].layout, request.param)
    yield cell
    cell.close()


def test_ten_commands_of_ten_end_with_their_object_alone_in_the_tray(scenes: list[Episode]) -> None:
    failed = []
    for episode in scenes:
        cell = Cell(episode.layout)
        report = run_episode(episode, cell, true_masks(episode.targets))
        cell.close()
        if not report.ok:
            failed.append((episode.number, report.cause, report.outcome.story))
    assert len(scenes) == 10
    assert not failed


def test_the_arm_picks_too(scenes: list[Episode]) -> None:
    cell = Cell(scenes[0].layout, "ur5e")
    report = run_episode(scenes[0], cell, true_masks(scenes[0].targets))
    cell.close()
    assert report.ok, report.outcome.story
    assert report.outcome.seen_in_tray or report.outcome.story[-1].endswith("gone from its place")


def test_the_picture_is_the_studios_beside_the_tray(scenes: list[Episode]) -> None:
    cell = Cell(scenes[0].layout)
    frame = cell.look()
    cell.close()
    beside = cv2.dilate((frame.ids == TRAY).astype(np.uint8), np.ones((61, 61), np.uint8)) == 0  # and its shadow
    assert beside.mean() > 0.3
    difference = np.abs(frame.rgb.astype(float) - scenes[0].picture)[beside]
    assert difference.mean() < 1


def test_at_rest_the_robot_is_out_of_the_picture_as_far_as_it_can(cell: Cell) -> None:
    share = float((cell.look().ids == ROBOT).mean())
    assert share < 0.02, share


def test_the_tray_is_in_the_picture_and_not_on_an_object(cell: Cell) -> None:
    assert (cell.look().ids == TRAY).any()
    assert not cell.in_tray()


def test_depth_has_no_values_on_the_robot(scenes: list[Episode]) -> None:
    cell = Cell(scenes[0].layout)
    middle = cell.positions().mean(axis=0)
    cell.run(cell.robot.move_to(Pose(np.append(middle[:2], 0.2), DOWN)))
    frame = cell.look()
    cell.close()
    robot = frame.ids == ROBOT
    assert robot.any()
    assert not depth_of(frame)[robot].any()
    assert depth_of(frame)[~robot].all()


def test_the_tool_goes_where_it_is_sent(cell: Cell) -> None:
    cell.run(cell.robot.park())
    goal = np.append(cell.positions()[0][:2], 0.35)
    cell.run(cell.robot.move_to(Pose(goal, DOWN)))
    np.testing.assert_allclose(cell.robot.pose.position, goal, atol=0.005)
    assert cell.robot.pose.approach @ DOWN > 0.999


def test_a_goal_out_of_reach_is_refused_before_anything_moves(cell: Cell) -> None:
    before = cell.robot.q
    with pytest.raises(Unreachable, match=r"9\.00"):
        cell.robot.move_to(Pose(np.array([9.0, 0.0, 0.3]), DOWN))
    np.testing.assert_array_equal(cell.robot.q, before)


def test_a_guarded_move_ends_at_the_table(cell: Cell) -> None:
    cell.run(cell.robot.park())
    beside = np.array([*cell.tray.centre, 0.2])
    cell.run(cell.robot.move_to(Pose(beside, DOWN)))
    cell.run(cell.robot.move_to(Pose(beside - [0, 0, 0.25], DOWN), guarded=True))
    assert cell.robot.pose.position[2] == pytest.approx(0.004, abs=0.006)  # the tray's floor
    assert cell.cup.held is None


def test_inverse_kinematics_reaches_100_poses() -> None:
    arm = Arm(add_tool(description()).compile())
    rng = np.random.default_rng(3)
    for _ in range(100):
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 0.75)
        position = np.array([distance * np.cos(angle), distance * np.sin(angle), rng.uniform(0.02, 0.4)])
        tilt = rng.normal(0, 0.15, 3)
        approach = (DOWN + tilt) / np.linalg.norm(DOWN + tilt)
        start = READY.copy()
        start[0] = rng.uniform(-np.pi, np.pi)
        q = arm.solve(position, approach, [start])
        assert q is not None, position
        here, axis = arm.forward(q)
        np.testing.assert_allclose(here, position, atol=0.001)
        assert axis @ approach > 0.9999
        assert ((q >= arm.low) & (q <= arm.high)).all()


def test_a_closed_cell_leaves_other_renderers_alone(scenes: list[Episode]) -> None:
    one, other = Cell(scenes[0].layout), Cell(scenes[1].layout)
    before = one.look()
    other.look()
    one.look()  # its context is the current one now
    other.close()
    after = one.look()
    one.close()
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.rgb, before.rgb)


def test_what_is_inside_a_turned_tray() -> None:
    tray = Tray((1.0, 2.0), 0.5)
    corners = np.column_stack([tray.floor, np.full(4, 0.02)])
    middle = np.array([1.0, 2.0, 0.02])
    assert tray.inside(middle + 0.98 * (corners - middle)).all()
    assert not tray.inside(middle + 1.02 * (corners - middle)).any()
    assert not tray.inside(np.array([[1.0, 2.0, -0.7]])).any()
