"""The score of a mask, and all masks in one image."""

from __future__ import annotations

import numpy as np
import pytest

from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.perception.masks import labels_image, mask_score, union_image


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def square(left: int, label: int, score: float) -> MaskCrop:
    """A mask of 4 x 4 pixels in an image of 6 x 10, its left edge at column ``left``."""
    mask = np.zeros((6, 10), bool)
    mask[1:5, left : left + 4] = True
    return crop_mask(mask, label, score)


def test_a_score_is_the_probability_of_seg_times_the_mean_probability_inside() -> None:
    """By hand: inside are 0.6, 0.8 and 0.9, their mean is 23/30; times 0.9 is 0.69. What is outside does not count."""
    logits = np.array([[logit(0.6), logit(0.8), logit(0.1)], [logit(0.9), logit(0.4), logit(0.01)]], np.float32)
    assert mask_score(0.9, logits) == pytest.approx(0.69, abs=1e-6)


def test_a_mask_of_one_pixel_scores_its_pixel() -> None:
    logits = np.full((5, 5), -3, np.float32)
    logits[2, 2] = logit(0.75)
    assert mask_score(0.5, logits) == pytest.approx(0.375, abs=1e-6)


@pytest.mark.parametrize("logits", [np.full((2, 3), -2, np.float32), np.zeros((2, 3), np.float32)])
def test_an_empty_mask_scores_nothing(logits: np.ndarray) -> None:
    assert mask_score(0.99, logits) == 0


@pytest.mark.parametrize("first", [True, False], ids=["higher_score_first", "higher_score_last"])
@pytest.mark.parametrize("labels", [(1, 2), (2, 1)])
def test_where_masks_overlap_the_higher_score_has_the_pixels(first: bool, labels: tuple[int, int]) -> None:
    strong, weak = square(2, labels[0], 0.9), square(4, labels[1], 0.4)
    image = labels_image([strong, weak] if first else [weak, strong], (6, 10))
    expected = np.zeros((6, 10), np.uint8)
    expected[1:5, 4:8] = labels[1]
    expected[1:5, 2:6] = labels[0]
    np.testing.assert_array_equal(image, expected)


def test_three_masks_are_stacked_by_score() -> None:
    image = labels_image([square(2, 7, 0.5), square(4, 8, 0.7), square(3, 9, 0.6)], (6, 10))
    assert image[2].tolist() == [0, 0, 7, 9, 8, 8, 8, 8, 0, 0]


def test_the_union_has_every_pixel_of_every_mask() -> None:
    image = union_image([square(0, 1, 0.9), square(5, 2, 0.1)], (6, 10))
    assert image.dtype == np.uint8
    assert image[2].tolist() == [255, 255, 255, 255, 0, 255, 255, 255, 255, 0]
    assert image[0].max() == image[5].max() == 0
