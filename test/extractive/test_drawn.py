"""Proposer ``drawn``: the demo model's things, found in its class map and drawn by its mask decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lisa_ros.engine.api import MaskCrop, Proposals
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.proposers.drawn import Drawn, DrawnOptions, find_things
from lisa_ros.extractive.proposers.proposer import Arrangement, proposals_of
from lisa_ros.extractive.proposers.registry import load_proposer
from lisa_ros.extractive.resize import crop_logits, square_weights
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.segmenter import Segmenter
from lisa_small import model_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def drawn(segmenter: Segmenter) -> Drawn:
    return Drawn(segmenter)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.asarray(Image.open(ROOT / "demo" / "scene.jpg").convert("RGB"))


@pytest.fixture(scope="module")
def truths() -> list[np.ndarray]:
    ids = np.asarray(Image.open(ROOT / "demo" / "scene_ids.png"))
    return [ids == one for one in np.unique(ids[ids > 0])]


def iou(crop: MaskCrop, truth: np.ndarray) -> float:
    window = truth[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    inside = int((window & (crop.pixels > 0)).sum())
    return inside / (int(truth.sum()) + crop.area - inside)


def test_every_thing_of_the_demo_scene_is_proposed(segmenter, drawn, scene, truths) -> None:
    proposals = drawn.propose(segmenter.encode(scene))
    best = [max(iou(crop, truth) for crop in proposals.crops) for truth in truths]
    assert np.mean(np.array(best) > 0.5) >= 0.9, best
    assert np.mean(best) > 0.8, best
    assert len(proposals) == len(proposals.phrases) == len(proposals.scores) == len(proposals.embeddings)
    assert ((proposals.scores > 0.5) & (proposals.scores <= 1)).all()


def test_a_proposal_is_what_its_mask_prompt_draws(segmenter, drawn, scene) -> None:
    """The embedding of a proposal is a prompt of the mask decoder; only a part of the picture is decoded,
    so nothing is left of what the prompt would draw elsewhere."""
    image = segmenter.encode(scene)
    proposals = drawn.propose(image)
    with torch.inference_mode():
        low_res = segmenter.lisa.decode_masks(torch.from_numpy(proposals.embeddings), image.features.embedding)
    shares = []
    for crop, logits, prompt in zip(proposals.crops, low_res[:, 0].numpy(), proposals.embeddings, strict=True):
        if (drawn.class_prompts.numpy() == prompt).all(1).any():
            continue  # all of a kind: a union
        whole = crop_logits(logits, image.size, segmenter.lisa.input_size, segmenter.spec.smallest_part)
        plane = np.zeros(image.size, bool)
        plane[whole.y : whole.y + whole.height, whole.x : whole.x + whole.width] = whole.pixels > 0
        window = plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
        shares.append((window & (crop.pixels > 0)).sum() / crop.area)
    assert len(shares) > 3
    assert min(shares) > 0.75, shares
    assert np.mean(shares) > 0.95, shares


def test_proposals_are_made_once_a_frame(segmenter, scene) -> None:
    class Counting:
        calls = 0

        def propose(self, image) -> Proposals:
            self.calls += 1
            masks = np.zeros((2, *image.size), bool)
            masks[0, :10, :10] = masks[1, 5:50, 5:50] = True
            return Proposals(masks=masks)

    image, counting = segmenter.encode(scene), Counting()
    first = proposals_of(image, counting, Arrangement())
    assert proposals_of(image, counting, Arrangement()) is first
    assert counting.calls == 1
    assert [crop.area for crop in first.crops] == [45 * 45, 100], "the largest first"


def test_an_empty_table_has_no_proposal(segmenter, drawn) -> None:
    proposals = drawn.propose(segmenter.encode(np.full((60, 80, 3), 90, np.uint8)))
    assert len(proposals) == len(proposals.crops) == 0
    assert proposals.embeddings.shape == (0, segmenter.spec.out_dim)


def test_things_are_cells_of_a_class_that_hang_together() -> None:
    probabilities = np.zeros((4, 8, 8), np.float32)
    probabilities[0] = 1.0
    for label, rows, columns in ((1, slice(0, 3), slice(0, 3)), (1, slice(5, 8), slice(5, 8)), (3, 4, 1)):
        probabilities[:, rows, columns] = 0.0
        probabilities[label, rows, columns] = 0.7
        probabilities[2, rows, columns] = 0.3
    things = find_things(probabilities, DrawnOptions())
    assert [thing.label for thing in things] == [0, 0, 2], "one cell is a thing, too"
    assert [thing.box for thing in things] == [(0, 0, 3, 3), (5, 5, 8, 8), (4, 1, 5, 2)]
    assert [thing.label for thing in find_things(probabilities, DrawnOptions(smallest=2))] == [0, 0]
    assert [thing.label for thing in find_things(probabilities, DrawnOptions(second=0.2))] == [0, 0, 2, 1, 1, 1]


@pytest.mark.parametrize("size", [(480, 640), (97, 41), (1080, 1920)])
def test_crops_are_those_of_the_whole_upsampling(size) -> None:
    rng = np.random.default_rng(3)
    low = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(4, 1, 8, 8)).astype(np.float32)) - 1, (128, 128), mode="bicubic"
    )
    whole = upsample_logits(low, size, 512).numpy()
    for logits, expected in zip(low[:, 0].numpy(), whole, strict=True):
        crop = crop_logits(logits, size, 512)
        plane = np.zeros(size, bool)
        plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
        clear = abs(expected) > 1e-4
        assert (plane == (expected > 0))[clear].all()
        inside = expected[expected > 0]
        assert crop.score == pytest.approx(float((1 / (1 + np.exp(-inside))).mean()) if inside.size else 0.0, abs=1e-4)


def test_weights_of_a_grid_are_those_of_an_antialiased_resize(segmenter, drawn, scene) -> None:
    image = segmenter.encode(scene)
    crops = drawn.propose(image).crops
    weights = square_weights(crops, image.size, 64)
    square = torch.zeros(len(crops), 1, max(image.size), max(image.size))
    for plane, crop in zip(square[:, 0], crops, strict=True):
        plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = torch.from_numpy(crop.pixels > 0)
    expected = torch.nn.functional.interpolate(square, 64, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(weights, expected[:, 0], atol=1e-5, rtol=0)


def test_another_model_has_no_map_of_classes() -> None:
    other = Segmenter.from_checkpoint(ROOT / "test/golden/ckpt", device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="needs a model with a map of classes"):
        load_proposer("drawn", other)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("drawn", {"smallest": 0}, "option smallest is 0"),
        ("drawn", {"nms": 1.5}, "option nms is 1.5"),
        ("drawn", {"kinds": 1}, "option kinds is 1"),
        ("drawn", {"points": 3}, "has no option 'points'"),
        ("drwan", {}, "there is no proposer 'drwan'; choose one of drawn"),
        ("json:loads", {}, "must take the keywords segmenter and options"),
    ],
)
def test_what_cannot_be_used_is_named(segmenter, name, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_proposer(name, segmenter, options)


@pytest.mark.parametrize("wrong", [{"order": "size"}, {"limit": -1}, {"limit": 2.0}])
def test_an_arrangement_that_does_not_exist_is_an_error(wrong) -> None:
    with pytest.raises(ConfigError):
        Arrangement(**wrong)
