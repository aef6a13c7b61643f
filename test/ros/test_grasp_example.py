"""The planner's example against a node, over DDS: from a sentence to a grasp, matched by stamp."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from robot import LIMIT_S, REPOSITORY, SIZE, TRUTH, Client, scene
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.ros.messages import image_message

FOCAL, TABLE_M, BOX_M = 300.0, 0.8, 0.7
EXAMPLE = REPOSITORY / "examples" / "grasp_candidate.py"


class DepthCamera:
    """Publishes depth and its camera_info for every image that the client shows, with the image's stamp."""

    def __init__(self, client: Client) -> None:
        self.frame_id = "camera_optical"
        self.depth = np.full(SIZE, 1000 * TABLE_M, np.uint16)
        self.depth[TRUTH] = 1000 * BOX_M
        self._images = client.images
        self._depths = client.node.create_publisher(Image, "depth", qos_profile_sensor_data)
        self._infos = client.node.create_publisher(CameraInfo, "depth_info", qos_profile_sensor_data)
        client.images = self

    def get_subscription_count(self) -> int:
        return self._images.get_subscription_count()

    def publish(self, image: Image) -> None:
        self._images.publish(image)
        depth = image_message(image.header, self.depth.view(np.uint8).reshape(*SIZE, 2), "16UC1")
        depth.header.frame_id = self.frame_id
        height, width = SIZE
        k = [FOCAL, 0.0, (width - 1) / 2, 0.0, FOCAL, (height - 1) / 2, 0.0, 0.0, 1.0]
        self._infos.publish(CameraInfo(header=depth.header, height=height, width=width, k=k))
        self._depths.publish(depth)


@pytest.fixture(scope="module")
def depth_camera(shared_client: Client) -> DepthCamera:
    return DepthCamera(shared_client)


@pytest.fixture
def grasp(client: Client, depth_camera: DepthCamera):
    """grasp(command) -> the example's finished process; the camera runs meanwhile."""

    def run(command: str) -> subprocess.CompletedProcess[str]:
        client.show(scene())
        space = client.lisa.namespace
        topics = ["--depth", f"{space}/depth", "--camera-info", f"{space}/depth_info"]
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), command, "--node", client.lisa.name, *topics, "--timeout", str(LIMIT_S)],
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
    rows, columns = np.nonzero(TRUTH)
    middle = [columns.mean() - (SIZE[1] - 1) / 2, rows.mean() - (SIZE[0] - 1) / 2, FOCAL]
    np.testing.assert_allclose(vector("centroid", done.stdout), np.multiply(middle, BOX_M / FOCAL), atol=0.005)
    np.testing.assert_allclose(np.abs(vector("approach", done.stdout)), [0, 0, 1], atol=0.05)
    np.testing.assert_allclose(np.abs(vector("closing", done.stdout)), [0, 1, 0], atol=0.05)
    width = float(re.search(r"width ([.\d]+) m", done.stdout).group(1))
    assert width == pytest.approx(60 * BOX_M / FOCAL, abs=0.005)
    assert "depth on 100 %" in done.stdout


def test_depth_in_another_frame_is_refused(grasp, depth_camera: DepthCamera) -> None:
    depth_camera.frame_id = "camera_depth_optical"
    try:
        done = grasp("the box")
    finally:
        depth_camera.frame_id = "camera_optical"
    assert done.returncode == 1
    assert "camera_depth_optical" in done.stderr
    assert "align depth" in done.stderr


def test_what_is_not_there_is_no_grasp(grasp) -> None:
    done = grasp("nothing")
    assert done.returncode == 1
    assert "nothing like that" in done.stderr


def test_an_object_without_depth_is_said_so(grasp, depth_camera: DepthCamera) -> None:
    usual, depth_camera.depth = depth_camera.depth, np.zeros(SIZE, np.uint16)
    try:
        done = grasp("the box")
    finally:
        depth_camera.depth = usual
    assert done.returncode == 0, done.stderr
    assert "too little depth (0 % of the mask)" in done.stdout
