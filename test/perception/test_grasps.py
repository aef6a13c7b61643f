"""Points for a suction cup, grasps for a jaw, and the pieces of a mask; boxes by ray casting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raycast import tabletop

from lisa_ros.engine.api import crop_mask
from lisa_ros.perception.geometry import (
    Camera,
    Object3D,
    back_project,
    fit_box,
    grasp_candidate,
    locate,
    pieces_of,
    suction_candidate,
    suction_candidates,
)

CAMERA = Camera(320, 240, 280.0, 280.0, 159.5, 119.5)
SIDES = st.floats(0.02, 0.25)


def box_on_table(size: tuple[float, float, float], elevation: float, yaw: float) -> tuple[Object3D, np.ndarray]:
    """The object, and up (3,) in the optical frame."""
    depth, mask, box = tabletop(CAMERA, size, elevation_deg=elevation, yaw_deg=yaw, distance=0.9)
    return locate(crop_mask(mask, 1, 1.0), depth, CAMERA), box.axes[:, 2]


@settings(max_examples=40)
@given(SIDES, SIDES, SIDES, st.floats(35, 80), st.floats(0, 90))
def test_points_lie_on_the_object_and_point_out_of_it(
    x: float, y: float, z: float, elevation: float, yaw: float
) -> None:
    thing, up = box_on_table((x, y, z), elevation, yaw)
    candidates = suction_candidates(thing, up)
    assert 1 <= len(candidates) <= 6
    for one in candidates:
        assert (np.linalg.norm(thing.points - one.point, axis=1) < 1e-6).any()
        assert np.linalg.norm(one.normal) == pytest.approx(1)
        assert one.normal @ up > 0
        assert one.radius > 0
        assert 0 <= one.score <= 1
    for a, b in itertools.pairwise(candidates):
        assert np.linalg.norm(a.point - b.point) > 0.015


@settings(max_examples=40)
@given(SIDES, SIDES, SIDES, st.floats(35, 80), st.floats(0, 90), st.floats(0.02, 0.3))
def test_a_grasp_comes_from_above_and_fits_the_opening(
    x: float, y: float, z: float, elevation: float, yaw: float, opening: float
) -> None:
    thing, up = box_on_table((x, y, z), elevation, yaw)
    grasp = grasp_candidate(thing, up, opening)
    if grasp is None:
        assert min(x, y) > 0.5 * opening
        return
    assert grasp.approach @ up == pytest.approx(-1)
    assert abs(grasp.closing @ up) < 1e-6
    assert 0 < grasp.width <= opening
    assert np.linalg.norm(thing.points - grasp.centroid, axis=1).min() < 0.03


def test_the_best_point_is_in_the_middle_of_the_top() -> None:
    depth, mask, box = tabletop(CAMERA, (0.16, 0.12, 0.08), elevation_deg=60, yaw_deg=25, distance=0.8)
    thing = locate(crop_mask(mask, 1, 1.0), depth, CAMERA)
    for up in (box.axes[:, 2], None):  # given, and by the plane of the table
        best = suction_candidate(thing, up)
        assert best is not None
        local = box.axes.T @ (best.point - box.centre)
        assert local[2] == pytest.approx(0.04, abs=0.002)
        assert np.abs(local[:2]).max() < 0.03
        assert best.normal @ box.axes[:, 2] > 0.99
        assert best.radius > 0.02


def test_an_object_without_depth_has_no_candidates() -> None:
    nothing = Object3D(1, np.zeros((0, 3), np.float32), np.zeros((0, 2), np.int32), np.full(3, np.nan), None, 0.0)
    assert suction_candidate(nothing) is None
    assert grasp_candidate(nothing) is None
    assert pieces_of(nothing) == [nothing]


def test_a_mask_of_two_things_has_two_pieces_the_larger_first() -> None:
    depth, mask, _ = tabletop(CAMERA, (0.1, 0.1, 0.05), elevation_deg=70, yaw_deg=0, distance=0.9)
    small = np.roll(mask, 90, axis=1)
    small[:, : int(np.flatnonzero(small.any(axis=0))[0]) + 12] = False
    both = mask | small
    z = depth.copy()
    z[small] -= 0.05
    thing = locate(crop_mask(both, 3, 1.0), z, CAMERA)
    first, second = pieces_of(thing)
    assert len(first.points) > len(second.points)
    assert (first.label, second.label) == (3, 3)
    assert first.pixels[:, 0].max() < second.pixels[:, 0].min()
    assert np.abs(first.centroid[0] - second.centroid[0]) > 0.1
    assert first.box is not None


def test_things_that_touch_in_the_image_are_split_by_depth() -> None:
    depth, mask, _ = tabletop(CAMERA, (0.1, 0.1, 0.05), elevation_deg=70, yaw_deg=0, distance=0.9)
    columns = np.flatnonzero(mask.any(axis=0))
    front = mask.copy()
    front[:, columns[len(columns) // 3] :] = False  # a third of it is 6 cm nearer: another thing
    z = depth.copy()
    z[front] -= 0.06
    rows, xs = np.nonzero(mask)
    points = back_project(xs, rows, z[mask], CAMERA)
    thing = Object3D(3, points, np.stack([xs, rows], 1).astype(np.int32), points.mean(0), fit_box(points), 1.0)
    first, second = pieces_of(thing)
    assert len(first.points) + len(second.points) == len(points)
    assert np.array_equal(np.unique(second.pixels[:, 0]), np.unique(np.nonzero(front)[1]))
    assert first.centroid[2] > second.centroid[2] + 0.04
    points[front[mask], 2] += 0.05  # 1 cm is a step of the same thing
    assert pieces_of(thing) == [thing]


def test_an_object_in_one_piece_stays_itself() -> None:
    thing, _ = box_on_table((0.1, 0.1, 0.05), 60, 20)
    assert pieces_of(thing) == [thing]
