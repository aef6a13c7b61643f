"""From masks and depth to metres, on boxes whose depth is computed exactly."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from raycast import rays, tabletop

from lisa_ros.engine.api import crop_mask
from lisa_ros.errors import ImageError
from lisa_ros.perception.geometry import (
    Camera,
    Object3D,
    clamp_of,
    depth_image,
    fit_box,
    grasp_candidate,
    locate,
    metres,
    quaternion,
)

CAMERA = Camera(640, 480, 580.0, 580.0, 319.5, 239.5)
SIZE = (0.22, 0.14, 0.12)
VIEWS = [(30, 20), (45, 0), (45, 45), (60, 75), (65, 30)]  # degrees: elevation, yaw


def spread(mask: np.ndarray, pixels: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def seen(depth: np.ndarray, mask: np.ndarray) -> Object3D:
    return locate(crop_mask(mask, 1, 1.0), depth, CAMERA)


def median_of(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.median(rays(CAMERA)[mask] * depth[mask][:, None], axis=0)


def assert_sides(thing: Object3D, size: tuple[float, float, float]) -> None:
    assert thing.box is not None
    wanted = np.sort(size)[::-1]
    assert np.all(np.abs(thing.box.size - wanted) <= np.maximum(0.01, 0.1 * wanted)), (thing.box.size, wanted)


def test_millimetres_become_metres_and_zero_is_no_value() -> None:
    z = metres(np.array([[0, 1, 1500, 65534]], np.uint16))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, [[np.nan, 0.001, 1.5, 65.534]], rtol=1e-6)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(np.array([[65535]], np.uint16), id="the largest of 16 bits"),
        pytest.param(np.array([[65.535]], np.float32), id="the same in metres"),
        pytest.param(np.array([[np.finfo(np.float32).max]], np.float32), id="the largest float"),
        pytest.param(np.array([[1e5]], np.float32), id="farther than any camera sees"),
    ],
)
def test_values_that_mean_no_value_are_not_measured(raw) -> None:
    assert np.isnan(metres(raw)).all()


@pytest.mark.parametrize(
    ("far", "dtype", "clamp"),
    [
        pytest.param(10_000, np.uint16, 10_000.0, id="ten metres"),
        pytest.param(8191, np.uint16, 8191.0, id="13 bits"),
        pytest.param(6.0, np.float32, 6.0, id="six metres, float"),
        pytest.param(9_973, np.uint16, None, id="no round number"),
        pytest.param(2_000, np.uint16, None, id="a wall at two metres"),
    ],
)
def test_a_range_that_is_cut_off_is_noticed(far, dtype, clamp) -> None:
    depth = np.random.default_rng(0).uniform(0.2, 0.9, (48, 64)) * far
    depth = depth.astype(dtype)
    depth[:, 40:] = far
    assert clamp_of(depth) == clamp
    assert np.isnan(metres(depth, clamp_of(depth))[:, 40:]).all() == (clamp is not None)
    assert np.isfinite(metres(depth, clamp_of(depth))[:, :40]).all()


def test_a_single_far_pixel_is_no_clamp() -> None:
    depth = np.full((48, 64), 900, np.uint16)
    depth[3, 4] = 10_000
    assert clamp_of(depth) is None


def test_every_invalid_value_of_rep_117_is_no_value() -> None:
    raw = np.array([[np.nan, np.inf, -np.inf, 0, -1, 2.5]], np.float32)
    z = metres(raw)
    np.testing.assert_array_equal(np.isfinite(z), [[False] * 5 + [True]])
    assert np.isinf(raw[0, 1])  # the camera's own array is left alone


def test_depth_of_another_type_is_refused() -> None:
    with pytest.raises(ImageError, match="uint8"):
        metres(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("encoding", "kind"), [("16UC1", "u2"), ("mono16", "u2"), ("32FC1", "f4")])
def test_depth_messages_are_read_with_padding_and_either_byte_order(encoding: str, kind: str, big: bool) -> None:
    wanted = np.arange(1, 13).reshape(3, 4)
    padded = np.zeros((3, 6), np.dtype(kind).newbyteorder(">" if big else "<"))
    padded[:, :4] = wanted
    image = depth_image(padded.tobytes(), encoding, 3, 4, padded.strides[0], big)
    np.testing.assert_array_equal(image, wanted)
    assert metres(image).shape == (3, 4)


@pytest.mark.parametrize(
    ("encoding", "step", "length", "said"),
    [("rgb8", 8, 24, "rgb8"), ("16UC1", 8, 23, "23 bytes"), ("16UC1", 7, 24, "step 7"), ("32FC1", 8, 24, "step 8")],
)
def test_depth_messages_that_lie_are_refused(encoding: str, step: int, length: int, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        depth_image(bytes(length), encoding, 3, 4, step)


def test_a_camera_without_calibration_is_refused() -> None:
    assert Camera.from_matrix([580, 0, 319.5, 0, 581, 239.5, 0, 0, 1], 640, 480).fy == 581
    with pytest.raises(ImageError, match="calibrate"):
        Camera.from_matrix([0.0] * 9, 640, 480)


def test_depth_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match="320x240"):
        locate(crop_mask(np.ones((480, 640), bool), 1, 1.0), np.ones((240, 320), np.float32), CAMERA)


@pytest.mark.parametrize(("elevation", "yaw"), VIEWS)
@pytest.mark.parametrize("unit", ["millimetres", "metres"])
def test_a_box_on_a_table_is_measured(elevation: int, yaw: int, unit: str) -> None:
    depth, mask, box = tabletop(CAMERA, SIZE, elevation_deg=elevation, yaw_deg=yaw, distance=0.7)
    thing = seen((depth * 1000).round().astype(np.uint16) if unit == "millimetres" else depth, mask)
    assert_sides(thing, SIZE)
    assert np.linalg.norm(thing.centroid - median_of(depth, mask)) < 0.005
    assert thing.box is not None
    assert np.linalg.norm(thing.box.centre - box.centre) < 0.01
    assert thing.valid_share == 1.0
    # Its axes are the true box's, whatever their order and sign.
    agreement = np.abs(thing.box.axes.T @ box.axes)
    np.testing.assert_allclose(agreement.max(axis=1), 1, atol=0.005)


@pytest.mark.parametrize("pixels", [2, 4, 6])
@pytest.mark.parametrize(("elevation", "yaw"), VIEWS)
def test_a_mask_that_bleeds_onto_the_background_does_not_move_the_box(elevation: int, yaw: int, pixels: int) -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=elevation, yaw_deg=yaw, distance=0.7)
    exact, bled = seen(depth, mask), seen(depth, spread(mask, pixels))
    assert exact.box is not None
    assert bled.box is not None
    assert np.linalg.norm(bled.box.centre - exact.box.centre) < 0.003
    assert np.abs(bled.box.size - exact.box.size).max() < 0.004
    assert np.linalg.norm(bled.centroid - exact.centroid) < 0.005


def test_a_tongue_of_the_mask_on_a_far_wall_does_not_move_the_box() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=30, distance=0.7)
    wall = depth.copy()
    wall[~mask] = 2.5
    tongue = mask.copy()
    tongue[200:260, 400:600] = True
    exact, bled = seen(wall, mask), seen(wall, tongue)
    assert exact.box is not None
    assert bled.box is not None
    np.testing.assert_allclose(bled.box.centre, exact.box.centre, atol=0.002)


def test_edge_pixels_between_object_and_background_are_left_out() -> None:
    """Cameras mix foreground and background at depth edges: points in the air, joined to nothing."""
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=35, yaw_deg=30, distance=0.7)
    depth[~mask] = 1.6
    mixed = cv2.blur(depth, (3, 3))
    thing = seen(mixed, mask)
    assert_sides(thing, SIZE)
    assert thing.points[:, 2].max() < depth[mask].max() + 0.01


def test_noise_quantisation_and_holes_are_borne() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=30, distance=0.7)
    rng = np.random.default_rng(0)
    noisy = ((depth + rng.normal(0, 0.001, depth.shape)) * 1000).round().astype(np.uint16)
    noisy[rng.random(depth.shape) < 0.2] = 0
    thing = seen(noisy, mask)
    assert_sides(thing, SIZE)
    assert thing.valid_share == pytest.approx(0.8, abs=0.02)
    assert np.linalg.norm(thing.centroid - median_of(depth, mask)) < 0.005


def test_an_object_behind_a_finger_is_one_object() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=0, distance=0.7)
    depth, mask = depth.copy(), mask.copy()
    mask[:, 330:350] = False
    depth[:, 330:350] = 0.3
    assert_sides(seen(depth, mask), SIZE)


def test_a_sheet_of_paper_keeps_its_size() -> None:
    depth, mask, _ = tabletop(CAMERA, (0.2, 0.15, 0.001), elevation_deg=45, yaw_deg=30, distance=0.7)
    thing = seen(depth, mask)
    assert_sides(thing, (0.2, 0.15, 0.001))


def test_a_thin_stick_is_still_found() -> None:
    depth, mask, _ = tabletop(CAMERA, (0.16, 0.008, 0.008), elevation_deg=60, yaw_deg=30, distance=0.7)
    thing = seen(depth, mask)
    assert_sides(thing, (0.16, 0.008, 0.008))


def test_from_straight_above_the_box_has_the_height_of_the_visible_sides() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=89.9, yaw_deg=30, distance=0.7)
    box = seen(depth, mask).box
    assert box is not None
    np.testing.assert_allclose(box.size[:2], SIZE[:2], atol=0.005)
    assert box.size[2] < 0.01


def test_an_object_cut_by_the_images_border_is_measured_to_the_border() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=0, distance=0.7)
    x = int(np.flatnonzero(mask.any(axis=0))[0]) + 40
    camera = Camera(640 - x, 480, CAMERA.fx, CAMERA.fy, CAMERA.cx - x, CAMERA.cy)
    thing = locate(crop_mask(mask[:, x:], 1, 1.0), depth[:, x:], camera)
    assert thing.pixels[:, 0].min() == 0  # no rim is taken off where there is no rim


def test_without_depth_there_is_no_box_but_an_answer() -> None:
    mask = np.zeros((480, 640), bool)
    mask[100:200, 100:200] = True
    thing = seen(np.zeros((480, 640), np.uint16), mask)
    assert thing.box is None
    assert len(thing.points) == 0
    assert np.isnan(thing.centroid).all()
    assert thing.valid_share == 0.0
    assert grasp_candidate(thing) is None


def test_an_empty_mask_has_no_points_and_no_box() -> None:
    thing = seen(np.ones((480, 640), np.float32), np.zeros((480, 640), bool))
    assert (len(thing.points), thing.box, thing.valid_share) == (0, None, 0.0)


def test_points_are_where_their_pixels_say() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=30, distance=0.7)
    thing = seen(depth, mask)
    x, y = thing.pixels.T
    assert mask[y, x].all()
    np.testing.assert_allclose(thing.points, rays(CAMERA)[y, x] * depth[y, x][:, None], atol=1e-5)


def test_box_axes_follow_the_convention() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=30, distance=0.7)
    box = seen(depth, mask).box
    assert box is not None
    np.testing.assert_allclose(box.axes.T @ box.axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(box.axes) == pytest.approx(1)
    assert list(box.size) == sorted(box.size, reverse=True)
    assert box.axes[0, 0] > 0
    assert box.axes[:, 2] @ box.centre > 0
    assert np.abs((box.corners - box.centre) @ box.axes).max(axis=0) == pytest.approx(box.size / 2)


def test_quaternions_turn_as_matrices_do() -> None:
    rng = np.random.default_rng(1)
    matrices = [np.eye(3), np.diag([1.0, -1, -1]), np.diag([-1.0, -1, 1])]
    matrices += [(lambda q: q * np.linalg.det(q))(np.linalg.qr(rng.normal(size=(3, 3)))[0]) for _ in range(50)]
    for matrix in matrices:
        x, y, z, w = quaternion(matrix)
        assert w >= 0
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        np.testing.assert_allclose(np.eye(3) + 2 * w * cross + 2 * cross @ cross, matrix, atol=1e-9)


def test_the_same_points_give_the_same_box() -> None:
    depth, mask, _ = tabletop(CAMERA, SIZE, elevation_deg=45, yaw_deg=30, distance=0.7)
    points = seen(depth, mask).points
    first, second = fit_box(points), fit_box(points)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.axes, second.axes)


def test_points_on_a_line_or_in_one_place_do_no_harm() -> None:
    line = np.outer(np.linspace(0.5, 1, 40), [0.1, 0.2, 1]).astype(np.float32)
    for points in (line, np.tile(line[:1], (40, 1)), line[:5]):
        box = fit_box(points)
        assert box is None or np.isfinite(box.size).all()


def test_a_grasp_closes_over_the_shorter_side_and_comes_from_the_camera() -> None:
    depth, mask, box = tabletop(CAMERA, (0.2, 0.05, 0.06), elevation_deg=75, yaw_deg=30, distance=0.7)
    grasp = grasp_candidate(seen(depth, mask))
    assert grasp is not None
    assert grasp.approach @ grasp.centroid > 0
    assert abs(grasp.approach @ box.axes[:, 2]) > 0.99  # from above
    assert abs(grasp.closing @ box.axes[:, 1]) > 0.99
    assert grasp.width == pytest.approx(0.05, abs=0.005)
    assert abs(grasp.approach @ grasp.closing) < 1e-9


def test_a_large_mask_takes_milliseconds() -> None:
    depth, mask, _ = tabletop(CAMERA, (0.4, 0.4, 0.3), elevation_deg=45, yaw_deg=30, distance=0.9)
    assert mask.sum() > 60_000
    seen(depth, mask)
    begun = time.process_time()
    for _ in range(5):
        seen(depth, mask)
    assert (time.process_time() - begun) / 5 < 0.1  # 10 ms here; a slow machine shall not fail
