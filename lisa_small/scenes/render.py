"""Renders a layout with MuJoCo: colour, exact instance ids and depth from one camera.

One MuJoCo model with all objects is compiled once; objects that a scene does not use are in a geom group that is not
rendered. Rendering needs OpenGL without a screen: EGL (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri) or OSMesa, chosen
by the environment variable MUJOCO_GL.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_ros.errors import DeviceError
from lisa_small.scenes.assets import load_models
from lisa_small.scenes.bodies import SHOWN, add_looks, add_parts, add_texture, main_part
from lisa_small.scenes.layout import COPIES, PALETTE, SURFACES, Layout, View
from lisa_small.scenes.textures import surface

HIDDEN = 4
NEAR_M, FAR_M = 0.05, 12.0
LARGEST = 1280  # side of a picture, pixels


@dataclass(frozen=True, eq=False)
class Frame:
    """One rendered picture.

    Attributes:
        rgb: (H, W, 3) uint8.
        ids: (H, W) uint8: i + 1 where placement i of the layout is visible, 0 elsewhere.
        depth: (H, W) float32, metres along the optical axis.
    """

    rgb: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    depth: NDArray[np.float32]


def focal_length(view: View) -> float:
    """Pixels; the same for x and y."""
    return view.height / 2 / math.tan(math.radians(view.fovy_deg) / 2)


def optical_centre(view: View) -> tuple[float, float]:
    """cx, cy: the middle of the image in pixels. The centre of the top left pixel is (0, 0), as in camera_info."""
    return (view.width - 1) / 2, (view.height - 1) / 2


def camera_axes(view: View) -> NDArray[np.float64]:
    """(3, 3), columns: the camera's right, up and backward axes in the world (OpenGL's convention)."""
    back = np.subtract(view.eye, view.target)
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    c, s = math.cos(math.radians(view.roll_deg)), math.sin(math.radians(view.roll_deg))
    return np.stack([c * right + s * up, c * up - s * right, back], axis=1)


def open_display(world: mujoco.MjModel) -> tuple[Any, mujoco.MjrContext]:
    """Opens OpenGL without a screen.

    Raises:
        DeviceError: There is none; the message names the packages to install.
    """
    try:
        # By name, since mujoco.GLContext is chosen when mujoco is first imported, perhaps by another package.
        backend = import_module(f"mujoco.{os.environ['MUJOCO_GL']}")
        display = backend.GLContext(LARGEST, LARGEST)
        display.make_current()
        return display, mujoco.MjrContext(world, mujoco.mjtFontScale.mjFONTSCALE_100)
    except Exception as error:  # PyOpenGL, EGL and MuJoCo raise types of their own, and AttributeError
        raise DeviceError(
            f"no OpenGL without a screen (MUJOCO_GL={os.environ.get('MUJOCO_GL')}): {error}; on Debian and Ubuntu "
            "install libegl1 libegl-mesa0 libgl1-mesa-dri, or libosmesa6 and set MUJOCO_GL=osmesa"
        ) from error


def begin_spec() -> mujoco.MjSpec:
    """An empty model that is rendered as pictures of scenes are."""
    spec = mujoco.MjSpec()
    spec.stat.extent = 1.0
    spec.visual.map.znear, spec.visual.map.zfar = NEAR_M, FAR_M
    spec.visual.global_.offwidth = spec.visual.global_.offheight = 2 * LARGEST
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.offsamples = 0
    return spec


def add_room(spec: mujoco.MjSpec, surfaces: Iterable[int]) -> None:
    """Adds a table, a floor, four walls, a lamp and a camera, and the materials of ``surfaces`` for ``furnish``."""
    numbers = sorted(set(surfaces))
    for number in numbers:
        for use in ("table", "room"):
            name = f"{use}{number}"
            if use == "table":
                add_texture(spec, f"surface{number}", surface(number))
            material = spec.add_material(name=name, specular=0.15, shininess=0.3)
            material.texuniform = use == "room"
            material.texrepeat = [1, 1]
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"surface{number}"
    table, room = f"table{numbers[0]}", f"room{numbers[0]}"
    plane, box = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX
    world = spec.worldbody
    world.add_geom(name="table", type=box, size=[1, 1, 0.02], pos=[0, 0, -0.02], material=table)
    world.add_geom(name="floor", type=plane, size=[3, 3, 1], pos=[0, 0, -0.75], material=room)
    for number in range(4):
        angle = number * math.pi / 2
        world.add_geom(
            name=f"wall{number}",
            type=plane,
            size=[3, 3, 1],
            pos=[3 * math.cos(angle), 3 * math.sin(angle), 1],
            zaxis=[-math.cos(angle), -math.sin(angle), 0],
            material=room,
        )
    world.add_light(name="lamp", castshadow=True)
    world.add_camera(name="eye")


def furnish(world: mujoco.MjModel, layout: Layout) -> None:
    """Gives the room of a model the table, surfaces, light and camera of a layout."""
    table = world.geom("table")
    table.size[:2] = layout.table_size
    table.matid[0] = world.material(f"table{layout.table}").id
    world.mat_texrepeat[table.matid[0]] = layout.table_repeat
    world.geom("floor").matid[0] = world.material(f"room{layout.floor}").id
    for number in range(4):
        world.geom(f"wall{number}").matid[0] = world.material(f"room{layout.wall}").id
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, camera_axes(layout.view).flatten())
    world.cam_pos[0], world.cam_quat[0], world.cam_fovy[0] = layout.view.eye, quat, layout.view.fovy_deg
    lamp = world.light("lamp")
    lamp.pos[:] = layout.light.position
    lamp.dir[:] = -np.array(layout.light.position) / np.linalg.norm(layout.light.position)
    lamp.diffuse[:] = np.multiply(layout.light.tint, layout.light.diffuse)
    lamp.ambient[:], lamp.specular[:] = 0, 0.3
    world.vis.headlight.ambient[:] = np.multiply(layout.light.tint, layout.light.ambient)
    world.vis.headlight.diffuse[:] = 0.25
    world.vis.headlight.specular[:] = 0


def build_world() -> mujoco.MjModel:
    """A MuJoCo model of all objects (COPIES mocap bodies each) in a room."""
    spec = begin_spec()
    add_room(spec, itertools.chain.from_iterable(SURFACES.values()))
    for index in range(len(load_models())):
        add_parts(spec, index)
        for copy in range(COPIES):
            add_looks(spec.worldbody.add_body(name=f"{index}.{copy}", mocap=True), index, HIDDEN)
    return spec.compile()


class Renderer:
    """Renders a model from its first camera. It holds an OpenGL context: use it in one thread, and close() it."""

    def __init__(self, world: mujoco.MjModel, scale: int = 1) -> None:
        """scale: a colour is the mean of scale x scale rays."""
        self.world, self.scale = world, scale
        self.gl, self.context = open_display(world)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.scene = mujoco.MjvScene(world, maxgeom=4000)
        self.options = mujoco.MjvOption()
        self.options.geomgroup[:] = [1, 1, 1, 0, 0, 0]
        self.camera = mujoco.MjvCamera()
        self.camera.type, self.camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0

    def close(self) -> None:
        """Releases the OpenGL context."""
        self.gl.make_current()  # or the objects of another renderer with the same numbers would be freed
        self.context.free()
        self.gl.free()

    def measure(
        self, data: mujoco.MjData, size: tuple[int, int], geom_ids: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Renders ids and depth. After it, read_colours renders the colours of the same moment.

        Args:
            data: State of the model, with its kinematics computed.
            size: Width and height, pixels.
            geom_ids: The id of each geom of the model.

        Returns:
            ids (H, W) uint8; depth (H, W) float32, metres along the optical axis.
        """
        mujoco.mj_camlight(self.world, data)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.world, data, self.options, None, self.camera, everything, self.scene)
        self.gl.make_current()
        rect = mujoco.MjrRect(0, 0, *size)
        flags = self.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        mujoco.mjr_render(rect, self.scene, self.context)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = False
        colours = np.empty((rect.height, rect.width, 3), np.uint8)
        inverse = np.empty((rect.height, rect.width), np.float32)
        mujoco.mjr_readPixels(colours, inverse, rect, self.context)
        # Colours count the drawn geoms from 1; each knows the model geom it came from.
        table = np.zeros(self.scene.ngeom + 1, np.uint8)
        for geom in self.scene.geoms[: self.scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = geom_ids[geom.objid]
        ids = table[colours.astype(np.int32) @ np.array([1, 256, 65536], np.int32)]
        # Reversed depth buffer: 1 at the near plane, 0 at the far one.
        depth = NEAR_M * FAR_M / (NEAR_M + inverse.astype(np.float64) * (FAR_M - NEAR_M))
        return np.flipud(ids).copy(), np.flipud(depth).astype(np.float32)

    def read_colours(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Renders the colours, (H, W, 3) uint8, of what measure() rendered last. size: width and height, pixels."""
        width, height = size
        scale = self.scale
        rect = mujoco.MjrRect(0, 0, scale * width, scale * height)
        rgb = np.empty((rect.height, rect.width, 3), np.uint8)
        mujoco.mjr_render(rect, self.scene, self.context)
        mujoco.mjr_readPixels(rgb, None, rect, self.context)
        rgb = np.flipud(rgb)
        if scale == 1:
            return rgb.copy()
        parts = rgb.reshape(height, scale, width, scale, 3)
        return np.round(parts.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


class Studio:
    """Renders layouts. It holds an OpenGL context: use it in the thread that made it, and close() it."""

    def __init__(self, smooth: bool = False) -> None:
        """smooth: a colour is the mean of 2 x 2 rays, so edges are not jagged. It is three times as slow."""
        self.world = build_world()
        self.data = mujoco.MjData(self.world)
        self.renderer = Renderer(self.world, 2 if smooth else 1)
        self.natural = self.world.geom_rgba.copy()
        self.painted = [main_part(model) for model in load_models()]

    def close(self) -> None:
        """Releases the OpenGL context."""
        self.renderer.close()

    def arrange(self, layout: Layout) -> NDArray[np.uint8]:
        """Moves objects, surfaces, light and camera to their places.

        Returns:
            The instance id of each geom of the MuJoCo model, uint8, 0 for the room.
        """
        world, data = self.world, self.data
        world.geom_rgba[:] = self.natural
        ids = np.zeros(world.ngeom, np.uint8)
        objects = world.geom_bodyid > 0
        world.geom_group[objects] = HIDDEN
        for number, placement in enumerate(layout.placements):
            body = world.body(f"{placement.model}.{placement.copy}")
            mocap = world.body_mocapid[body.id]
            data.mocap_pos[mocap], data.mocap_quat[mocap] = placement.position, placement.quat
            first, count = body.geomadr[0], body.geomnum[0]
            world.geom_group[first : first + count] = SHOWN
            ids[first : first + count] = number + 1
            if placement.colour:
                world.geom_rgba[first + self.painted[placement.model], :3] = PALETTE[placement.colour]
        furnish(world, layout)
        return ids

    def draw(self, layout: Layout) -> Frame:
        """Renders a layout."""
        ids, depth = self.measure(layout)
        return Frame(self.renderer.read_colours((layout.view.width, layout.view.height)), ids, depth)

    def draw_if(self, layout: Layout, accept: Callable[[Layout, NDArray[np.uint8]], bool]) -> Frame | None:
        """Renders a layout if accept(layout, ids) is true, else returns None before colours are rendered."""
        ids, depth = self.measure(layout)
        if not accept(layout, ids):
            return None
        return Frame(self.renderer.read_colours((layout.view.width, layout.view.height)), ids, depth)

    def measure(self, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Renders ids and depth of a layout."""
        geom_ids = self.arrange(layout)
        mujoco.mj_kinematics(self.world, self.data)
        return self.renderer.measure(self.data, (layout.view.width, layout.view.height), geom_ids)
