"""What every simulated robot has: a tool that moves along straight lines, and a suction cup."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from lisa_sim.tray import Tray
from lisa_small.scenes.layout import Layout

SEALS = math.cos(math.radians(45))  # between cup and surface; a steeper one leaks
CUP_RADIUS_M, CUP_LENGTH_M = 0.012, 0.03
SPEED_M_S, GUARDED_M_S = 0.7, 0.12
JOINT_S = 2.0  # rad/s or m/s
LINE_M = 0.03  # between two solved poses of a straight line
ARRIVED = 0.002  # distance of the joints from their goals, rad or m
STILL, SETTLED_S = 0.01, 1.0  # joint speed, rad/s or m/s; longest wait for it


class Unreachable(Exception):
    """The robot cannot go there; the message says where."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Of the tool. position: (3,) m of the cup's rim; approach: (3,) unit vector along which the cup points. World."""

    position: NDArray[np.float64]
    approach: NDArray[np.float64]


DOWN = np.array([0.0, 0.0, -1.0])


class Cup:
    """An ideal suction cup: it welds to the first object that it touches, if the surface is not too steep.

    It never lets go by itself, knows no payload and no leak.

    Attributes:
        on: Whether there is vacuum.
        held: Number of the object that it holds, or None.
    """

    def __init__(self, world: mujoco.MjModel, data: mujoco.MjData, things: list[int]) -> None:
        """things: ids of the bodies that can be held, in the order of their grips."""
        self.world, self.data, self.things = world, data, things
        self.on, self.held = False, None  # type: bool, int | None
        self.geom, self.body = world.geom("cup").id, world.body("tool").id

    @staticmethod
    def add_to(body: mujoco.MjsBody) -> None:
        """Adds the cup to the tool's body, whose z points out of the cup and whose origin is on its rim."""
        body.add_geom(
            name="cup",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[CUP_RADIUS_M, CUP_LENGTH_M / 2, 0],
            pos=[0, 0, -CUP_LENGTH_M / 2],
            rgba=[0.12, 0.12, 0.13, 1],
            mass=0.05,
        )

    @staticmethod
    def add_grip(spec: mujoco.MjSpec, thing: str) -> None:
        """Adds the weld that holds an object; call it once for each, in their order."""
        spec.add_equality(
            name=f"grip.{thing}",
            type=mujoco.mjtEq.mjEQ_WELD,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            name1="tool",
            name2=thing,
            active=False,
        )

    def touches(self) -> bool:
        """Whether the cup touches anything; while it holds an object, whether that does."""
        bodies = {self.body} if self.held is None else {self.body, self.things[self.held]}
        for contact in self.data.contact[: self.data.ncon]:
            pair = {int(self.world.geom_bodyid[contact.geom1]), int(self.world.geom_bodyid[contact.geom2])}
            if len(pair & bodies) == 1 and contact.dist < 0:
                return True
        return False

    def update(self) -> None:
        """Grips what it touches, while there is vacuum. Call it after every step."""
        if not self.on or self.held is not None:
            return
        axis = self.data.xmat[self.body].reshape(3, 3)[:, 2]
        for contact in self.data.contact[: self.data.ncon]:
            if self.geom not in (contact.geom1, contact.geom2):
                continue
            other = contact.geom2 if contact.geom1 == self.geom else contact.geom1
            body = int(self.world.geom_bodyid[other])
            if body in self.things and abs(contact.frame[:3] @ axis) >= SEALS:
                self._weld(self.things.index(body), contact.pos)
                return

    def release(self) -> None:
        """Lets go."""
        self.on = False
        if self.held is not None:
            self.data.eq_active[self._grip(self.held)] = 0
            self.held = None

    def _grip(self, number: int) -> int:
        return int(self.world.equality(f"grip.{self.world.body(self.things[number]).name}").id)

    def _weld(self, number: int, point: NDArray[np.float64]) -> None:
        """Keeps the present pose of the object to the cup. point: (3,) where they touch, world."""
        data, tool, body = self.data, self.body, self.things[number]
        grip = self._grip(number)
        turn = np.zeros(4)
        mujoco.mju_negQuat(turn, data.xquat[tool])
        mujoco.mju_mulQuat(turn, turn.copy(), data.xquat[body])
        self.world.eq_data[grip, :3] = data.xmat[body].reshape(3, 3).T @ (point - data.xpos[body])
        self.world.eq_data[grip, 3:6] = data.xmat[tool].reshape(3, 3).T @ (point - data.xpos[tool])
        self.world.eq_data[grip, 6:10] = turn
        self.world.eq_data[grip, 10] = 1
        data.eq_active[grip] = 1
        self.held = number


