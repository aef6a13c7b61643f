"""A random table scene as plain values: which object is where, camera and light. Physics settles the objects.

Frames: world, metres, z up, the table's surface at z = 0, its centre at x = y = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_small.scenes import SPLITS
from lisa_small.scenes.assets import Model, load_models
from lisa_small.scenes.bodies import add_collision, add_hull
from lisa_small.scenes.world import WORLD

# Numbers of textures.surface: those of training are never seen in a test.
SURFACES = {"train": range(33), "test": range(33, 47), "novel": range(33, 47)}
PALETTE = {
    "red": (0.75, 0.10, 0.08),
    "orange": (0.90, 0.42, 0.05),
    "yellow": (0.90, 0.78, 0.10),
    "green": (0.12, 0.50, 0.18),
    "blue": (0.10, 0.25, 0.70),
    "purple": (0.45, 0.15, 0.55),
    "pink": (0.92, 0.50, 0.65),
    "white": (0.92, 0.92, 0.90),
    "black": (0.06, 0.06, 0.07),
}
TIME_STEP_S, SETTLE_S, SETTLE_AT_MOST_S = 0.004, 0.4, 1.6
RESTING_M_S = 0.02
COPIES = 2  # of one model in one scene, at most


@dataclass(frozen=True, eq=False)
class Placement:
    """One object in the world frame.

    Attributes:
        model: Index in ``load_models()``.
        copy: Number of the copy of this model in the scene, below COPIES.
        position: (3,) of its origin, metres.
        quat: (4,) rotation w, x, y, z.
        colour: Its paint, a key of PALETTE, or None.
    """

    model: int
    copy: int
    position: NDArray[np.float64]
    quat: NDArray[np.float64]
    colour: str | None = None


@dataclass(frozen=True)
class View:
    """A camera looking at ``target`` from ``eye`` (world, m), rolled by roll_deg; fovy_deg is the vertical angle."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    roll_deg: float
    fovy_deg: float
    width: int
    height: int


@dataclass(frozen=True)
class Light:
    """The lamp, and the light that comes from everywhere.

    Attributes:
        position: Of the lamp, metres, world frame.
        diffuse: Brightness of the lamp, in [0, 1].
        ambient: Brightness of the light from everywhere, in [0, 1].
        tint: RGB, around 1, of both.
    """

    position: tuple[float, float, float]
    diffuse: float
    ambient: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """A whole scene.

    Attributes:
        placements: The objects; number i has the id i + 1.
        table: Number of its surface, as floor and wall.
        table_size: Half sides along x and y, metres.
        table_angle: Is not rendered: the table stays aligned with the world. It takes a random number all the same,
            because the later ones of a seed depend on it.
        table_repeat: How often the texture repeats on the table.
    """

    placements: tuple[Placement, ...]
    view: View
    light: Light
    table: int
    floor: int
    wall: int
    table_size: tuple[float, float]
    table_angle: float
    table_repeat: float


def rotate(quat: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rotates points (N, 3) by quat (w, x, y, z)."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat, float))
    return points @ matrix.reshape(3, 3).T


def turned(quat: NDArray[np.float64], yaw: float) -> NDArray[np.float64]:
    """The rotation quat (w, x, y, z), followed by a turn about the world's z axis by yaw radians."""
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, np.array([math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]), np.asarray(quat, float))
    return result


