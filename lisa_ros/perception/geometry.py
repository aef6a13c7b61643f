"""From a mask and a depth image to metres: an object's points, its centroid and its oriented box.

- Frame: the camera's optical frame, as in REP-103: x to the right, y down, z forward, metres.
- Images: rectified (a pinhole camera without distortion). Depth is aligned: it has the size and the optical centre of
  the colour image.
- Depth values, as in REP-118: uint16 millimetres, 0 is no value; or float metres, NaN and infinities (REP-117) are no
  value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop
from lisa_ros.errors import ImageError

# A surface that falls away from the camera by more than this (70 degrees) in one pixel is taken for a depth edge.
STEEPEST = math.tan(math.radians(70))
NOISE_M, NOISE_SHARE = 0.002, 0.003  # what a depth camera adds between neighbours: metres, and share of the distance
SPILL_PX = 8  # width of the border where a mask may cover the table; table pixels further inside belong to the object
THINNEST_M = 0.0015  # least thickness of a plane
FLAT_M = 0.004  # depth cannot separate lower objects from their table
SPECK_PX = 4  # smaller pieces of a mask are noise
FEWEST = 12  # least number of points of a box
FITTED = 800  # most points that the orientation of a box is fitted to; its sides are measured on all points
RING_PX = 12  # width of the ring around a mask in which the supporting plane is searched
MISFIT_WEIGHT = 4.0  # weight of the points' mean distance to the faces, relative to the sum of the sides
TAIL = 0.002  # share of the points that may lie outside each side of a box
FINGER_M = 0.022  # width of a gripper's fingers
CLOSING_STEP_DEG = 6  # between the closing directions that are tried
PARALLEL = 0.7  # least ratio of the widths at the two edges of a finger
REACH_M = 0.066  # distance from the middle of an object within which it is gripped
FAR_M = 0.06  # gripped so far from its middle, a score is 0.6 of what it would be there
CUP_M = 0.015  # radius of a surface that any common cup seals on
PATCH_M = 0.016  # side of the surface that a normal is fitted to
LEVEL = math.radians(32)  # steepest surface of the flat rule
ROUGH_M = 0.003  # roughest surface of the flat rule, depth noise included
GAP_M = 0.03  # neighbouring pixels of one thing differ by less in depth
PIECE_SHARE = 0.1  # of the largest piece of an object; smaller ones are noise
APART_M = 0.015  # least distance of two suction points
MOST_PX = 1e6  # largest accepted focal length and principal point


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. All values are in pixels; the centre of the top left pixel is (0, 0)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_matrix(cls, k: Sequence[float], width: int, height: int) -> Camera:
        """The camera of an intrinsic matrix.

        Args:
            k: The nine numbers of K in camera_info, row by row.
            width: Of the image, pixels.
            height: Of the image, pixels.

        Raises:
            ImageError: The camera is not calibrated (all 0), or the values are impossible.
        """
        if len(k) != 9 or not (k[0] > 0 and k[4] > 0):
            raise ImageError(f"camera_info's K {[float(v) for v in k]} has no focal length; calibrate the camera")
        if not all(0.1 < k[i] < MOST_PX for i in (0, 4)) or not all(abs(k[i]) < MOST_PX for i in (2, 5)):
            raise ImageError(f"camera_info's K {[float(v) for v in k]} has impossible values; calibrate the camera")
        return cls(width, height, float(k[0]), float(k[4]), float(k[2]), float(k[5]))


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box around the visible part of an object, in the optical frame.

    The signs of the axes are fixed, so that the same view gives the same axes: x points to the right of the image, or
    down if it is vertical; z points away from the camera.

    Args:
        centre: (3,) m.
        size: (3,) m along the box's x, y, z; x is the longest side, z the shortest.
        axes: (3, 3), columns: unit vectors of the box's x, y and z; right-handed.
    """

    centre: NDArray[np.float64]
    size: NDArray[np.float64]
    axes: NDArray[np.float64]

    @property
    def quaternion(self) -> NDArray[np.float64]:
        """(4,) x, y, z, w as in geometry_msgs, w >= 0: the rotation from the optical frame's axes to the box's."""
        return quaternion(self.axes)

    @property
    def corners(self) -> NDArray[np.float64]:
        """(8, 3) m, in the optical frame."""
        signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return self.centre + (signs * self.size) @ self.axes.T


