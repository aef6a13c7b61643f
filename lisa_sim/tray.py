"""The tray that picked objects are put into, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_small.scenes.assets import load_models
from lisa_small.scenes.dataset import project
from lisa_small.scenes.layout import Layout, View, corners, overlap, rotate

WALL_M, FLOOR_M = 0.006, 0.004  # thickness
BESIDE_M = 0.02  # least distance from objects
TABLE_FOOT_M = 0.75  # height of the table above the floor


@dataclass(frozen=True)
class Tray:
    """An open box on the table, or on a stand of the table's height. World frame, metres.

    Attributes:
        centre: x, y of its middle.
        yaw: Its turn about the vertical, radians.
        half: Half of its inner length and width.
        height: Of its walls.
    """

    centre: tuple[float, float]
    yaw: float
    half: tuple[float, float] = (0.2, 0.165)
    height: float = 0.03

    @property
    def outline(self) -> NDArray[np.float64]:
        """(4, 2) outer corners on the table."""
        half = np.array(self.half) + WALL_M
        return corners(-half, half, self.yaw, np.array(self.centre))

    @property
    def floor(self) -> NDArray[np.float64]:
        """(4, 2) inner corners."""
        half = np.array(self.half)
        return corners(-half, half, self.yaw, np.array(self.centre))

    def inside(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of the points (N, 3) lie above its floor, up to 0.4 m: (N,)."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        local = (np.asarray(points)[:, :2] - self.centre) @ np.array([[c, -s], [s, c]])
        return (np.abs(local) <= self.half).all(axis=1) & (np.abs(points[:, 2] - 0.2) <= 0.2)

    def add_to(self, spec: mujoco.MjSpec, material: str) -> None:
        """Adds its body, called ``tray``, to a model."""
        turn = [math.cos(self.yaw / 2), 0, 0, math.sin(self.yaw / 2)]
        body = spec.worldbody.add_body(name="tray", pos=[*self.centre, 0], quat=turn)
        (x, y), z = self.half, self.height / 2
        boxes = [([0, 0, FLOOR_M / 2], [x, y, FLOOR_M / 2])]
        boxes += [([side * (x + WALL_M / 2), 0, z], [WALL_M / 2, y + WALL_M, z]) for side in (-1, 1)]
        boxes += [([0, side * (y + WALL_M / 2), z], [x, WALL_M / 2, z]) for side in (-1, 1)]
        stand = (TABLE_FOOT_M - 0.001) / 2
        boxes.append(([0, 0, -stand - 0.001], [x, y, stand]))  # where the table has no room for it
        for position, size in boxes:
            geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=position, size=size, material=material)
            geom.friction = [0.9, 0.02, 0.003]


def visible_share(tray: Tray, view: View) -> float:
    """Share of the tray's floor that lies in the picture, in [0, 1]."""
    low, high = tray.outline[0], tray.outline
    u, v = np.meshgrid(np.linspace(0, 1, 7), np.linspace(0, 1, 7))
    flat = low + u.reshape(-1, 1) * (high[1] - low) + v.reshape(-1, 1) * (high[3] - low)
    pixels = project(view, np.column_stack([flat, np.zeros(len(flat))]))
    return float(((pixels >= 0) & (pixels < [view.width, view.height])).all(axis=1).mean())


def footprints(layout: Layout) -> list[NDArray[np.float64]]:
    """(4, 2) rectangle on the table around each object of a layout, along the axes of the world."""
    models = load_models()
    result = []
    for placement in layout.placements:
        hull = rotate(placement.quat, models[placement.model].hull) + placement.position
        result.append(corners(hull.min(0)[:2] - BESIDE_M, hull.max(0)[:2] + BESIDE_M, 0.0, np.zeros(2)))
    return result


def place_tray(layout: Layout, accept: Callable[[Tray], bool] = lambda tray: True) -> Tray:
    """The place beside the objects where the camera sees most of the tray; the nearest of several.

    Args:
        layout: The objects, and the camera.
        accept: Whether a robot can use a tray. Where it accepts none, the tray stands where the camera sees it best.
    """
    taken = footprints(layout)
    points = np.concatenate(taken)
    middle = (points.min(0) + points.max(0)) / 2
    best, most = None, -math.inf
    for angle in np.linspace(0, 2 * math.pi, 24, endpoint=False):
        for distance in np.arange(0.15, 1.2, 0.03):
            centre = middle + distance * np.array([math.cos(angle), math.sin(angle)])
            for yaw in (angle, angle + math.pi / 2):
                tray = Tray((float(centre[0]), float(centre[1])), float(yaw))
                if any(overlap(tray.outline, other) for other in taken):
                    continue
                value = visible_share(tray, layout.view) - 0.2 * distance + 10 * accept(tray)
                if value > most:
                    best, most = tray, value
    assert best is not None
    return best
