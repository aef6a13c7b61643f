"""What every test may ask for: a DDS domain of its own, a checkpoint of the goldens, OpenGL."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: tests share the machine with the node's worker and the camera that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import domain
import marks
import pytest
from hypothesis import HealthCheck, settings
from needs import missing

from lisa_ros.errors import LisaError

# The long form of test/ros/test_fuzz.py: its tests make 100,000 cases together.
settings.register_profile("fuzz", max_examples=8_400, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("suite", deadline=None)  # a shared machine may stand still in any case
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Processes that a test starts inherit the domain; two test runs on one machine do not hear each other."""
    config.pluginmanager.register(marks)
    config.stash[pytest.StashKey()] = domain.claim()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def checkpoint_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden A as the reference saves a checkpoint."""
    from drawn_weights import write_drawn_checkpoint

    return write_drawn_checkpoint(REPOSITORY / "test" / "golden" / "A", tmp_path_factory.mktemp("A") / "ckpt")


@pytest.fixture(scope="session")
def opengl() -> None:
    """MuJoCo, and OpenGL without a screen; skipped, with the reason, without."""
    try:
        from lisa_small.scenes.render import Studio

        Studio().close()
    except (LisaError, ImportError, AttributeError, OSError) as error:  # AttributeError: PyOpenGL's for no libEGL
        missing("opengl", f"scenes cannot be drawn (pip install mujoco, apt install libegl1 libegl-mesa0): {error}")


@pytest.fixture
def ros():
    """An initialised rclpy, shut down after the test."""
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2 with rclpy: make build, or source a ROS installation")
    rclpy.init()
    yield rclpy
    rclpy.try_shutdown()
