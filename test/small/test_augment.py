"""What happens to pictures before a model learns from them."""

import random

import numpy as np

from lisa_small.training.augment import PADDING, repaint_background


def test_a_repainted_table_keeps_its_things_its_padding_and_its_shadows():
    rng = np.random.default_rng(0)
    rgb = np.full((96, 128, 3), 120, np.uint8)
    rgb[:, :40] = 40  # in the shadow
    rgb[80:] = PADDING
    ids = np.zeros((96, 128), np.uint8)
    ids[20:50, 60:90] = 3
    rgb[20:50, 60:90] = rng.integers(0, 255, (30, 30, 3))
    for seed in range(20):
        painted = repaint_background(rgb, ids, random.Random(seed))
        assert painted.dtype == np.uint8
        assert np.array_equal(painted[ids == 3], rgb[ids == 3])
        assert (painted[80:] == PADDING).all()
        assert not np.array_equal(painted[:80], rgb[:80])
        assert painted[:80, :40].mean() < 0.7 * painted[:80, 95:].mean()
    assert np.array_equal(
        repaint_background(rgb, ids, random.Random(1)), repaint_background(rgb, ids, random.Random(1))
    )


def test_a_picture_without_a_background_is_left_as_it_is():
    rgb = np.full((16, 16, 3), 77, np.uint8)
    assert np.array_equal(repaint_background(rgb, np.ones((16, 16), np.uint8), random.Random(0)), rgb)
