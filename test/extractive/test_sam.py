"""Proposer ``sam``: the grid of points through a tiny SAM and a tiny SAM 2, untrained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sam import write_sam
from transformers import Sam2Config, Sam2Model, SamModel

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.extractive.proposers.registry import load_proposer
from lisa_ros.extractive.proposers.sam import SamEverything, SamOptions, drawer_for, grid_points
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.preprocess import for_sam
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter

GOLDEN = Path(__file__).parents[1] / "golden"
ANY = {"iou": 0.0, "stability": 0.0, "nms": 1.0}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_checkpoint(GOLDEN / "ckpt", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def image() -> EncodedImage:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return EncodedImage(rgb, None, None, 0.0)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    backbone = {"hidden_size": 16, "image_size": [256, 256], "blocks_per_stage": [1, 1, 2, 1]}
    backbone |= {"embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 1, 2, 4]}
    backbone |= {"window_size_per_stage": [8, 4, 8, 4], "global_attention_blocks": [3]}
    backbone |= {"window_positional_embedding_background_size": [8, 8], "model_type": "sam2_hiera_det_model"}
    vision = {"backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32}
    vision |= {"backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]]}
    prompt = {"hidden_size": 32, "image_size": 256}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
    Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)
    return folder


def test_every_mask_of_every_point_is_proposed(segmenter, image, sam_folder) -> None:
    """With every limit open: what transformers' own SAM draws for the same points, resized as SAM does."""
    options = {"model": str(sam_folder), "points": 3, "batch": 2, **ANY, "iou": 0.0}
    proposals = load_proposer("sam", segmenter, options).propose(image)
    sam = SamModel.from_pretrained(sam_folder).eval()
    points = torch.tensor(grid_points(3, (60, 90)), dtype=torch.float32) * torch.tensor([64 / 90, 43 / 60])
    with torch.inference_mode():
        drawn = sam(
            pixel_values=torch.from_numpy(for_sam(image.rgb, 64))[None],
            input_points=points[None, :, None],
            input_labels=torch.ones(1, 9, 1, dtype=torch.int),
        )
    scores = drawn.iou_scores[0].flatten()
    masks = upsample_logits(drawn.pred_masks[0].flatten(0, 1)[:, None], (60, 90), 64) > 0
    expected = sorted(int(mask.sum()) for mask, score in zip(masks, scores, strict=True) if score > 0 and mask.any())
    found = sorted(crop.area for crop in proposals.crops)
    assert len(found) == len(expected) > 3
    assert np.allclose(found, expected, rtol=0.02, atol=12)
    assert (np.diff(proposals.scores) <= 0).all(), "the best first"


def test_sam2_proposes_too(segmenter, image, sam2_folder) -> None:
    everything = load_proposer("sam", segmenter, {"model": str(sam2_folder), "points": 3, **ANY}).propose(image)
    assert len(everything) > 3
    assert all(crop.x + crop.width <= 90 and crop.y + crop.height <= 60 for crop in everything.crops)
    few = load_proposer("sam", segmenter, {"model": str(sam2_folder), "points": 3, **ANY, "nms": 0.3}).propose(image)
    assert 0 < len(few) < len(everything)


def test_unstable_and_bad_masks_are_left_out(segmenter, image, sam_folder) -> None:
    drawer = drawer_for(str(sam_folder), segmenter)
    everything = len(SamEverything(drawer, SamOptions(points=3, **ANY)).propose(image))
    for name in ("iou", "stability"):
        strict = SamOptions(points=3, **{**ANY, name: 1.0})
        assert len(SamEverything(drawer, strict).propose(image)) < everything


def test_the_models_own_sam(segmenter) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    encoded = segmenter.encode(rgb)
    proposals = load_proposer("sam", segmenter, {"points": 2, **ANY}).propose(encoded)
    assert encoded.features.embedding is not None, "encoded once for proposals and masks"
    assert all(crop.area for crop in proposals.crops)


def test_a_grid_covers_the_frame() -> None:
    points = grid_points(4, (60, 90))
    assert points.shape == (16, 2)
    assert points[0].tolist() == [90 / 8, 60 / 8]
    assert points[-1].tolist() == [90 * 7 / 8, 60 * 7 / 8]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"points": 0}, ConfigError, "option points is 0"),
        ({"iou": 2}, ConfigError, "option iou is 2"),
        ({"model": "nowhere"}, CheckpointError, "there is no SAM in nowhere"),
        ({"model": str(GOLDEN / "clip-tiny")}, CheckpointError, "reads SAM and SAM 2"),
        ({"speed": 1}, ConfigError, "has no option 'speed'"),
    ],
)
def test_what_cannot_be_used_is_named(segmenter, options, error, message) -> None:
    with pytest.raises(error, match=message):
        load_proposer("sam", segmenter, options)
