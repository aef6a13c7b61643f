"""A gantry: a bridge high above the table, a carriage on it, and a rod with a suction cup that points down."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_sim.robot import DOWN, Cup, Pose, Robot, Unreachable
from lisa_sim.tray import Tray, place_tray
from lisa_small.scenes.layout import Layout

HEIGHT_M, TOP_M = 2.4, 2.0  # of the bridge; highest place of the cup
REACH_M = 2.6  # from the middle of the table, along x and y
BEHIND_M = 0.6  # where it rests: so far behind the camera
STEEL, RAIL = (0.62, 0.64, 0.67, 1), (0.25, 0.3, 0.38, 1)


@dataclass(frozen=True)
class Plan:
    """rest: x, y, z of the cup."""

    rest: tuple[float, float, float]


class Gantry(Robot):
    """Three slides. It reaches everything on the table and comes straight down only."""

    joints = ("x", "y", "z")
    travel_m = 0.6

    @classmethod
    def plan(cls, layout: Layout) -> tuple[Plan, Tray]:
        """It rests behind the camera."""
        eye, target = np.array(layout.view.eye), np.array(layout.view.target)
        back = (eye - target)[:2] / max(float(np.linalg.norm((eye - target)[:2])), 1e-6)
        x, y = np.clip(eye[:2] + BEHIND_M * back, -REACH_M, REACH_M)
        return Plan((float(x), float(y), TOP_M)), place_tray(layout)

    @classmethod
    def add_to(cls, spec: mujoco.MjSpec, plan: Plan) -> None:
        box, slide = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtJoint.mjJNT_SLIDE
        common = {"gravcomp": 1}
        robot = spec.worldbody.add_body(name="robot")
        looks = {"contype": 0, "conaffinity": 0}
        bridge = robot.add_body(name="bridge", **common)
        bridge.add_geom(type=box, size=[0.04, 3, 0.05], pos=[0, 0, HEIGHT_M], rgba=RAIL, mass=5, **looks)
        carriage = bridge.add_body(name="carriage", **common)
        carriage.add_geom(type=box, size=[0.07, 0.07, 0.07], pos=[0, 0, HEIGHT_M - 0.1], rgba=STEEL, mass=3, **looks)
        # z of the tool's frame points down, out of the cup.
        tool = carriage.add_body(name="tool", quat=[0, 1, 0, 0], **common)
        rod = HEIGHT_M - 0.02
        tool.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[0.009, rod / 2, 0],
            pos=[0, 0, -rod / 2 - 0.03],
            rgba=STEEL,
            mass=1,
            **looks,
        )
        Cup.add_to(tool)
        for body, name, axis, low, high in (
            (bridge, "x", [1, 0, 0], -REACH_M, REACH_M),
            (carriage, "y", [0, 1, 0], -REACH_M, REACH_M),
            (tool, "z", [0, 0, -1], -0.05, TOP_M),
        ):
            body.add_joint(name=name, type=slide, axis=axis, range=[low, high])
            servo = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            servo.set_to_position(kp=20_000, dampratio=1)

    def rest(self, plan: Plan) -> NDArray[np.float64]:
        return np.array(plan.rest)

    def solve(self, pose: Pose, near: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, z = pose.position
        if max(abs(x), abs(y)) > REACH_M or not -0.05 <= z <= TOP_M or pose.approach @ DOWN < 0.99:
            raise Unreachable(f"the gantry comes from above only, and does not reach ({x:.2f}, {y:.2f}, {z:.2f}) m")
        return np.array([x, y, z])
