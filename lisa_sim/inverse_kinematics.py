"""Joint positions for a pose of a tool: damped least squares (Wampler, 1986; Nakamura and Hanafusa, 1986)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

DAMPING = 0.03
MOST_STEPS, STEP_RAD = 80, 0.4
POSITION_M, ANGLE_RAD = 0.0005, 0.005  # largest errors of a solution
OTHERS = 12  # beginnings around the last one that is given


class Arm:
    """The kinematics of an arm alone: a model with its joints and the body ``tool``, whose z points out of the tool.

    The turn of the tool about its z is free.
    """

    def __init__(self, world: mujoco.MjModel) -> None:
        self.world, self.data = world, mujoco.MjData(world)
        self.tool = world.body("tool").id
        self.low, self.high = world.jnt_range.T
        self._jac = np.zeros((2, 3, world.nv))

    def forward(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position (3,) m and z axis (3,) of the tool, in the frame of the arm's model."""
        self.data.qpos[:] = q
        mujoco.mj_kinematics(self.world, self.data)
        mujoco.mj_comPos(self.world, self.data)
        return self.data.xpos[self.tool], self.data.xmat[self.tool].reshape(3, 3)[:, 2]

    def solve(
        self,
        position: NDArray[np.float64],
        approach: NDArray[np.float64],
        starts: Sequence[NDArray[np.float64]],
        is_clear: Callable[[NDArray[np.float64]], bool] = lambda q: True,
    ) -> NDArray[np.float64] | None:
        """Joint positions within their limits, or None.

        Args:
            position: (3,) m, of the tool.
            approach: (3,) unit vector, z of the tool.
            starts: (J,) each: where the search begins; the first that leads to a solution counts. After them, others
                around the last one are tried, always the same ones.
            is_clear: Whether a solution is wanted.
        """
        rng = np.random.default_rng(1)
        others = (starts[-1] + rng.normal(0, 0.8, len(starts[-1])) for _ in range(OTHERS))
        for start in itertools.chain(starts, others):
            found = self._descend(position, approach, start)
            if found is not None and is_clear(found):
                return found
        return None

    def _descend(
        self, position: NDArray[np.float64], approach: NDArray[np.float64], start: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        q = np.clip(start, self.low, self.high)
        for _ in range(MOST_STEPS):
            here, axis = self.forward(q)
            turn = np.cross(axis, approach)
            if axis @ approach < 0:  # more than a right angle: the cross product would shrink again
                turn /= max(float(np.linalg.norm(turn)), 1e-6)
            error = np.concatenate([position - here, turn])
            if np.linalg.norm(error[:3]) < POSITION_M and axis @ approach > np.cos(ANGLE_RAD):
                return q
            mujoco.mj_jacBody(self.world, self.data, self._jac[0], self._jac[1], self.tool)
            # Turning about the tool's own z is free, so it is no task.
            free = np.eye(3) - np.outer(axis, axis)
            jacobian = np.concatenate([self._jac[0], free @ self._jac[1]])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), error)
            step *= min(1.0, STEP_RAD / max(float(np.abs(step).max()), 1e-9))
            q = np.clip(q + step, self.low, self.high)
        return None
