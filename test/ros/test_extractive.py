"""Engines that choose among proposals, asked by an action client on a node with the demo model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Picture
from robot import REPOSITORY, Client, pixels_of, stamped

from lisa_ros.msg import Segmentation

pytest.importorskip("torch")

LOAD_S = 120.0  # to import torch and transformers, where the disk and the cores are somebody else's
SCREWDRIVER = 2  # its id in demo/scene.json


@pytest.fixture(scope="module", params=["elisa_small", "nearest"])
def chooser(request: pytest.FixtureRequest, launch) -> Client:
    model = REPOSITORY / "lisa_small" / "weights"
    client = launch(model=model, options=f"[family={request.param}]", device="cpu", threads=1)
    client.ready(LOAD_S)
    client.family = request.param
    return client


def test_an_answer_chooses_among_the_demo_models_own_proposals(chooser: Client) -> None:
    rgb = np.asarray(Picture.open(REPOSITORY / "demo" / "scene.jpg").convert("RGB"))
    truth = np.asarray(Picture.open(REPOSITORY / "demo" / "scene_ids.png")) == SCREWDRIVER
    _, result = chooser.goal("the screwdriver", stamped(chooser.node, rgb)).result()
    answer = result.segmentation
    assert answer.status == Segmentation.SUCCESS, answer.message
    for mask in answer.masks:
        assert [answer.answer[b:e] for b, e in zip(mask.text_begin, mask.text_end, strict=True)]
    (mask,) = answer.masks
    whole, roi = np.zeros(truth.shape, bool), mask.roi
    whole[roi.y_offset :, roi.x_offset :][: roi.height, : roi.width] = pixels_of(mask.pixels) > 0
    assert (whole & truth).sum() / (whole | truth).sum() > 0.5
    assert ("[1]" in answer.answer) == (chooser.family == "elisa_small")
