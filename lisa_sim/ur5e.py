"""A Universal Robots UR5e with a suction cup, on a stand beside the table's objects."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_sim.inverse_kinematics import Arm
from lisa_sim.robot import Cup, Pose, Robot, Unreachable
from lisa_sim.tray import TABLE_FOOT_M, Tray, footprints, place_tray
from lisa_small.scenes.dataset import project
from lisa_small.scenes.layout import Layout

MODEL = Path(__file__).parent / "assets" / "ur5e" / "ur5e.xml"
PREFIX = "ur5e_"  # of the names of joints and bodies, in a cell
REACH_M, NEAREST_M = 0.8, 0.25  # from the base, of what is picked
STAND_M = 0.2  # half side of the ground that the base needs free of objects
ROD_M = 0.1  # between flange and rim of the cup
CAMERA_M = 0.35  # the links stay so far away from the camera
ELBOW_M = 0.15  # least height of elbow and wrist above the table
JUMP_RAD = 0.6  # between two points of a line; more is another configuration of the arm
READY = np.array([0, -1.9, 2.0, -1.67, -1.5708, 0])  # above the table, the cup down; the first joint turns to the table
FOLDS = ((-2.6, 2.7), (-2.2, 2.5), (-1.57, 2.6), (-2.9, 2.3), (-1.57, 0.0))  # shoulder lift and elbow at rest


@dataclass(frozen=True)
class Plan:
    """x, y of the base, its yaw towards the objects, and where the arm rests."""

    base: tuple[float, float]
    yaw: float
    rest: tuple[float, ...]


def description() -> mujoco.MjSpec:
    """The arm alone."""
    spec = mujoco.MjSpec.from_file(str(MODEL))
    for body in spec.bodies[1:]:
        body.gravcomp = 1
    return spec


def add_tool(spec: mujoco.MjSpec, prefix: str = "") -> mujoco.MjSpec:
    """Adds rod and cup to the arm in a model. prefix: of the arm's names. Returns the model."""
    site = spec.site(f"{prefix}attachment_site")
    rim = np.add(site.pos, [0, ROD_M, 0])
    tool = spec.body(f"{prefix}wrist_3_link").add_body(name="tool", pos=rim, quat=site.quat, gravcomp=1)
    rod = (ROD_M - 0.025) / 2
    tool.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[0.009, rod, 0],
        pos=[0, 0, -0.025 - rod],
        rgba=[0.62, 0.64, 0.67, 1],
        mass=0.1,
        contype=0,
        conaffinity=0,
    )
    Cup.add_to(tool)
    return spec


