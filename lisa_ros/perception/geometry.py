"""From a mask and a depth image to metres: an object's points, its centroid and its oriented box.

Everything is in the camera's optical frame, as in REP-103: x to the right, y down, z forward, metres. Images are
rectified (a pinhole without distortion), depth has the size and the optical centre of the colour image ("aligned").
Depth is what cameras publish (REP-118): uint16 millimetres with 0 for nothing, or float metres where NaN and both
infinities (REP-117: too near, too far) mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ImageError

# A surface that falls away from the camera by more than this (70 degrees) in one pixel is taken for a depth edge.
STEEPEST = math.tan(math.radians(70))
NOISE_M, NOISE_SHARE = 0.002, 0.003  # what a depth camera adds between neighbours: metres, and share of the distance
SPILL_PX = 8  # a mask spills so far over the table at its border; a table further inside is the object's own
THINNEST_M = 0.0015  # a plane's thickness, at least
FLAT_M = 0.004  # what rises less above its table is not told from it by depth
SPECK_PX = 4  # smaller pieces of a mask are noise
FEWEST = 12  # points: below there is no box
FITTED = 800  # points, at most, that a box's orientation is fitted to; its sides are measured on all of them
RING_PX = 12  # around a mask, where its surroundings are looked at
MISFIT_WEIGHT = 4.0  # of the points' mean distance to the faces, against the sum of the sides
TAIL = 0.002  # share of the points that may lie outside each side of a box
MOST_PX = 1e6  # of a focal length and of where the image's centre may lie


@dataclass(frozen=True)
class Camera:
    """A pinhole. Pixels; the centre of the top left pixel is (0, 0), as in camera_info."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_matrix(cls, k: Sequence[float], width: int, height: int) -> Camera:
        """k: the nine numbers of camera_info, row by row. Raises ImageError where it is not calibrated (all 0)."""
        if len(k) != 9 or not (k[0] > 0 and k[4] > 0):
            raise ImageError(f"camera_info's K {[float(v) for v in k]} has no focal length; calibrate the camera")
        if not all(0.1 < k[i] < MOST_PX for i in (0, 4)) or not all(abs(k[i]) < MOST_PX for i in (2, 5)):
            raise ImageError(f"camera_info's K {[float(v) for v in k]} is of no camera; calibrate it again")
        return cls(width, height, float(k[0]), float(k[4]), float(k[2]), float(k[5]))


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box around what is SEEN of an object: hidden sides end where the view ends.

    centre: (3,) m. size: (3,) m along the box's own x, y, z; x is the longest side, z the shortest.
    axes: (3, 3), columns: the box's x, y and z in the optical frame, right-handed. x points to the image's right (down,
    where it is upright), z away from the camera, so that the same view gives the same axes.
    """

    centre: NDArray[np.float64]
    size: NDArray[np.float64]
    axes: NDArray[np.float64]

    @property
    def quaternion(self) -> NDArray[np.float64]:
        """(4,) x, y, z, w as in geometry_msgs, w >= 0: turns the optical frame's axes into the box's."""
        return quaternion(self.axes)

    @property
    def corners(self) -> NDArray[np.float64]:
        """(8, 3) m."""
        signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return self.centre + (signs * self.size) @ self.axes.T


@dataclass(frozen=True, eq=False)
class Object3D:
    """One mask in metres.

    points: (N, 3) float32, row by row of the image; pixels: (N, 2) int32 (x, y), the same order.
    centroid: (3,) m, median of the points along each axis; NaN without points. On the seen surface, not inside.
    box: None with fewer than 12 points.
    valid_share: in [0, 1], how much of the mask has any depth at all; 0.3 says: mostly guessed.
    """

    label: int
    points: NDArray[np.float32]
    pixels: NDArray[np.int32]
    centroid: NDArray[np.float64]
    box: OrientedBox | None
    valid_share: float


@dataclass(frozen=True, eq=False)
class Grasp:
    """A parallel gripper's first guess, in the optical frame.

    centroid: (3,) m, where to go. approach: (3,) unit vector along which the gripper comes.
    closing: (3,) unit vector between the fingers. width: m that they have to open.
    """

    centroid: NDArray[np.float64]
    approach: NDArray[np.float64]
    closing: NDArray[np.float64]
    width: float


def depth_image(
    data: bytes | bytearray | memoryview, encoding: str, height: int, width: int, step: int, is_bigendian: bool = False
) -> NDArray[np.uint16] | NDArray[np.float32]:
    """The pixels (H, W) of a depth message without a copy: uint16 mm for 16UC1 (mono16), float32 m for 32FC1.

    Raises ImageError for another encoding and for fewer bytes than height and step promise.
    """
    kinds = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
    if encoding not in kinds:
        raise ImageError(f"depth encoding {encoding!r}; publish 16UC1 (millimetres) or 32FC1 (metres)")
    kind = np.dtype(kinds[encoding]).newbyteorder(">" if is_bigendian else "<")
    if step < width * kind.itemsize or len(data) < step * (height - 1) + width * kind.itemsize:
        raise ImageError(f"depth of {width}x{height} {encoding} with step {step} has only {len(data)} bytes")
    return np.ndarray((height, width), kind, buffer=data, strides=(step, kind.itemsize))


NOTHING_MM = 65535
"""The largest number of 16 bits: "too far" or "nothing", as infinity is with float depth (REP-117)."""

FARTHEST_M = 1000.0
"""Beyond what any depth camera measures: a value that stands for nothing, such as the largest float."""

CLAMP_M, CLAMP_SHARE = 4.0, 0.01
"""From so far on, a value that so much of the image shares and nothing exceeds may be a clamp."""


def clamp_of(depth: NDArray) -> float | None:
    """The value, in raw units, at which a depth image (H, W) is cut off; None where it is not.

    Some drivers report everything beyond their range as the end of the range: a round number of metres or of bits that
    many pixels share exactly, with nothing beyond. That is no measurement.
    """
    to_m = 0.001 if depth.dtype.kind == "u" else 1.0
    usable = depth[(depth > 0) & (depth < (NOTHING_MM if depth.dtype.kind == "u" else FARTHEST_M))]
    if not usable.size:
        return None
    farthest = usable.max()
    limit_m = float(farthest) * to_m
    is_round = abs(limit_m - round(limit_m)) < 1e-6 or round(limit_m * 1000) + 1 in (4096, 8192, 16384, 32768)
    shared = np.count_nonzero(usable == farthest)
    return float(farthest) if limit_m >= CLAMP_M and is_round and shared >= CLAMP_SHARE * depth.size else None


def metres(depth: NDArray, clamp: float | None = None) -> NDArray[np.float32]:
    """A copy of raw depth as float32 metres, NaN where nothing was measured.

    Args:
        depth: uint16 millimetres (0 and 65535 are nothing) or float metres (0, negative, NaN, infinite and beyond any
            camera's reach are nothing; so is 65.535, which is 65535 millimetres).
        clamp: A raw value that stands for "beyond the range", see :func:`clamp_of`.

    Raises:
        ImageError: Depth of another type.
    """
    if depth.dtype.kind == "u" and depth.dtype.itemsize == 2:
        result = depth.astype(np.float32)
        result *= np.float32(0.001)
    elif depth.dtype.kind == "f":
        result = depth.astype(np.float32)
    else:
        raise ImageError(f"depth of type {depth.dtype}; it is uint16 millimetres or float metres")
    measured = (result > 0) & (result < FARTHEST_M) & (result != np.float32(NOTHING_MM * 0.001))
    if clamp is not None:
        measured &= depth != clamp
    result[~measured] = np.nan
    return result


def locate(crop: MaskCrop, depth: NDArray, camera: Camera, *, edge_px: int = 3, clamp: float | None = None) -> Object3D:
    """What a mask covers, in metres.

    depth: (H, W) uint16 millimetres or float metres, of the camera's size; only the mask's window is read.
    edge_px: so wide a rim of the mask is believed only where its depth continues what lies further inside: there
    cameras mix foreground and background, and masks bleed. clamp: raw value of depth that stands for "beyond the
    range" (:func:`clamp_of`). Raises ImageError for depth of another size.
    """
    if depth.shape != (camera.height, camera.width):
        raise ImageError(
            f"depth of {depth.shape[1]}x{depth.shape[0]} with a camera of {camera.width}x{camera.height}; "
            "publish depth aligned to the colour image"
        )
    left, top = max(crop.x - RING_PX, 0), max(crop.y - RING_PX, 0)
    right, bottom = min(crop.x + crop.width + RING_PX, camera.width), min(crop.y + crop.height + RING_PX, camera.height)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    y, x = crop.y - top, crop.x - left
    mask[y : y + crop.height, x : x + crop.width] = crop.pixels > 0
    z = metres(depth[top:bottom, left:right], clamp)
    view = Camera(right - left, bottom - top, camera.fx, camera.fy, camera.cx - left, camera.cy - top)
    known = int(np.count_nonzero(mask.view(bool) & np.isfinite(z)))
    inner = without_rim(mask, edge_px).view(bool)
    support = support_plane(mask, z, view)
    if support is not None and stands_on(support, inner, z, view):
        # Closed, so that no speck of noise remains of a strip of the table.
        table = (np.abs(support.heights(z, view)) < support.thickness).view(np.uint8)
        table = np.asarray(cv2.morphologyEx(table, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
        mask[(table > 0) & (without_rim(mask, SPILL_PX) == 0)] = 0
        inner &= mask.view(bool)
    else:
        support = None
    own = own_pixels(mask.view(bool), inner, z, view, edge_px)
    rows, columns = np.nonzero(own)
    points = back_project(columns, rows, z[own], view)
    return Object3D(
        label=crop.label,
        points=points,
        pixels=np.stack([columns + left, rows + top], axis=1).astype(np.int32),
        centroid=np.median(points, axis=0).astype(np.float64) if len(points) else np.full(3, np.nan),
        box=fit_box(points if support is None else with_feet(points, support)),
        valid_share=known / crop.area if crop.area else 0.0,
    )


def back_project(x: NDArray, y: NDArray, z: NDArray, camera: Camera) -> NDArray[np.float32]:
    """Pixels (N,) and their depth (N,) m as points (N, 3) m."""
    points = np.empty((len(z), 3), np.float32)
    points[:, 0] = (x - camera.cx) * z / camera.fx
    points[:, 1] = (y - camera.cy) * z / camera.fy
    points[:, 2] = z
    return points


@dataclass(frozen=True, eq=False)
class Plane:
    """All points p with ``normal @ p == offset``; normal (3,) is a unit vector towards the camera, offset in m.

    thickness: m, so far from it are the points that were measured on it, three of their standard deviations.
    """

    normal: NDArray[np.float64]
    offset: float
    thickness: float

    def heights(self, z: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
        """How far each pixel of a depth image (H, W) m lies above the plane, on the camera's side, in m."""
        across = (self.normal[0] / camera.fx * (np.arange(camera.width) - camera.cx)).astype(np.float32)
        down = (self.normal[1] / camera.fy * (np.arange(camera.height) - camera.cy) + self.normal[2]).astype(np.float32)
        return z * (across + down[:, None]) - np.float32(self.offset)


def tolerance(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Metres by which depth may err at a distance of z metres."""
    return z * np.float32(NOISE_SHARE) + np.float32(NOISE_M)


def support_plane(mask: NDArray[np.uint8], z: NDArray[np.float32], camera: Camera) -> Plane | None:
    """The plane that most of a mask's surroundings lie on, as a table under an object; None where there is none."""
    near = cv2.dilate(mask, np.ones((5, 5), np.uint8))
    ring = cv2.dilate(mask, np.ones((2 * RING_PX + 1, 2 * RING_PX + 1), np.uint8)) - near
    rows, columns = np.nonzero((ring > 0) & np.isfinite(z))
    if len(rows) < FEWEST:
        return None
    some = slice(None, None, max(1, len(rows) // FITTED))
    points = back_project(columns[some], rows[some], z[rows[some], columns[some]], camera)
    plane, on_plane = largest_plane(points, float(np.median(tolerance(points[:, 2]))), np.random.default_rng(len(rows)))
    return plane if 2 * np.count_nonzero(on_plane) >= len(points) else None


def stands_on(plane: Plane, inner: NDArray[np.bool_], z: NDArray[np.float32], camera: Camera) -> bool:
    """Whether a good part of the object rises above the plane.

    A sheet of paper does not: depth cannot tell it from its table.
    """
    heights = plane.heights(z, camera)[inner]
    return bool(3 * np.count_nonzero(heights > max(FLAT_M, plane.thickness)) > np.count_nonzero(np.isfinite(heights)))


def with_feet(points: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """points (N, 3) and, below the lowest of them, the points of the plane that they stand on."""
    heights = points @ plane.normal.astype(np.float32) - np.float32(plane.offset)
    low = heights < 3 * plane.thickness
    return np.concatenate([points, points[low] - heights[low, None] * plane.normal.astype(np.float32)])


def own_pixels(
    mask: NDArray[np.bool_], inner: NDArray[np.bool_], z: NDArray[np.float32], camera: Camera, edge_px: int
) -> NDArray[np.bool_]:
    """Which pixels of a mask belong to its object, by depth.

    mask, inner: (h, w), with and without the rim. z: (h, w) m, NaN for nothing. Cut along depth edges, the largest
    inner piece is the object, with the pieces that lie in its range of depth (an object behind a gripper's finger has
    two). From there the rim is won back, pixel by pixel, where depth goes on without a step.
    """
    known = mask & np.isfinite(z)
    step = np.nan_to_num(z) * np.float32(STEEPEST / camera.fx) + tolerance(np.nan_to_num(z))
    low, high = neighbours(z, known)
    smooth = inner & known
    smooth[smooth] = high[smooth] - low[smooth] <= 2 * step[smooth]
    if not smooth.any():
        return inner & known
    own = main_pieces(smooth, z, camera.fx)
    for _ in range(edge_px + 2):  # the rim, and the two pixels of a depth edge inside
        low, high = neighbours(z, own)
        own |= known & (z >= low - step) & (z <= high + step)
    return own


def without_rim(mask: NDArray[np.uint8], edge_px: int) -> NDArray[np.uint8]:
    """The mask eroded by edge_px, or by less where less than a third would be left: thin things have a rim only."""
    area = int(np.count_nonzero(mask))
    for width in range(edge_px, 0, -1):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
        inner = np.asarray(cv2.erode(mask, kernel), np.uint8)
        if 3 * int(np.count_nonzero(inner)) >= area:
            return inner
    return mask


def neighbours(z: NDArray[np.float32], where: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nearest and farthest depth among each pixel's 3 x 3 that are ``where``; (inf, -inf) without one."""
    square = np.ones((3, 3), np.uint8)
    low = cv2.erode(np.where(where, z, np.float32(np.inf)), square)
    high = cv2.dilate(np.where(where, z, np.float32(-np.inf)), square)
    return low, high  # type: ignore[return-value]


def main_pieces(pixels: NDArray[np.bool_], z: NDArray[np.float32], focal: float) -> NDArray[np.bool_]:
    """The largest connected piece, and every other one whose mean depth lies in its range of depth."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=8)
    if count <= 2:
        return pixels
    main = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    depths = z[labels == main]
    # An object is hardly deeper than it is wide.
    width = max(stats[main, cv2.CC_STAT_WIDTH], stats[main, cv2.CC_STAT_HEIGHT])
    reach = float(np.median(depths)) / focal * width
    means = np.bincount(labels[pixels], z[pixels], count) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    own = (means >= depths.min() - reach) & (means <= depths.max() + reach) & (stats[:, cv2.CC_STAT_AREA] >= SPECK_PX)
    own[0], own[main] = False, True
    return own[labels]


def fit_box(points: NDArray[np.float32]) -> OrientedBox | None:
    """The box that points (N, 3) m, seen from the origin, lie on; None with fewer than 12.

    A camera sees up to three faces, so a box is good when the points lie ON the faces that it turns to the camera, and
    when it is small. The smallest volume alone is a poor guide: of a box seen edge-on (two faces) it likes the diagonal
    one as well. Tried are boxes that stand on the largest planes among the points, and on their principal axes.
    """
    if len(points) < FEWEST:
        return None
    middle = points.mean(axis=0)
    sample = points[:: max(1, len(points) // FITTED)] - middle
    # As a number from a fixed seed, so that the same points give the same box.
    rng = np.random.default_rng(len(points))
    upright = [*plane_normals(sample, rng), *np.linalg.eigh(np.cov(sample.T))[1].T]
    turns = [basis @ turn for basis in map(basis_of, upright) for turn in TURNS]
    axes = cheapest(np.stack(turns), sample, middle)
    for degrees in (1.5, 0.75, 0.375):
        axes = cheapest(axes @ np.concatenate([np.eye(3)[None], wiggles(degrees)]), sample, middle)
    return measure_box(points, axes)


def plane_normals(points: NDArray[np.float32], rng: np.random.Generator) -> list[NDArray]:
    """Unit normals of the two largest planes among points (N, 3)."""
    normals: list[NDArray] = []
    thickness = 0.01 * float(np.linalg.norm(np.ptp(points, axis=0))) + 0.001
    while len(normals) < 2 and len(points) >= FEWEST:
        plane, on_plane = largest_plane(points, thickness, rng)
        normals.append(plane.normal)
        points = points[~on_plane]
    return normals


def largest_plane(
    points: NDArray[np.float32], thickness: float, rng: np.random.Generator, tries: int = 100
) -> tuple[Plane, NDArray[np.bool_]]:
    """The plane that most of points (N, 3) are nearer to than ``thickness`` m, and which they are (N,).

    RANSAC, then least squares on the points that agree.
    """
    corners = points[rng.integers(len(points), size=(tries, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= np.maximum(length, 1e-12)
    near = np.abs(points @ normals.T - (corners[:, 0] * normals).sum(axis=1)) < thickness  # (N, tries)
    on_plane = near[:, np.argmax(near.sum(axis=0) * (length[:, 0] > 1e-9))]
    some = points[on_plane].astype(np.float64)
    middle = some.mean(axis=0)
    normal = np.linalg.eigh(np.cov((some - middle).T))[1][:, 0]
    if normal @ middle > 0:
        normal = -normal
    deviation = 1.48 * float(np.median(np.abs((some - middle) @ normal)))  # of a normal distribution
    return Plane(normal, float(normal @ middle), max(3 * deviation, THINNEST_M)), on_plane


def turn_about(axis: int, degrees: float) -> NDArray[np.float64]:
    """(3, 3) rotation about a coordinate axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


TURNS = [turn_about(2, degrees) for degrees in range(0, 90, 3)]


def wiggles(degrees: float) -> NDArray[np.float64]:
    """(6, 3, 3): small turns about each axis, both ways."""
    return np.stack([turn_about(axis, sign * degrees) for axis in range(3) for sign in (-1, 1)])


def basis_of(normal: NDArray) -> NDArray[np.float64]:
    """(3, 3) right-handed, columns: two directions across ``normal``, and ``normal``."""
    least = np.eye(3)[np.argmin(np.abs(normal))]
    across = np.cross(normal, least)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(normal, across), normal], axis=1)


def cheapest(
    turns: NDArray[np.float64], points: NDArray[np.float32], middle: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The best of the axes ``turns`` (K, 3, 3): least sum of the sides plus misfit of the points, in metres.

    points: (N, 3), relative to ``middle`` (3,), which is relative to the camera. A point's misfit is its distance to
    the nearest face that is turned to the camera.
    """
    inside = np.einsum("nk,tkj->tjn", points, turns.astype(np.float32), optimize=True)  # (K, 3, N)
    low, high = inside.min(axis=2), inside.max(axis=2)  # (K, 3)
    eye = -np.einsum("k,tkj->tj", middle, turns)  # (K, 3): the camera, in each box's frame
    misfit = np.full((len(turns), points.shape[0]), np.inf, np.float32)
    for axis in range(3):
        face = np.where(eye[:, axis] > high[:, axis], high[:, axis], low[:, axis]).astype(np.float32)
        seen = (eye[:, axis] > high[:, axis]) | (eye[:, axis] < low[:, axis])
        misfit[seen] = np.minimum(misfit[seen], np.abs(inside[seen, axis] - face[seen, None]))
    cost = (high - low).sum(axis=1) + MISFIT_WEIGHT * misfit.mean(axis=1)
    return turns[np.argmin(cost)]


def measure_box(points: NDArray[np.float32], axes: NDArray[np.float64]) -> OrientedBox:
    """The box along ``axes`` (3, 3), its axes named by length and pointed as OrientedBox says."""
    inside = points @ axes.astype(np.float32)
    cut = int(TAIL * len(points))
    inside = np.partition(inside.T.copy(), (cut, len(points) - 1 - cut), axis=1)
    low, high = inside[:, cut].astype(np.float64), inside[:, -1 - cut].astype(np.float64)
    order = np.argsort(low - high, kind="stable")
    centre = axes @ ((low + high) / 2)
    size, axes = (high - low)[order], axes[:, order].copy()
    x, z = axes[:, 0], axes[:, 2]
    if x[0] < 0 if abs(x[0]) >= abs(x[1]) else x[1] < 0:
        axes[:, 0] *= -1
    if z @ centre < 0:
        axes[:, 2] *= -1
    axes[:, 1] = np.cross(axes[:, 2], axes[:, 0])
    return OrientedBox(centre, size, axes)


def quaternion(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4,) x, y, z, w with w >= 0 of a rotation matrix (3, 3), columns: the turned axes.

    The eigenvector to the largest eigenvalue of Bar-Itzhack's matrix (2000): without cases, best for a matrix that is
    only nearly a rotation.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
    k = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    return -q if q[3] < 0 else q


def grasp_candidate(thing: Object3D) -> Grasp | None:
    """Come from the side that the camera sees best and close over the shorter of the other two; None without a box.

    A geometric first guess for a planner that checks reach, collisions and the gripper's opening.
    """
    if thing.box is None:
        return None
    axes, size = thing.box.axes, thing.box.size
    view = thing.centroid / np.linalg.norm(thing.centroid)
    along = int(np.argmax(np.abs(view @ axes)))
    approach = axes[:, along] * np.sign(view @ axes[:, along])
    closing = min((axis for axis in range(3) if axis != along), key=lambda axis: size[axis])
    return Grasp(thing.centroid, approach, axes[:, closing], float(size[closing]))
