"""``python -m lisa_sim``: the simulated robot cell, with one line where the machine cannot simulate."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the cell. Returns the process's exit code."""
    try:
        from lisa_sim.node import main as run
    except ModuleNotFoundError as error:
        reason = f"{error}; MuJoCo simulates and draws: pip install mujoco; rclpy comes with ROS 2: make build"
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # PyOpenGL and MuJoCo raise any of these
        reason = f"no OpenGL without a screen: {' '.join(str(error).split())}; on Debian and Ubuntu install "
        reason += "libegl1 libegl-mesa0 libgl1-mesa-dri"
    else:
        return run()
    print(f"robot_cell: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