class UR5e(Robot):
    """Six joints. What is farther from its base than REACH_M is out of reach."""

    joints = tuple(
        f"{PREFIX}{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
    )
    travel_m = 0.4

    @classmethod
    def plan(cls, layout: Layout) -> tuple[Plan, Tray]:
        """The base where most objects are in reach and the camera sees least of the arm at rest."""
        things = [outline.mean(axis=0) for outline in footprints(layout)]
        taken = np.concatenate(footprints(layout))
        middle = (taken.min(axis=0) + taken.max(axis=0)) / 2
        arm = Arm(add_tool(description()).compile())
        best, most = None, (-math.inf, -math.inf)
        for angle in np.linspace(0, 2 * math.pi, 16, endpoint=False):
            away = np.array([math.cos(angle), math.sin(angle)])
            distance = next(
                d for d in np.arange(0.2, 3, 0.02) if all(is_apart(middle + d * away, o) for o in footprints(layout))
            )
            base = middle + distance * away
            reached = sum(float(np.linalg.norm(thing - base)) <= REACH_M for thing in things)
            yaw = angle + math.pi
            rest, seen = hidden_rest(arm, base, yaw, layout)
            if (reached, -seen) > most:
                most = (reached, -seen)
                best = Plan((float(base[0]), float(base[1])), float(yaw), rest)
        assert best is not None
        return best, place_tray(layout, lambda tray: is_in_reach(tray, np.array(best.base)))

    @classmethod
    def add_to(cls, spec: mujoco.MjSpec, plan: Plan) -> None:
        turn = [math.cos(plan.yaw / 2), 0, 0, math.sin(plan.yaw / 2)]
        robot = spec.worldbody.add_body(name="robot", pos=[*plan.base, 0], quat=turn)
        stand = TABLE_FOOT_M / 2
        robot.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[0.09, stand - 0.001, 0],
            pos=[0, 0, -stand - 0.001],
            rgba=[0.3, 0.3, 0.32, 1],
        )
        arm = description()
        arm.option.impratio, arm.option.cone = spec.option.impratio, spec.option.cone
        spec.attach(arm, frame=robot.add_frame(), prefix=PREFIX)
        add_tool(spec, PREFIX)

    def __init__(self, world: mujoco.MjModel, data: mujoco.MjData, cup: Cup, plan: Plan) -> None:
        self.arm = Arm(add_tool(description()).compile())
        self.base, self.yaw = np.array([*plan.base, 0.0]), plan.yaw
        tool, _ = self.arm.forward(READY)
        self._high = [self.arm.world.body(name).id for name in ("forearm_link", "wrist_1_link")]
        self._pan = math.atan2(tool[1], tool[0])
        super().__init__(world, data, cup, plan)

    def rest(self, plan: Plan) -> NDArray[np.float64]:
        return np.array(plan.rest)

    def solve(self, pose: Pose, near: NDArray[np.float64]) -> NDArray[np.float64]:
        turn = turn_of(self.yaw)
        local = turn.T @ (pose.position - self.base)
        x, y, z = pose.position
        found = None
        if np.linalg.norm(local[:2]) <= REACH_M + 0.1:
            found = self.arm.solve(local, turn.T @ pose.approach, [near, self._ready(pose)], self._is_clear)
        if found is None:
            raise Unreachable(f"({x:.2f}, {y:.2f}, {z:.2f}) m is out of the arm's reach")
        return found

    def _is_clear(self, q: NDArray[np.float64]) -> bool:
        """Whether elbow and wrist are above the objects."""
        self.arm.forward(q)
        return bool(self.arm.data.xpos[self._high, 2].min() > ELBOW_M)

    def path(self, pose: Pose) -> list[NDArray[np.float64]]:
        """A straight line where the arm keeps its configuration, else from joint positions to joint positions."""
        try:
            line = super().path(pose)
            steps = np.abs(np.diff([np.asarray(self.data.ctrl), *line], axis=0)).max(axis=1)
            if steps.max() < JUMP_RAD:
                return line
        except Unreachable:
            pass
        here, goal = np.asarray(self.data.ctrl), self.solve(pose, self._ready(pose))
        return list(here + np.linspace(0, 1, 20)[1:, None] * (goal - here))

    def _ready(self, pose: Pose) -> NDArray[np.float64]:
        """READY, turned to a pose."""
        local = turn_of(self.yaw).T @ (pose.position - self.base)
        ready = READY.copy()
        ready[0] = math.atan2(local[1], local[0]) - self._pan
        ready[0] = (ready[0] + math.pi) % (2 * math.pi) - math.pi
        return ready


def turn_of(yaw: float) -> NDArray[np.float64]:
    """(3, 3) rotation about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def is_apart(point: NDArray[np.float64], outline: NDArray[np.float64]) -> bool:
    """Whether a point (2,) is STAND_M from a rectangle along the axes (4, 2), at least."""
    outside = np.maximum(np.maximum(outline.min(axis=0) - point, point - outline.max(axis=0)), 0)
    return float(np.linalg.norm(outside)) >= STAND_M


def is_in_reach(tray: Tray, base: NDArray[np.float64]) -> bool:
    """Whether the arm can put objects into a tray, and does not stand in it."""
    distance = float(np.linalg.norm(np.array(tray.centre) - base))
    return NEAREST_M + math.hypot(*tray.half) * 0.7 <= distance <= REACH_M - 0.1


def hidden_rest(arm: Arm, base: NDArray[np.float64], yaw: float, layout: Layout) -> tuple[tuple[float, ...], float]:
    """The rest of which the camera sees least, and the share of the arm that it sees then (infinite: none is free)."""
    best, least = READY, math.inf
    turn, view = turn_of(yaw), layout.view
    for pan, (lift, elbow) in itertools.product(np.radians(range(-150, 181, 30)), FOLDS):
        q = np.array([pan, lift, elbow, -1.5708, -1.5708, 0])
        arm.forward(q)
        joints = arm.data.xpos[1:]
        shares = np.linspace(0, 1, 6)[:, None, None]
        links = (joints[:-1] + shares * (joints[1:] - joints[:-1])).reshape(-1, 3) @ turn.T + [*base, 0]
        if np.linalg.norm(links - view.eye, axis=1).min() < CAMERA_M or joints[3:, 2].min() < 0.1:
            continue
        pixels = project(view, links)
        margin = view.height / 8  # the links are thick
        ahead = (links - view.eye) @ (np.subtract(view.target, view.eye)) > 0
        inside = ((pixels > -margin) & (pixels < [view.width + margin, view.height + margin])).all(axis=1) & ahead
        seen = float(inside.mean())
        if seen < least:
            best, least = q, seen
    return tuple(float(value) for value in best), least
