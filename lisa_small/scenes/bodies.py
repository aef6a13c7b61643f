"""Objects as parts of a MuJoCo model: what they look like, and the convex hull that they collide with."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_small.scenes.assets import Model, Part, load_models

SHOWN, COLLIDING = 0, 3  # geom groups: the first is rendered, the second is not
DENSITY = 500.0  # of every object, kg/m^3
MOST_CORNERS = 40  # of a hull


def add_texture(spec: mujoco.MjSpec, name: str, image: NDArray[np.uint8]) -> None:
    """Adds an RGB image (H, W, 3) as a texture."""
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D)
    texture.height, texture.width, texture.nchannel = *image.shape[:2], 3
    texture.data = np.ascontiguousarray(image).tobytes()


def add_part(spec: mujoco.MjSpec, name: str, part: Part) -> None:
    """Adds the mesh and the material of a part, both called ``name``."""
    mesh = spec.add_mesh(name=name)
    mesh.uservert = part.vertices.flatten()
    mesh.userface = part.faces.flatten()
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    material = spec.add_material(name=name)
    material.rgba = part.rgba
    material.specular, material.shininess = 0.25, 0.4
    if part.texture is not None and part.uv is not None:
        mesh.usertexcoord = np.stack([part.uv[:, 0], 1 - part.uv[:, 1]], axis=1).flatten()
        add_texture(spec, name, part.texture)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def add_parts(spec: mujoco.MjSpec, index: int) -> None:
    """Adds the meshes and materials of model ``index``, for add_looks."""
    for number, part in enumerate(load_models()[index].parts):
        add_part(spec, f"{index}.{number}", part)


def add_looks(body: mujoco.MjsBody, index: int, group: int = SHOWN) -> None:
    """Adds the parts of model ``index`` to a body, one geom each. They have no mass and collide with nothing."""
    for number in range(len(load_models()[index].parts)):
        name = f"{index}.{number}"
        geom = body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name, group=group, contype=0, conaffinity=0
        )
        geom.mass = 0


def add_hull(spec: mujoco.MjSpec, index: int) -> None:
    """Adds the convex hull of model ``index`` as a mesh, for add_collision."""
    mesh = spec.add_mesh(name=f"hull{index}")
    mesh.uservert = load_models()[index].hull.flatten()
    mesh.maxhullvert = MOST_CORNERS
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX


def add_collision(body: mujoco.MjsBody, index: int) -> None:
    """Adds the hull of model ``index`` to a body, with mass and friction, and a joint that lets it move freely."""
    body.add_freejoint()
    geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"hull{index}", density=DENSITY, group=COLLIDING)
    geom.condim = 6  # rolling friction, or balls and bottles never stop
    geom.friction = [0.8, 0.02, 0.004]


def main_part(model: Model) -> int:
    """Index of the part with the largest surface; a paint changes this one."""

    def area(part: Part) -> float:
        a, b, c = (part.vertices[part.faces[:, k]] for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())

    return int(np.argmax([area(part) for part in model.parts]))