@dataclass(frozen=True, eq=False)
class Object3D:
    """One mask in metres, in the optical frame.

    Args:
        label: Of the mask.
        points: (N, 3) float32 m, row by row of the image.
        pixels: (N, 2) int32, (x, y) of each point.
        centroid: (3,) m, median of the points along each axis. It lies on the visible surface. NaN without points.
        box: None with fewer than 12 points.
        valid_share: Share of the mask's pixels that have depth, in [0, 1]. With a low share the result is unreliable.
        support: The plane around the object, such as its table; None where there is none.
    """

    label: int
    points: NDArray[np.float32]
    pixels: NDArray[np.int32]
    centroid: NDArray[np.float64]
    box: OrientedBox | None
    valid_share: float
    support: Plane | None = None


@dataclass(frozen=True, eq=False)
class Grasp:
    """A candidate for a grasp with a parallel gripper, in the optical frame.

    Args:
        centroid: (3,) m, on the surface of the object, between the fingers.
        approach: (3,) unit vector along which the gripper approaches.
        closing: (3,) unit vector from one finger to the other.
        width: Distance between the fingers, m.
        score: In [0, 1]; lower where the object is wide, or is held far from its middle.
    """

    centroid: NDArray[np.float64]
    approach: NDArray[np.float64]
    closing: NDArray[np.float64]
    width: float
    score: float = 1.0


@dataclass(frozen=True, eq=False)
class Suction:
    """A candidate for a suction cup, in the optical frame.

    Args:
        point: (3,) m, on the surface.
        normal: (3,) unit vector out of the surface.
        radius: Of the flat surface around the point that is seen, m. A cup with a smaller radius seals.
        score: In [0, 1]; lower where the surface is small, rough or steep, or far from the middle of the object.
    """

    point: NDArray[np.float64]
    normal: NDArray[np.float64]
    radius: float
    score: float


def depth_image(
    data: bytes | bytearray | memoryview, encoding: str, height: int, width: int, step: int, is_bigendian: bool = False
) -> NDArray[np.uint16] | NDArray[np.float32]:
    """The pixels of a depth message, without a copy.

    Args:
        data: Bytes of the message.
        encoding: 16UC1, mono16 or 32FC1.
        height: Pixels.
        width: Pixels.
        step: Bytes of a row.
        is_bigendian: Byte order.

    Returns:
        (H, W) uint16 millimetres for 16UC1 and mono16, float32 metres for 32FC1.

    Raises:
        ImageError: The encoding is another one, or there are too few bytes.
    """
    kinds = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
    if encoding not in kinds:
        raise ImageError(f"depth encoding {encoding!r}; publish 16UC1 (millimetres) or 32FC1 (metres)")
    kind = np.dtype(kinds[encoding]).newbyteorder(">" if is_bigendian else "<")
    if step < width * kind.itemsize or len(data) < step * (height - 1) + width * kind.itemsize:
        raise ImageError(f"depth of {width}x{height} {encoding} with step {step} has only {len(data)} bytes")
    return np.ndarray((height, width), kind, buffer=data, strides=(step, kind.itemsize))


NOTHING_MM = 65535
"""The largest number of 16 bits. It means "too far" or "no value", as infinity does in float depth (REP-117)."""

FARTHEST_M = 1000.0
"""No depth camera measures so far: larger values, such as the largest float, are no value."""

CLAMP_M, CLAMP_SHARE = 4.0, 0.01
"""A largest value of at least CLAMP_M, which at least CLAMP_SHARE of the pixels have, may be a clamp."""