class Robot(ABC):
    """A robot with position servos and a suction cup. A motion is an iterator: one physics step for each item.

    ``joints``: their names. ``travel_m``: height at which it carries objects.
    A subclass adds a body called ``robot`` with a body ``tool`` in it, and actuators in the order of ``joints``.
    """

    joints: ClassVar[tuple[str, ...]]
    travel_m: ClassVar[float]
    park_q: NDArray[np.float64]

    def __init__(self, world: mujoco.MjModel, data: mujoco.MjData, cup: Cup, plan: Any) -> None:
        """plan: what plan() returned. The robot starts at rest in ``park_q``."""
        self.world, self.data, self.cup = world, data, cup
        self.qpos = np.array([world.joint(name).qposadr[0] for name in self.joints])
        self.dofs = np.array([world.joint(name).dofadr[0] for name in self.joints])
        self.tool = world.body("tool").id
        self.park_q = self.rest(plan)
        data.qpos[self.qpos] = data.ctrl[:] = self.park_q

    @classmethod
    @abstractmethod
    def plan(cls, layout: Layout) -> tuple[Any, Tray]:
        """Where the robot stands and rests, and a tray in its reach."""

    @classmethod
    @abstractmethod
    def add_to(cls, spec: mujoco.MjSpec, plan: Any) -> None:
        """Adds the robot to a model."""

    @abstractmethod
    def rest(self, plan: Any) -> NDArray[np.float64]:
        """(J,) joint positions in which the camera sees least of the robot."""

    @abstractmethod
    def solve(self, pose: Pose, near: NDArray[np.float64]) -> NDArray[np.float64]:
        """(J,) joint positions for a pose of the tool, near to other ones. Raises Unreachable."""

    @property
    def pose(self) -> Pose:
        """Where the tool is."""
        return Pose(self.data.xpos[self.tool].copy(), self.data.xmat[self.tool].reshape(3, 3)[:, 2].copy())

    @property
    def q(self) -> NDArray[np.float64]:
        """(J,) joint positions."""
        return np.asarray(self.data.qpos[self.qpos]).copy()

    def move_to(self, pose: Pose, guarded: bool = False) -> Iterator[None]:
        """Moves the tool along a straight line.

        Args:
            pose: The goal.
            guarded: Slowly, and only until the cup touches something.

        Raises:
            Unreachable: Before the first step.
        """
        length = float(np.linalg.norm(pose.position - self.pose.position))
        return self._follow(self.path(pose), length / (GUARDED_M_S if guarded else SPEED_M_S), guarded)

    def path(self, pose: Pose) -> list[NDArray[np.float64]]:
        """Joint positions (J,) of points along a straight line. Raises Unreachable."""
        self.solve(pose, np.asarray(self.data.ctrl))  # where the goal is out of reach, the error names the goal
        begin = self.pose
        count = max(1, math.ceil(float(np.linalg.norm(pose.position - begin.position)) / LINE_M))
        path, q = [], np.asarray(self.data.ctrl).copy()
        for share in np.arange(1, count + 1) / count:
            approach = (1 - share) * begin.approach + share * pose.approach
            approach /= max(float(np.linalg.norm(approach)), 1e-6)
            q = self.solve(Pose((1 - share) * begin.position + share * pose.position, approach), q)
            path.append(q)
        return path

    def park(self) -> Iterator[None]:
        """Moves to where the camera sees least of the robot."""
        return self._follow([self.park_q], 0.3, False)

    def _follow(self, path: list[NDArray[np.float64]], seconds: float, guarded: bool) -> Iterator[None]:
        """Joint positions one after another, then waits until the joints are still."""
        step_s = self.world.opt.timestep
        knots = np.array([np.asarray(self.data.ctrl).copy(), *path])
        # No joint is faster than JOINT_S, whatever the tool's speed.
        farthest = float(np.abs(np.diff(knots, axis=0)).sum(axis=0).max())
        steps = max(int(max(seconds, farthest / JOINT_S) / step_s), 1)
        for number in range(1, steps + 1):
            share = number / steps
            if not guarded:
                share = share * share * (3 - 2 * share)  # soft start and stop
            place = share * (len(knots) - 1)
            low = min(int(place), len(knots) - 2)
            self.data.ctrl[:] = knots[low] + (place - low) * (knots[low + 1] - knots[low])
            yield
            if guarded and self.cup.touches():
                self.data.ctrl[:] = self.q
                break
        for _ in range(int(SETTLED_S / step_s)):
            yield
            late = np.abs(np.asarray(self.data.ctrl) - self.data.qpos[self.qpos]).max()
            if np.abs(self.data.qvel[self.dofs]).max() < STILL and (late < ARRIVED or self.cup.touches()):
                return
