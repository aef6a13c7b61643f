"""Engines that choose among proposals, asked by an action client on a node with the demo model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from robot import REPOSITORY, Client, pixels_of, stamped

from lisa_ros.msg import Segmentation

pytest.importorskip("torch")

LOAD_S = 120.0  # to import torch and transformers, where the disk and the cores are somebody else's
SCREWDRIVER = 2  # its id in demo/scene.json


def untrained_selector(folder: Path) -> str:
    """LLM-Seg's selector for the demo model: all proposals are over its threshold of 0."""
    from safetensors.torch import save_file

    from lisa_ros.extractive.selector import Selector

    file = folder / "selector.safetensors"
    save_file(Selector(96, inner=64, iou_inner=8, embedding_inner=64, features=96).state_dict(), file)
    return f", selector={file}, threshold=0"


@pytest.fixture(scope="module", params=["elisa_small", "nearest", "llm-seg"])
def chooser(request: pytest.FixtureRequest, launch, tmp_path_factory) -> Client:
    model = REPOSITORY / "lisa_small" / "weights"
    more = untrained_selector(tmp_path_factory.mktemp("selector")) if request.param == "llm-seg" else ""
    client = launch(model=model, options=f"[family={request.param}{more}]", device="cpu", threads=1)
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
    if chooser.family == "llm-seg":  # not trained: everything that was proposed
        assert (whole & truth).sum() / truth.sum() > 0.5
    else:
        assert (whole & truth).sum() / (whole | truth).sum() > 0.5
    assert ("[1]" in answer.answer) == (chooser.family == "elisa_small")


def test_sam_proposes_for_elisa(launch, tmp_path_factory) -> None:
    """Parameter proposals: [sam], with a tiny ELISA and a tiny SAM in its folder, both untrained."""
    from tiny_elisa import write_elisa
    from tiny_sam import write_sam

    folder = write_elisa(tmp_path_factory.mktemp("elisa") / "sam", embedding=32)
    write_sam(folder / "sam")
    options = "['proposer_options={points: 4, iou: 0.0, stability: 0.0, nms: 1.0}', limit=7]"
    client = launch(model=folder, options=options, proposals="[sam]", device="cpu", threads=1)
    client.ready(LOAD_S)
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    _, result = client.goal("the cup", stamped(client.node, rgb)).result()
    answer = result.segmentation
    assert answer.status in (Segmentation.SUCCESS, Segmentation.NOT_FOUND), answer.message
    assert len(answer.masks) <= 7
    for mask in answer.masks:
        assert [answer.answer[b:e] for b, e in zip(mask.text_begin, mask.text_end, strict=True)]


def test_elisa_without_sam_says_what_is_missing(launch, tmp_path_factory) -> None:
    from tiny_elisa import write_elisa

    folder = write_elisa(tmp_path_factory.mktemp("elisa") / "bare", embedding=32)
    client = launch(model=folder, proposals="[sam]", device="cpu", threads=1)
    client.wait(lambda: any("there is no SAM in" in str(status) for status in client.heard["status"]), "status", LOAD_S)