def clamp_of(depth: NDArray) -> float | None:
    """Value at which a driver clamps depth.

    Some drivers report everything beyond their range as the end of the range. That is a round number of metres or of
    bits; many pixels have exactly this value, and no pixel has a larger one. It is not a measurement.

    Args:
        depth: (H, W) uint16 millimetres or float metres.

    Returns:
        The value, in the units of ``depth``; None if the image is not clamped.
    """
    whole = depth.dtype.kind == "u"
    # A maximum costs little; comparing and counting every pixel is for the images whose maximum may be a clamp.
    farthest = depth.max() if whole else np.fmax.reduce(depth, axis=None)
    if farthest >= (NOTHING_MM if whole else FARTHEST_M):
        farthest = np.where(depth < (NOTHING_MM if whole else FARTHEST_M), depth, 0).max()
    limit_m = float(farthest) * (0.001 if whole else 1.0)
    is_round = abs(limit_m - round(limit_m)) < 1e-6 or round(limit_m * 1000) + 1 in (4096, 8192, 16384, 32768)
    if limit_m < CLAMP_M or not is_round:
        return None
    return float(farthest) if np.count_nonzero(depth == farthest) >= CLAMP_SHARE * depth.size else None


def metres(depth: NDArray, clamp: float | None = None) -> NDArray[np.float32]:
    """A copy of raw depth as float32 metres, NaN where there is no value.

    Args:
        depth: uint16 millimetres (0 and 65535 are no value) or float metres (0, negative, NaN, infinite, above
            ``FARTHEST_M`` and 65.535, which is 65535 millimetres, are no value).
        clamp: A raw value that means "beyond the range", see :func:`clamp_of`.

    Returns:
        Float32 metres, in the shape of ``depth``.

    Raises:
        ImageError: Depth has another type.
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
    """Points, centroid and box of a mask, in metres.

    Args:
        crop: The mask.
        depth: (H, W) uint16 millimetres or float metres, of the camera's size. Only the mask's window is read.
        camera: The camera of image and depth.
        edge_px: Width of the mask's rim, pixels. A pixel of the rim counts only if its depth continues that of the
            inside: at edges, cameras mix foreground and background, and masks are too large.
        clamp: A raw value of depth that means "beyond the range", see :func:`clamp_of`.

    Returns:
        The object, in the camera's optical frame.

    Raises:
        ImageError: Depth has another size than the camera.
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
    around = support = support_plane(mask, z, view)
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
        support=around,
    )


def back_project(x: NDArray, y: NDArray, z: NDArray, camera: Camera) -> NDArray[np.float32]:
    """Points of pixels with depth.

    Args:
        x: (N,) pixels.
        y: (N,) pixels.
        z: (N,) m.
        camera: The pinhole camera.

    Returns:
        (N, 3) float32 m, in the optical frame.
    """
    points = np.empty((len(z), 3), np.float32)
    points[:, 0] = (x - camera.cx) * z / camera.fx
    points[:, 1] = (y - camera.cy) * z / camera.fy
    points[:, 2] = z
    return points


