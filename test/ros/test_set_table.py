"""Several targets in one goal to a node with the demo model: labelled masks, and what is not there."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from machine_speed import limit
from PIL import Image as Picture
from robot import LIMIT_S, REPOSITORY, Client, stamped

from lisa_ros.msg import Segmentation

pytest.importorskip("torch")

LOAD_S = 120.0  # to import torch and transformers, where the disk and the cores are somebody else's
PICTURE = REPOSITORY / "demo" / "scene.jpg"
EXAMPLE = REPOSITORY / "examples" / "set_table.py"


@pytest.fixture(scope="module")
def demo_model(launch) -> Client:
    client = launch(model=REPOSITORY / "lisa_small" / "weights", device="cpu", threads=1)
    client.ready(LOAD_S)
    return client


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Picture.open(PICTURE).convert("RGB"))


def test_a_goal_with_targets_returns_labelled_masks_and_what_is_absent(demo_model: Client, picture) -> None:
    targets = ["the screwdriver", "the radio", "the banana"]
    _, result = demo_model.goal("", stamped(demo_model.node, picture), targets=targets).result()
    answer = result.segmentation
    assert answer.status == Segmentation.SUCCESS
    assert [mask.phrase for mask in answer.masks] == ["the screwdriver", "the radio"]
    assert [mask.label for mask in answer.masks] == [1, 2]
    assert list(answer.absent) == ["the banana"]
    truth = np.asarray(Picture.open(REPOSITORY / "demo" / "scene_ids.png"))
    for mask, number in zip(answer.masks, (2, 1), strict=True):  # ids of the two objects in demo/scene.json
        x, y = int(mask.centroid_px.x), int(mask.centroid_px.y)
        assert number in truth[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9]


def test_the_example_plans_from_one_command(demo_model: Client, picture) -> None:
    demo_model.show(picture)
    command = [sys.executable, str(EXAMPLE), "the screwdriver", "the banana", "the radio"]
    process = subprocess.Popen(
        [*command, "--node", demo_model.lisa.name, "--timeout", str(limit(LIMIT_S))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
    )
    demo_model.wait(lambda: process.poll() is not None, "end of the example", 2 * LIMIT_S)
    printed, complained = process.communicate()
    assert process.returncode == 3, complained
    assert "the screwdriver: bring it from (" in printed and "to -0.15 m along the table" in printed
    assert "the radio: bring it from (" in printed and "to +0.15 m along the table" in printed
    assert "the banana: not there" in printed