def corners(
    low: NDArray[np.floating], high: NDArray[np.floating], yaw: float, centre: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Corners (4, 2) of the rectangle from low to high (x, y), turned by yaw radians and moved to centre."""
    box = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    c, s = math.cos(yaw), math.sin(yaw)
    return box @ np.array([[c, s], [-s, c]]) + centre


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two rectangles (4, 2) overlap, by their separating axes."""
    for box in (a, b):
        for axis in (box[1] - box[0], box[2] - box[1]):
            pa, pb = a @ axis, b @ axis
            if pa.max() <= pb.min() or pb.max() <= pa.min():
                return False
    return True


def choose_models(rng: np.random.Generator, split: str, count: int) -> list[int]:
    """Draws ``count`` models, as indices. Classes with a common name (``near`` in world.yaml) never share a scene."""
    models = load_models()
    by_label: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        if not model.held_out:
            by_label.setdefault(model.label, []).append(index)
    if split == "novel":
        novel = {model.label for model in models if model.held_out}
        by_label |= {n: [i for i, m in enumerate(models) if m.label == n and m.held_out] for n in novel}
    labels = sorted(by_label)
    chosen: list[int] = []
    present: set[str] = set()
    while len(chosen) < count:
        label = labels[rng.integers(len(labels))]
        if label in present or any(other in present for other in WORLD.things[label].near):
            continue
        present.add(label)
        options = by_label[label]
        copies = 1
        if rng.random() < 0.16 and len(chosen) + 2 <= count:
            copies = 2
        for _ in range(copies):
            free = [index for index in options if chosen.count(index) < COPIES]
            chosen.append(free[rng.integers(len(free))])
    return chosen


def tint(rng: np.random.Generator, model: Model, taken: list[str | None]) -> str | None:
    """Draws a paint for a paintable class, or None. taken: the paints of the same class in this scene."""
    if not WORLD.things[model.label].paintable or rng.random() < 0.35:
        return None
    free = [name for name in PALETTE if name not in taken]
    return free[rng.integers(len(free))]


def place(rng: np.random.Generator, chosen: list[int]) -> list[Placement]:
    """Places models on the table, apart from each other, in resting poses a few millimetres above it."""
    models = load_models()
    areas = sum(np.prod(sorted(models[index].size)[1:]) for index in chosen)
    reach = math.sqrt(areas / rng.uniform(0.45, 1.0)) / 2 + 0.02  # half side of the square they share
    gap = rng.uniform(-0.008, 0.02)
    placed: list[Placement] = []
    footprints: list[NDArray[np.float64]] = []
    colours: dict[str, list[str | None]] = {}
    for index in chosen:
        model = models[index]
        pose = model.poses[rng.choice(len(model.poses), p=model.chances)]
        hull = rotate(pose, model.hull)
        low, high = hull.min(0), hull.max(0)
        for attempt in range(40):
            yaw = rng.uniform(0, 2 * math.pi)
            spread = reach * (1 + attempt / 40)
            centre = rng.uniform(-spread, spread, 2)
            box = corners(low - gap / 2, high + gap / 2, yaw, centre)
            if not any(overlap(box, other) for other in footprints):
                break
        lift = 0.002 if attempt < 39 else 0.12
        taken = colours.setdefault(model.label, [])
        colour = tint(rng, model, taken)
        taken.append(colour)
        position = np.array([centre[0], centre[1], lift - low[2]])
        copy = sum(other.model == index for other in placed)
        placed.append(Placement(index, copy, position, turned(pose, yaw), colour))
        footprints.append(box)
    return placed


def settle(placements: list[Placement], half: tuple[float, float]) -> list[Placement]:
    """Simulates gravity until the objects rest, with convex hulls and friction. half: half sides of the table, metres.

    Returns:
        The placements at rest, without those that fell off the table.
    """
    spec = mujoco.MjSpec()
    spec.option.timestep = TIME_STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations = 20
    table = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[*half, 0.02], pos=[0, 0, -0.02])
    table.friction = [0.9, 0.02, 0.003]
    for index in {placement.model for placement in placements}:
        add_hull(spec, index)
    for placement in placements:
        add_collision(spec.worldbody.add_body(pos=placement.position, quat=placement.quat), placement.model)
    world = spec.compile()
    world.dof_damping[:] = 1e-4
    data = mujoco.MjData(world)
    limit = SETTLE_S
    while data.time < limit:
        mujoco.mj_step(world, data, 25)
        if data.time >= limit and limit < SETTLE_AT_MOST_S and np.abs(data.qvel).max(initial=0) > 10 * RESTING_M_S:
            limit += 0.2
    settled = []
    for placement, state in zip(placements, data.qpos.reshape(-1, 7), strict=True):
        if state[2] > -0.01 and np.isfinite(state).all():
            settled.append(replace(placement, position=state[:3].copy(), quat=state[3:].copy()))
    return settled


def look(rng: np.random.Generator, placements: Sequence[Placement], size: tuple[int, int]) -> View:
    """Draws a camera that looks 35 to 80 degrees down at the objects, from any side. size: width, height in pixels."""
    width, height = size
    centres = np.array([placement.position for placement in placements])
    middle = (centres.min(0) + centres.max(0)) / 2
    radius = max(np.linalg.norm((centres - middle)[:, :2], axis=1).max() + 0.07, 0.15)
    fovy = rng.uniform(38, 60)
    half_angle = math.atan(math.tan(math.radians(fovy / 2)) * min(1.0, width / height))
    distance = radius / math.tan(half_angle) * rng.uniform(0.8, 1.05)
    elevation, azimuth = math.radians(rng.uniform(35, 80)), rng.uniform(0, 2 * math.pi)
    target = np.array([middle[0], middle[1], middle[2] * 0.7]) + np.append(rng.uniform(-0.2, 0.2, 2) * radius, 0)
    away = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    eye = target + distance * away
    return View(tuple(eye), tuple(target), float(rng.normal(0, 3)), float(fovy), width, height)


def illuminate(rng: np.random.Generator) -> Light:
    """Draws the light."""
    angle, slant = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 1.1)
    position = (2 * math.sin(slant) * math.cos(angle), 2 * math.sin(slant) * math.sin(angle), 2 * math.cos(slant))
    warmth = rng.uniform(-0.12, 0.12)
    tone = (1 + warmth, 1.0, 1 - warmth)
    return Light(position, float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.22, 0.5)), tone)


def sample_layout(seed: int, split: str, size: tuple[int, int]) -> Layout:
    """Draws scene number ``seed`` of a split. size: width, height in pixels. Equal arguments give equal scenes."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    count = int(rng.choice(np.arange(1, 11), p=[0.03, 0.07, 0.17, 0.2, 0.18, 0.14, 0.1, 0.06, 0.03, 0.02]))
    surfaces = SURFACES[split]
    table_size = (float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.4, 0.9)))
    placements: list[Placement] = []
    while not placements:
        placements = settle(place(rng, choose_models(rng, split, count)), table_size)
    return Layout(
        placements=tuple(placements),
        view=look(rng, placements, size),
        light=illuminate(rng),
        table=int(rng.choice(surfaces)),
        floor=int(rng.choice(surfaces)),
        wall=int(rng.choice(surfaces)),
        table_size=table_size,
        table_angle=float(rng.uniform(0, math.pi)),
        table_repeat=float(rng.uniform(1, 3)),
    )