@dataclass(frozen=True, eq=False)
class Plane:
    """All points p with ``normal @ p == offset``, in the optical frame.

    Args:
        normal: (3,) unit vector towards the camera.
        offset: m.
        thickness: Three standard deviations of the measured points from the plane, m.
    """

    normal: NDArray[np.float64]
    offset: float
    thickness: float

    def heights(self, z: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
        """Height of each pixel of a depth image (H, W) m above the plane, positive towards the camera: (H, W) m."""
        across = (self.normal[0] / camera.fx * (np.arange(camera.width) - camera.cx)).astype(np.float32)
        down = (self.normal[1] / camera.fy * (np.arange(camera.height) - camera.cy) + self.normal[2]).astype(np.float32)
        return z * (across + down[:, None]) - np.float32(self.offset)


def tolerance(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Assumed error of depth, m, at a distance of z m."""
    return z * np.float32(NOISE_SHARE) + np.float32(NOISE_M)


def support_plane(mask: NDArray[np.uint8], z: NDArray[np.float32], camera: Camera) -> Plane | None:
    """The plane that carries an object, such as a table.

    Args:
        mask: (H, W) uint8, 1 on the object.
        z: (H, W) m, NaN for no value.
        camera: Of this window.

    Returns:
        The plane of at least half of the pixels around the mask; None if there is none.
    """
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
    """Whether at least a third of the object rises above the plane. A sheet of paper on a table does not.

    Args:
        plane: The supporting plane.
        inner: (H, W), the mask without its rim.
        z: (H, W) m.
        camera: Of this window.
    """
    heights = plane.heights(z, camera)[inner]
    return bool(3 * np.count_nonzero(heights > max(FLAT_M, plane.thickness)) > np.count_nonzero(np.isfinite(heights)))


def with_feet(points: NDArray[np.float32], plane: Plane) -> NDArray[np.float32]:
    """Points (N, 3) m of an object, and for the lowest of them their projections to the plane they stand on."""
    heights = points @ plane.normal.astype(np.float32) - np.float32(plane.offset)
    low = heights < 3 * plane.thickness
    return np.concatenate([points, points[low] - heights[low, None] * plane.normal.astype(np.float32)])


def own_pixels(
    mask: NDArray[np.bool_], inner: NDArray[np.bool_], z: NDArray[np.float32], camera: Camera, edge_px: int
) -> NDArray[np.bool_]:
    """The pixels of a mask that belong to its object, by depth.

    1. The inner mask is cut along depth edges. The largest piece is the object.
    2. Other pieces in its range of depth are added. (An object behind a finger of a gripper has two pieces.)
    3. Pixels of the rim are added step by step, if their depth continues that of their neighbours.

    Args:
        mask: (h, w), with the rim.
        inner: (h, w), without the rim.
        z: (h, w) m, NaN for no value.
        camera: Of this window.
        edge_px: Width of the rim, pixels.

    Returns:
        (h, w) bool.
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
    """The mask eroded by edge_px. It is eroded less if less than a third would be left, as for thin objects."""
    area = int(np.count_nonzero(mask))
    for width in range(edge_px, 0, -1):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
        inner = np.asarray(cv2.erode(mask, kernel), np.uint8)
        if 3 * int(np.count_nonzero(inner)) >= area:
            return inner
    return mask


def neighbours(z: NDArray[np.float32], where: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nearest and farthest depth in the 3 x 3 neighbourhood of each pixel, among pixels in ``where``.

    Returns:
        Two arrays (h, w) m; inf and -inf for a neighbourhood without such a pixel.
    """
    square = np.ones((3, 3), np.uint8)
    low = cv2.erode(np.where(where, z, np.float32(np.inf)), square)
    high = cv2.dilate(np.where(where, z, np.float32(-np.inf)), square)
    return low, high  # type: ignore[return-value]


def main_pieces(pixels: NDArray[np.bool_], z: NDArray[np.float32], focal: float) -> NDArray[np.bool_]:
    """The largest connected piece of ``pixels``, and every other piece whose mean depth lies in its range of depth."""
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
    """Fit a box to points that a camera at the origin sees.

    The points lie on the up to three faces that are turned to the camera. So the best box is small and has the points
    on these faces. The smallest volume alone would be ambiguous: if two faces are visible, a box along their diagonal
    has a small volume too. Candidates are aligned with the largest planes among the points and with their principal
    axes.

    Args:
        points: (N, 3) m, in the optical frame.

    Returns:
        The box; None with fewer than 12 points.
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
    """The plane with the most points: RANSAC, then least squares on its points.

    Args:
        points: (N, 3) m.
        thickness: Largest distance of a point from its plane, m.
        rng: Random numbers of RANSAC.
        tries: Number of planes that RANSAC tries.

    Returns:
        The plane, and which points are on it, (N,) bool.
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
    """(6, 3, 3): rotations by plus and minus ``degrees`` about each axis."""
    return np.stack([turn_about(axis, sign * degrees) for axis in range(3) for sign in (-1, 1)])


def basis_of(normal: NDArray) -> NDArray[np.float64]:
    """(3, 3) right-handed, columns: two unit vectors perpendicular to ``normal``, and ``normal``."""
    least = np.eye(3)[np.argmin(np.abs(normal))]
    across = np.cross(normal, least)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(normal, across), normal], axis=1)


def cheapest(
    turns: NDArray[np.float64], points: NDArray[np.float32], middle: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The rotation whose box has the lowest cost: the sum of its sides, plus the weighted mean misfit of the points.

    The misfit of a point is its distance to the nearest face that is turned to the camera.

    Args:
        turns: (K, 3, 3) candidate rotations; columns are the axes of the box.
        points: (N, 3) m, relative to ``middle``.
        middle: (3,) m, relative to the camera.

    Returns:
        (3, 3), one of ``turns``.
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
    """The box of points (N, 3) m along ``axes`` (3, 3). Order and signs of its axes are those of OrientedBox."""
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
    """Quaternion of a rotation matrix.

    It is the eigenvector with the largest eigenvalue of Bar-Itzhack's matrix (2000). This needs no case distinction and
    is optimal for a matrix that is only nearly a rotation.

    Args:
        matrix: (3, 3), columns: the rotated axes.

    Returns:
        (4,) x, y, z, w with w >= 0.
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


def pieces_of(thing: Object3D) -> list[Object3D]:
    """The pieces of an object, the largest first: a mask may cover several things.

    Pieces do not touch in the image, or neighbouring pixels differ by more than GAP_M in depth where they do.

    Args:
        thing: An object in metres.

    Returns:
        ``thing`` itself where it has one piece. Each piece has a box of its own; pieces under a tenth of the largest
        are left out. An object that something hides in its middle has two pieces.
    """
    if not len(thing.pixels):
        return [thing]
    own = piece_numbers(thing)
    areas = np.bincount(own)
    numbers = [int(n) for n in np.argsort(-areas, kind="stable") if areas[n] >= max(PIECE_SHARE * areas.max(), FEWEST)]
    if len(numbers) <= 1:
        return [thing]
    return [_piece(thing, own == number) for number in numbers]


def piece_numbers(thing: Object3D) -> NDArray[np.intp]:
    """(N,) number of each point's piece; pixels at a gap in depth belong to the nearest piece."""
    low = thing.pixels.min(axis=0)
    column, row = (thing.pixels - low).T
    z = np.full(np.ptp(thing.pixels, axis=0)[::-1] + 1, np.nan, np.float32)
    z[row, column] = thing.points[:, 2]
    nearest, farthest = neighbours(z, np.isfinite(z))
    # Closed, so that a scratch in the mask is no gap.
    body = cv2.morphologyEx(np.isfinite(z).view(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    body[farthest > nearest + GAP_M] = 0
    if not body.any():
        return np.zeros(len(row), np.intp)
    _, labels = cv2.distanceTransformWithLabels(1 - body, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    return labels[row, column].astype(np.intp)


def _piece(thing: Object3D, own: NDArray[np.bool_]) -> Object3D:
    points = thing.points[own]
    plane = thing.support
    return replace(
        thing,
        points=points,
        pixels=thing.pixels[own],
        centroid=np.median(points, axis=0).astype(np.float64),
        box=fit_box(points if plane is None else with_feet(points, plane)),
    )


def up_of(thing: Object3D, up: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """(3,) unit vector, optical frame: ``up`` where it is known, else away from the support, else to the camera."""
    if up is None:
        up = thing.support.normal if thing.support is not None else -thing.centroid
    return np.asarray(up, float) / np.linalg.norm(up)


def grasp_candidate(thing: Object3D, up: NDArray[np.floating] | None = None, opening: float = math.inf) -> Grasp | None:
    """A grasp from geometry alone, for a planner that checks reach and collisions.

    The gripper comes straight down and closes across the narrowest place, as near to the middle as possible. Widths are
    those of what is seen.

    Args:
        thing: An object in metres.
        up: (3,) away from gravity, in the optical frame; None: away from the object's support, or to the camera.
        opening: Largest distance between the fingers, m.

    Returns:
        The grasp in the optical frame; None if the object has fewer than 12 points or is too wide everywhere.
    """
    if len(thing.points) < FEWEST:
        return None
    up = up_of(thing, up)
    axes = basis_of(up)
    inside = (thing.points[:: max(1, len(thing.points) // FITTED)] @ axes.astype(np.float32)).astype(np.float64)
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    best, least = None, math.inf
    for angle in np.radians(np.arange(0, 180, CLOSING_STEP_DEG)):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        flat = (inside[:, :2] - middle[:2]) @ turn  # (N, 2): along the closing direction, and across it
        reach = min(REACH_M, float(np.ptp(flat[:, 1])) / 4)
        for place in np.linspace(-reach, reach, 1 + 2 * round(2 * reach / FINGER_M)):
            between = np.abs(flat[:, 1] - place) < FINGER_M / 2
            width = width_between_fingers(flat[between], place)
            cost = width + abs(place) / 2
            if width <= opening and cost < least:
                least = cost
                spot = turn @ np.array([np.mean([flat[between, 0].min(), flat[between, 0].max()]), place]) + middle[:2]
                nearest = np.argmin(np.linalg.norm(inside[:, :2] - spot, axis=1))
                best = Grasp(
                    axes @ np.append(spot, inside[nearest, 2]),
                    -up,
                    axes[:, :2] @ turn[:, 0],
                    width,
                    math.exp(-(cost**2) / (2 * FAR_M**2)),
                )
    return best


def width_between_fingers(flat: NDArray[np.float64], place: float) -> float:
    """Extent of the points between two fingers; infinite at a corner, where the fingers have nothing parallel to hold.

    Args:
        flat: (N, 2) m, along the closing direction and across it; of points that the fingers cover.
        place: Middle of the fingers across the closing direction, m.
    """
    halves = [flat[(flat[:, 1] - place) * side >= 0, 0] for side in (-1, 1)]
    if min(map(len, halves)) < 2:
        return math.inf
    widths = [float(np.ptp(half)) for half in halves]
    return float(np.ptp(flat[:, 0])) if min(widths) >= PARALLEL * max(widths) else math.inf


def suction_candidate(thing: Object3D, up: NDArray[np.floating] | None = None) -> Suction | None:
    """The best of :func:`suction_candidates`; None if there is none."""
    return next(iter(suction_candidates(thing, up, 1)), None)


def suction_candidates(thing: Object3D, up: NDArray[np.floating] | None = None, count: int = 6) -> list[Suction]:
    """Points for a suction cup that comes from above, in the order in which to try them.

    Three rules take turns: *flat* looks for the largest surface that is level and smooth, near the middle and high up;
    *interior* for the pixel that is farthest from the border of the object, whatever its slope; *top* for the highest
    place. They fail on different objects.

    Args:
        thing: An object in metres.
        up: (3,) away from gravity, in the optical frame; None: away from the object's support, or to the camera.
        count: Most points. No two are nearer to each other than 15 mm.

    Returns:
        Points on pixels of ``thing``, with the normals of the surface; empty with fewer than 12 points.
    """
    if len(thing.points) < FEWEST:
        return []
    up = up_of(thing, up)
    patches = surface_patches(thing, up)
    mask = patches.mask
    radius_px = distance_inside(mask)
    flat_px = distance_inside(mask & (patches.slope <= LEVEL) & (patches.roughness <= ROUGH_M))
    across = patches.points @ basis_of(up)
    inside = across[mask]
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    off = np.linalg.norm(across[..., :2] - middle[:2], axis=-1)
    height = (across[..., 2] - inside[:, 2].min()) / max(float(np.ptp(inside[:, 2])), 1e-6)
    central = np.exp(-(off**2) / (2 * FAR_M**2))
    flat = np.clip(flat_px * patches.pitch_m / CUP_M, 0, 1) * central * (0.7 + 0.3 * height)
    interior = radius_px * np.where(mask, central, 0)
    top = np.where(radius_px > 1, central + 4 * height, 0)
    result: list[Suction] = []
    free = mask.copy()
    while free.any() and len(result) < count:
        rule = (flat, interior, top)[len(result) % 3]
        rule = np.where(free, rule, -1)
        if rule.max() <= 0:
            rule = np.where(free, interior, -1)
        spot = np.unravel_index(int(np.argmax(rule)), rule.shape)
        if rule[spot] <= 0:
            break
        normal = patches.normals[spot]
        radius = float(max(flat_px[spot], 0.5) * patches.pitch_m)
        score = float(np.clip(radius / CUP_M, 0, 1) * central[spot] * max(normal @ up, 0))
        result.append(Suction(patches.points[spot], normal, radius, score))
        free &= np.linalg.norm(patches.points - patches.points[spot], axis=-1) > APART_M
    return result


@dataclass(frozen=True, eq=False)
class Patches:
    """A plane through the surface around each pixel of an object's window.

    Args:
        mask: (h, w) bool, pixels of the object.
        points: (h, w, 3) m, 0 outside the mask.
        normals: (h, w, 3) unit vectors that point up.
        slope: (h, w) radians between the normal and up, in [0, pi / 2).
        roughness: (h, w) standard deviation of the surface from its plane, m.
        pitch_m: Distance of neighbouring pixels on a surface that faces the camera, m.
    """

    mask: NDArray[np.bool_]
    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    slope: NDArray[np.float64]
    roughness: NDArray[np.float64]
    pitch_m: float


def surface_patches(thing: Object3D, up: NDArray[np.float64]) -> Patches:
    """Fit the plane height = a x + b y + c to the square of PATCH_M around each pixel.

    x and y are level, height is along ``up``. With the sums that a box filter gives, all fits take milliseconds.

    Args:
        thing: With at least one point.
        up: (3,) unit vector.
    """
    low = thing.pixels.min(axis=0) - 1
    width, height = np.ptp(thing.pixels, axis=0) + 3
    column, row = (thing.pixels - low).T
    mask, points = np.zeros((height, width), bool), np.zeros((height, width, 3))
    mask[row, column], points[row, column] = True, thing.points
    pitch = pixel_pitch(thing)
    side = 2 * max(1, round(PATCH_M / pitch / 2)) + 1
    axes = basis_of(up)
    # Relative to their middle: sums of squares of metres lose little then.
    x, y, h = np.moveaxis(np.where(mask[..., None], (points - thing.centroid) @ axes, 0), -1, 0)
    terms = np.stack([mask.astype(float), x, y, h, x * x, x * y, y * y, x * h, y * h, h * h], axis=-1)
    sums = [
        cv2.boxFilter(np.ascontiguousarray(part), -1, (side, side), normalize=False) for part in np.split(terms, 10, -1)
    ]
    n, sx, sy, sh, sxx, sxy, syy, sxh, syh, shh = sums
    n = np.maximum(n, 1)
    cxx, cxy, cyy = sxx / n - (sx / n) ** 2, sxy / n - sx * sy / n**2, syy / n - (sy / n) ** 2
    cxh, cyh, chh = sxh / n - sx * sh / n**2, syh / n - sy * sh / n**2, shh / n - (sh / n) ** 2
    determinant = cxx * cyy - cxy**2 + 1e-14
    a, b = (cyy * cxh - cxy * cyh) / determinant, (cxx * cyh - cxy * cxh) / determinant
    normals = np.stack([-a, -b, np.ones_like(a)], axis=-1) @ axes.T
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    roughness = np.sqrt(np.maximum(chh - a * cxh - b * cyh, 0))
    return Patches(mask, points, normals, np.arctan(np.hypot(a, b)), roughness, pitch)


def pixel_pitch(thing: Object3D) -> float:
    """Metres between neighbouring pixels on a surface that faces the camera, at the object's distance."""
    rays = thing.points[:, :2] / thing.points[:, 2:]
    spread = np.ptp(thing.pixels, axis=0)
    axis = int(np.argmax(spread))
    return float(np.ptp(rays[:, axis]) / max(int(spread[axis]), 1) * np.median(thing.points[:, 2]))


def distance_inside(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(h, w) pixels from each pixel of a mask to the nearest one outside; 0 outside. Its border is outside."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5), np.float32)
