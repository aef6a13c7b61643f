"""What every test may ask for: a DDS domain of its own, a checkpoint of the goldens, OpenGL."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Before torch is imported: tests share the machine with the node's worker and the camera that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import domain
import machine_speed
import marks
import pytest
from busy_machine import busy
from hypothesis import HealthCheck, settings
from needs import missing

from lisa_ros.errors import LisaError

# The long form of test/ros/test_fuzz.py: its tests make 100,000 cases together.
settings.register_profile("fuzz", max_examples=8_400, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("suite", deadline=None)  # a shared machine may stand still in any case
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent
BUSY = pytest.StashKey[list[subprocess.Popen[bytes]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lisa_ros")
    group.addoption("--engine", default="", help="for test/ros/test_any_engine.py, as the parameter model")
    group.addoption("--engine-option", action="append", default=[], metavar="NAME=VALUE", help="of that engine")
    group.addoption("--engine-command", default="", metavar="TEXT", help="what that engine finds in the picture")
    group.addoption("--engine-absent", default="", metavar="TEXT", help="what is not in the picture")
    group.addoption("--engine-picture", default="", metavar="FILE", help="else a red rectangle on dark ground")
    group.addoption("--busy", type=int, default=0, metavar="N", help="run beside N processes that do nothing but count")


def pytest_configure(config: pytest.Config) -> None:
    """Processes that a test starts inherit the domain; two test runs on one machine do not hear each other."""
    config.pluginmanager.register(marks)
    config.stash[pytest.StashKey()] = domain.claim()
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers share the machine, and what is measured of it
        load = busy(config.getoption("--busy"))
        config.stash[BUSY] = load.__enter__()
        config.add_cleanup(lambda: load.__exit__(None, None, None))
    machine_speed.settle()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that was to be beside a load and was not has proved nothing."""
    ended = [process for process in session.config.stash.get(BUSY, ()) if process.poll() is not None]
    if ended:
        raise pytest.UsageError(f"{len(ended)} of the busy processes ended before the tests; run again")


def pytest_report_header(config: pytest.Config) -> str:
    beside = f", beside {config.getoption('--busy')} busy processes" if config.getoption("--busy") else ""
    return f"machine: time limits of tests x {machine_speed.slowness():.1f}{beside} (test/machine_speed.py)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scale the limit of each test (pytest-timeout), unless the command line gives one."""
    if config.getoption("timeout", None) is not None:
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0] if marker else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(machine_speed.limit(seconds)), append=False)


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
