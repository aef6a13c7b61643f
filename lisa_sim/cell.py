"""A scene as a world with physics: room, objects with looks and hulls, tray, camera and robot in one MuJoCo model.

Frame: world, metres, z up, the table's surface at z = 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_ros.perception.geometry import Camera
from lisa_sim.gantry import Gantry
from lisa_sim.robot import Cup, Robot
from lisa_sim.ur5e import UR5e
from lisa_small.scenes.assets import load_models
from lisa_small.scenes.bodies import add_collision, add_hull, add_looks, add_parts, main_part
from lisa_small.scenes.layout import PALETTE, Layout
from lisa_small.scenes.render import (
    Frame,
    Renderer,
    add_room,
    begin_spec,
    camera_axes,
    focal_length,
    furnish,
    optical_centre,
)

TRAY, ROBOT = 254, 255
"""Their ids in the ids of a frame; object i of the layout has i + 1."""

STEP_S = 0.002
ROBOTS: dict[str, type[Robot]] = {"gantry": Gantry, "ur5e": UR5e}


class Cell:
    """A simulated robot cell. It renders: use it in the thread that made it, and close() it.

    Attributes:
        layout: Objects, camera and light at the start.
        tray: Where objects are put.
        robot: At rest out of the camera's view, as far as it can be.
        cup: Its suction cup.
        camera: Intrinsics; all of the picture's size.
    """

    def __init__(self, layout: Layout, robot: str = "gantry", rendered: bool = True) -> None:
        """rendered: False needs no OpenGL, and look() is not possible."""
        self.layout = layout
        kind = ROBOTS[robot]
        plan, self.tray = kind.plan(layout)
        spec = begin_spec()
        spec.option.timestep = STEP_S
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        add_room(spec, {layout.table, layout.floor, layout.wall})
        spec.geom("table").friction = [0.9, 0.02, 0.003]
        for index in sorted({placement.model for placement in layout.placements}):
            add_parts(spec, index)
            add_hull(spec, index)
        for number, placement in enumerate(layout.placements):
            body = spec.worldbody.add_body(name=thing(number), pos=placement.position, quat=placement.quat)
            add_looks(body, placement.model)
            add_collision(body, placement.model)
        self.tray.add_to(spec, f"table{layout.table}")
        kind.add_to(spec, plan)
        for number in range(len(layout.placements)):
            Cup.add_grip(spec, thing(number))
        self.world = spec.compile()
        self.world.dof_damping[: 6 * len(layout.placements)] = 1e-4
        furnish(self.world, layout)
        self.data = mujoco.MjData(self.world)
        self._geom_ids = self._paint()
        things = [self.world.body(thing(number)).id for number in range(len(layout.placements))]
        self.cup = Cup(self.world, self.data, things)
        self.robot = kind(self.world, self.data, self.cup, plan)
        self.renderer = Renderer(self.world) if rendered else None
        view = layout.view
        focal, (cx, cy) = focal_length(view), optical_centre(view)
        self.camera = Camera(view.width, view.height, focal, focal, cx, cy)
        mujoco.mj_forward(self.world, self.data)

    def close(self) -> None:
        """Releases OpenGL."""
        if self.renderer is not None:
            self.renderer.close()

    @property
    def camera_pose(self) -> NDArray[np.float64]:
        """(4, 4) from the camera's optical frame (x right, y down, z forward) to the world."""
        pose = np.eye(4)
        pose[:3, :3] = camera_axes(self.layout.view) * [1, -1, -1]  # OpenGL's camera looks along -z, y is up
        pose[:3, 3] = self.layout.view.eye
        return pose

    def step(self, count: int = 1) -> None:
        """Advances physics by ``count`` steps of STEP_S."""
        for _ in range(count):
            mujoco.mj_step(self.world, self.data)
            self.cup.update()

    def run(self, motion: Iterable[None]) -> None:
        """Advances physics to the end of a motion. Raises what the motion raises."""
        for _ in motion:
            self.step()

    def look(self) -> Frame:
        """A picture from the camera, with the robot and the tray in it."""
        assert self.renderer is not None, "a cell that is not rendered has no camera"
        size = (self.layout.view.width, self.layout.view.height)
        ids, depth = self.renderer.measure(self.data, size, self._geom_ids)
        return Frame(self.renderer.read_colours(size), ids, depth)

    def positions(self) -> NDArray[np.float64]:
        """(N, 3) of every object's centre of mass."""
        return np.array([self.data.body(thing(n)).xipos for n in range(len(self.layout.placements))]).reshape(-1, 3)

    def in_tray(self) -> list[int]:
        """Numbers of the objects that lie in the tray. Not for the robot: it has to look."""
        return [int(number) for number in np.flatnonzero(self.tray.inside(self.positions()))]

    def name_of(self, number: int) -> str:
        """The class of an object, such as ``mug``."""
        return load_models()[self.layout.placements[number].model].label

    def _paint(self) -> NDArray[np.uint8]:
        """Gives painted objects their colour. Returns the id of each geom."""
        ids = np.zeros(self.world.ngeom, np.uint8)
        models = load_models()
        for number, placement in enumerate(self.layout.placements):
            body = self.world.body(thing(number))
            first, count = body.geomadr[0], body.geomnum[0]
            ids[first : first + count] = number + 1
            if placement.colour:
                self.world.geom_rgba[first + main_part(models[placement.model]), :3] = PALETTE[placement.colour]
        roots = {self.world.body("tray").id: TRAY, self.world.body("robot").id: ROBOT}
        for geom, body in enumerate(self.world.body_rootid[self.world.geom_bodyid]):
            ids[geom] = roots.get(int(body), ids[geom])
        return ids


def thing(number: int) -> str:
    """Name of the body of an object."""
    return f"thing{number}"
