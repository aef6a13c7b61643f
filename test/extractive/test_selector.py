"""LLM-Seg's selector equals the reference's, recorded in test/golden/llmseg."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lisa_ros.engine.api import crop_mask
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.extractive.resize import square_weights
from lisa_ros.extractive.selector import CHOICES, POOLING_SIDE, Choice, Selector
from lisa_ros.training.selector_losses import share_loss, similarity_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "llmseg"
CASES = json.loads((GOLDEN / "cases.json").read_text("utf-8"))
ARRAYS = np.load(GOLDEN / "arrays.npz")
OF_IMAGE = (slice(0, 2), slice(2, 3))  # conversations of each image
images = pytest.mark.parametrize("image", [0, 1])


def drawn(name: str) -> torch.Tensor:
    """A tensor of the golden: every number follows from its name."""
    shape, scale, plus_one = CASES["weights"][name]
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(numbers * np.float32(scale) + np.float32(plus_one))


@pytest.fixture(scope="module")
def selector() -> Selector:
    return Selector.from_tensors({name: drawn(name) for name in CASES["weights"]})


def masks(image: int) -> np.ndarray:
    """(K, H, W) bool."""
    height, width, count = ARRAYS[f"origin_segs_shape_{image}"]
    bits = np.unpackbits(ARRAYS[f"origin_segs_{image}"], count=height * width * count)
    return bits.reshape(height, width, count).transpose(2, 0, 1).astype(bool)


def expected(name: str, image: int) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[f"{name}_{image}"])


@images
def test_states_heads_and_similarities(selector, image) -> None:
    seg, pooled = torch.from_numpy(ARRAYS["seg_embeddings"])[OF_IMAGE[image]], expected("pooled", image)
    states = selector.attend(seg, pooled)
    close = torch.testing.assert_close
    close(states[..., ::8], expected("after_attention", image), atol=2e-5, rtol=0)
    close(selector.lisa_embedding_head(states)[..., ::8], expected("mask_embedding", image), atol=2e-5, rtol=0)
    similarity, iop = selector.select(seg, pooled)
    assert similarity.dtype == iop.dtype == torch.float32
    close(iop[..., None], expected("pred_iop", image), atol=1e-6, rtol=0)
    close(similarity[:1], expected("infer_similarity", image), atol=1e-6, rtol=0)
    close(iop[:1], expected("infer_iop", image), atol=1e-6, rtol=0)


@images
def test_weights_of_proposals(image) -> None:
    planes = masks(image)
    weights = square_weights([crop_mask(plane) for plane in planes], planes.shape[1:], POOLING_SIDE)
    torch.testing.assert_close(weights[:, ::16, ::16], expected("segs256_sub8", image), atol=1e-5, rtol=0)


def test_features_under_proposals(selector) -> None:
    planes = masks(0)
    weights = square_weights([crop_mask(plane) for plane in planes], planes.shape[1:], POOLING_SIDE)
    patches = expected("dino_U", 0) @ expected("dino_V", 0)
    torch.testing.assert_close(selector.pool(patches, weights), expected("pooled", 0), atol=2e-5, rtol=1e-4)


def test_losses(selector) -> None:
    """Each is the mean over the conversations of a picture, then over the pictures."""
    align, regression = [], []
    for image in (0, 1):
        seg, pooled = torch.from_numpy(ARRAYS["seg_embeddings"])[OF_IMAGE[image]], expected("pooled", image)
        similarity, iop = selector.select(seg, pooled)
        align.append(similarity_loss(similarity, expected("iou", image)).mean())
        regression.append(share_loss(iop, expected("iop", image)).mean())
    for losses, name in ((align, "align_loss"), (regression, "regression_loss")):
        assert float(torch.stack(losses).mean()) == pytest.approx(CASES["losses"][name], rel=1e-5)


@images
@pytest.mark.parametrize(
    ("rule", "recorded"), zip(CHOICES, ("similarity", "threshold 0.5", "similarity + threshold"), strict=True)
)
def test_choices(image, rule, recorded) -> None:
    similarity, iop = ARRAYS[f"infer_similarity_{image}"][0], ARRAYS[f"infer_iop_{image}"][0]
    assert Choice(rule).of(similarity, iop) == CASES["inference"][image][recorded]["chosen"]


def test_a_selector_of_other_sizes_and_names() -> None:
    """Width 32, three blocks, pooled features, another prefix."""
    torch.manual_seed(0)
    made = Selector(32, blocks=3, inner=40, iou_inner=6, embedding_inner=50, features=None).eval()
    read = Selector.from_tensors({f"base_model.model.model.{name}": t for name, t in made.state_dict().items()})
    seg, features = torch.randn(2, 32), torch.randn(5, 32)
    for one, other in zip(read.select(seg, features), made.select(seg, features), strict=True):
        assert torch.equal(one, other)


def test_no_and_one_proposal(selector) -> None:
    similarity, iop = selector.select(torch.randn(2, 256), torch.zeros(0, 256))
    assert similarity.shape == iop.shape == (2, 0)
    similarity, iop = selector.select(torch.randn(1, 256), torch.randn(1, 256))
    assert similarity.shape == iop.shape == (1, 1)
    for rule in CHOICES:
        assert Choice(rule).of([], []) == []
    assert Choice("similarity").of([0.1], [0.2]) == [0]
    assert Choice("threshold").of([0.1], [0.2]) == []
    assert Choice("both").of([0.1, 0.9, 0.3], [0.7, 0.2, 0.8]) == [1, 0, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.clear(), "none is named"),
        (lambda tensors: tensors.pop("model.lisa_iou_head.0.weight"), "lisa_iou_head.0.weight"),
        (lambda tensors: tensors.pop("model.lisa_final_attn.q_proj.bias"), "lisa_final_attn.q_proj.bias"),
        (lambda tensors: tensors.update({"model.lisa_norm_final_attn.bias": torch.zeros(3)}), "lisa_norm_final_attn"),
    ],
)
def test_a_damaged_selector_is_named(damage, message) -> None:
    tensors = {name: drawn(name) for name in CASES["weights"]}
    damage(tensors)
    with pytest.raises(CheckpointError, match=message):
        Selector.from_tensors(tensors)


@pytest.mark.parametrize("wrong", [{"rule": "best"}, {"threshold": 1.5}, {"threshold": "0.5"}, {"threshold": True}])
def test_a_choice_that_does_not_exist_is_an_error(wrong) -> None:
    with pytest.raises(ConfigError):
        Choice(**wrong)
