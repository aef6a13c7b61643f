"""Commands to the bundled model end with their object in the tray: cell, node and client over DDS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import cv2
import pytest
import rclpy
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from machine_speed import limit
from PIL import Image
from rclpy.executors import SingleThreadedExecutor
from robot import LIMIT_S, REPOSITORY, NodeProcess, wait_for
from std_srvs.srv import Trigger

from lisa_ros.srv import MoveTo
from lisa_small import model_folder

pytest.importorskip("mujoco", reason="the cell is simulated by MuJoCo: pip install mujoco")
pytestmark = pytest.mark.weights

EXAMPLE = REPOSITORY / "examples" / "pick_and_place.py"
PICKED, NOT_FOUND = 0, 3
FIRST_SCENE = 6
EPISODES, AT_LEAST = 5, 4


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}


class Robot:
    """The cell as a process, ten times as fast as real."""

    def __init__(self, folder, **parameters) -> None:
        self.log = folder / "robot.log"
        arguments = [f"{name}:={value}" for name, value in {"speed": 10.0, "rate_hz": 5.0, **parameters}.items()]
        command = [sys.executable, "-m", "lisa_sim", "--ros-args"]
        for argument in arguments:
            command += ["-p", argument]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(limit(10))
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


@pytest.fixture(scope="module")
def robot(opengl, tmp_path_factory) -> Iterator[Robot]:
    robot = Robot(tmp_path_factory.mktemp("robot"), seed=FIRST_SCENE)
    yield robot
    assert robot.stop() == 0, robot.log.read_text()


@pytest.fixture(scope="module")
def lisa(tmp_path_factory) -> Iterator[NodeProcess]:
    topics = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info", "depth": "/camera/depth/image_raw"}
    lisa = NodeProcess(tmp_path_factory.mktemp("lisa"), model=model_folder(), remap=topics)
    yield lisa
    lisa.stop()


@pytest.fixture(scope="module")
def pick(robot: Robot, lisa: NodeProcess):
    """pick(*arguments) -> the example's finished process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLE), "--node", lisa.name, "--timeout", str(limit(LIMIT_S)), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=limit(200), check=False
        )
        assert robot.process.poll() is None, robot.log.read_text()
        return done

    return run


@pytest.fixture(scope="module")
def ask(context, robot: Robot):
    """ask(service, request) -> the answer of one of the cell's services; most take no request."""
    node = rclpy.create_node("pick_test", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    clients = {name: node.create_client(Trigger, f"/robot_cell/{name}") for name in ("next_scene", "in_tray")}
    clients["move_to"] = node.create_client(MoveTo, "/robot_cell/move_to")

    def call(service: str, request: object = None):
        client = clients[service]
        wait_for(client.service_is_ready, service, step=lambda: executor.spin_once(0.05))
        future = client.call_async(request or Trigger.Request())
        wait_for(future.done, f"answer of {service}", step=lambda: executor.spin_once(0.05))
        assert robot.process.poll() is None, robot.log.read_text()
        return future.result()

    yield call
    executor.remove_node(node)
    node.destroy_node()


def test_four_of_five_commands_end_with_their_object_alone_in_the_tray(pick, ask) -> None:
    right, told = 0, []
    for episode in range(EPISODES):
        if episode:
            assert ask("next_scene").success
        done = pick()
        truth = json.loads(ask("in_tray").message)
        good = len(truth["in_tray"]) == 1 and truth["in_tray"][0] in truth["suggested"]
        right += good
        told.append((done.returncode, truth, done.stdout, done.stderr))
        if good:
            assert done.returncode == PICKED, told[-1]
    assert right >= AT_LEAST, told


def test_a_picture_and_a_film_show_it(pick, ask, tmp_path) -> None:
    assert ask("next_scene").success
    done = pick("--out", str(tmp_path))
    assert done.returncode in (PICKED, NOT_FOUND, 1), done.stderr
    with Image.open(tmp_path / "pick.png") as picture:
        assert picture.height > 480
        assert picture.width % 640 == 0
    film = cv2.VideoCapture(str(tmp_path / "pick.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) >= 3
    film.release()


def test_what_is_not_there_is_said_and_nothing_moves(pick, ask) -> None:
    assert ask("next_scene").success
    done = pick("Could you get me the surfboard, please?")
    assert done.returncode == NOT_FOUND, done.stdout + done.stderr
    assert "there is nothing like that on the table" in done.stdout
    assert json.loads(ask("in_tray").message)["in_tray"] == []


@pytest.mark.parametrize(
    ("frame", "x", "reason"),
    [
        ("world", 9.0, "does not reach (9.00, 0.00, 0.50) m"),
        ("camera", 0.0, "target is in the frame 'camera'; give it in 'world'"),
        ("world", float("nan"), "not finite"),
    ],
)
def test_a_goal_that_the_robot_cannot_go_to_is_refused_with_the_reason(ask, frame, x, reason) -> None:
    target = PoseStamped()
    target.header.frame_id = frame
    target.pose.position = Point(x=x, y=0.0, z=0.5)
    target.pose.orientation = Quaternion(x=1.0, w=0.0)
    answer = ask("move_to", MoveTo.Request(target=target))
    assert not answer.success
    assert reason in answer.message
    assert answer.reached.position.z > 0.5  # where it rests


def test_a_robot_that_is_not_there_is_named(pick) -> None:
    done = pick("--robot", "/nobody", "--timeout", "3", "the mug")
    assert done.returncode == 1
    assert done.stderr.startswith("pick_and_place: ")
    assert "/nobody" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"robot": "crane"}, "robot is 'crane'; choose one of gantry, ur5e"),
        ({"speed": -1.0}, "speed is -1.0"),
        ({"seed": -5}, "seed is -5"),
    ],
)
def test_a_cell_says_in_one_line_what_is_wrong_with_a_parameter(parameters, reason, tmp_path) -> None:
    robot = Robot(tmp_path, **parameters)
    assert robot.process.wait(limit(60)) == 1
    lines = robot.log.read_text().splitlines()
    assert reason in lines[-1]
    assert lines[-1].startswith("robot_cell: ")


def test_without_opengl_the_cell_names_what_to_install(tmp_path) -> None:
    """A PyOpenGL that finds no library, as on a machine without one."""
    (tmp_path / "OpenGL").mkdir()
    (tmp_path / "OpenGL" / "__init__.py").write_text("raise ImportError('Unable to load EGL library')")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "lisa_sim"],
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=limit(60),
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "libegl1 libegl-mesa0 libgl1-mesa-dri" in done.stderr
