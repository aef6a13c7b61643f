"""Depth images of boxes on a plane, by casting a ray through every pixel: exact, and only numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lisa_ros.perception.geometry import Camera


@dataclass(frozen=True, eq=False)
class Box:
    """centre (3,) m in the optical frame; size (3,) m along axes (3, 3), columns."""

    centre: NDArray
    size: NDArray
    axes: NDArray


def rays(camera: Camera) -> NDArray[np.float64]:
    """(H, W, 3) directions with z = 1."""
    y, x = np.mgrid[: camera.height, : camera.width]
    return np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones(x.shape)], axis=2)


def depth_of_box(camera: Camera, box: Box) -> NDArray[np.float64]:
    """(H, W) m along z, infinite beside the box: the slab method, from the origin."""
    direction, origin = rays(camera) @ box.axes, -box.axes.T @ box.centre
    with np.errstate(divide="ignore"):
        first, second = (-box.size / 2 - origin) / direction, (box.size / 2 - origin) / direction
    enter, leave = np.minimum(first, second).max(axis=2), np.maximum(first, second).min(axis=2)
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def depth_of_plane(camera: Camera, normal: NDArray, offset: float) -> NDArray[np.float64]:
    """(H, W) m along z of the points p with normal @ p == offset, infinite where no ray meets them."""
    towards = rays(camera) @ normal
    with np.errstate(divide="ignore"):
        z = offset / towards
    return np.where(z > 0, z, np.inf)


def tabletop(
    camera: Camera, size: tuple[float, float, float], *, elevation_deg: float, yaw_deg: float, distance: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Box]:
    """A box that stands on a table, seen from above. Returns depth (H, W) m, the box's mask (H, W), the box."""
    elevation, yaw = np.radians(elevation_deg), np.radians(yaw_deg)
    up = np.array([0, -np.cos(elevation), -np.sin(elevation)])
    away = np.array([0, -np.sin(elevation), np.cos(elevation)])
    right = np.array([1.0, 0, 0])
    axes = np.stack([np.cos(yaw) * right + np.sin(yaw) * away, np.cos(yaw) * away - np.sin(yaw) * right, up], axis=1)
    foot = np.array([0.02, 0.01, distance])
    box = Box(foot + up * size[2] / 2, np.array(size), axes)
    object_depth, table = depth_of_box(camera, box), depth_of_plane(camera, up, float(up @ foot))
    depth = np.minimum(object_depth, table)
    depth[~np.isfinite(depth)] = 0
    return depth.astype(np.float32), object_depth < table, box
