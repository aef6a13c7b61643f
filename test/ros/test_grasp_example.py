"""The planner's example against a node, over DDS: from a sentence to a grasp, matched by stamp."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from depth_camera import BOX_SIZE, DepthCamera, box_centre
from machine_speed import limit
from robot import LIMIT_S, REPOSITORY, SIZE, Client, scene

EXAMPLE = REPOSITORY / "examples" / "grasp_candidate.py"


@pytest.fixture(scope="module")
def depth_camera(shared_client: Client):
    camera = DepthCamera(shared_client)
    yield camera
    camera.close()


@pytest.fixture
def grasp(client: Client, depth_camera: DepthCamera):
    """grasp(command) -> the example's finished process; the camera runs meanwhile."""

    def run(command: str) -> subprocess.CompletedProcess[str]:
        client.show(scene())
        space = client.lisa.namespace
        topics = ["--depth", f"{space}/depth", "--camera-info", f"{space}/depth_info"]
        process = subprocess.Popen(
            [
                sys.executable,
                str(EXAMPLE),
                command,
                "--node",
                client.lisa.name,
                *topics,
                "--timeout",
                str(limit(LIMIT_S)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
        )
        client.wait(lambda: process.poll() is not None, "end of the example", 2 * LIMIT_S)
        said, complained = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)

    return run


def vector(name: str, said: str) -> np.ndarray:
    found = re.search(rf"{name} \(([-+.\d]+), ([-+.\d]+), ([-+.\d]+)\)", said)
    assert found, said
    return np.array([float(value) for value in found.groups()])


def test_the_example_prints_a_grasp(grasp) -> None:
    done = grasp("the box")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(vector("centroid", done.stdout), box_centre(), atol=0.005)
    np.testing.assert_allclose(np.abs(vector("approach", done.stdout)), [0, 0, 1], atol=0.05)
    np.testing.assert_allclose(np.abs(vector("closing", done.stdout)), [0, 1, 0], atol=0.05)
    width = float(re.search(r"width ([.\d]+) m", done.stdout).group(1))
    assert width == pytest.approx(BOX_SIZE[1], abs=0.005)
    assert "depth on 100 %" in done.stdout


def test_depth_in_another_frame_is_refused(grasp, depth_camera: DepthCamera) -> None:
    depth_camera.frame_id = "camera_depth_optical"
    try:
        done = grasp("the box")
    finally:
        depth_camera.usual()
    assert done.returncode == 1
    assert "camera_depth_optical" in done.stderr
    assert "align depth" in done.stderr


def test_what_is_not_there_is_no_grasp(grasp) -> None:
    done = grasp("nothing")
    assert done.returncode == 1
    assert "nothing like that" in done.stderr


def test_an_object_without_depth_is_said_so(grasp, depth_camera: DepthCamera) -> None:
    depth_camera.depth = np.zeros(SIZE, np.uint16)
    try:
        done = grasp("the box")
    finally:
        depth_camera.usual()
    assert done.returncode == 0, done.stderr
    assert "too little depth (0 % of the mask)" in done.stdout
