"""What happens to pictures before a model learns from them."""

import random

import numpy as np
import pytest
from PIL import Image

from lisa_ros.lisa.preprocess import for_sam
from lisa_small.training.augment import PADDING, Sample, Square, repaint_background
from lisa_small.training.scenes import Scene, read_scene
from lisa_small.training.vision import VisionConfig, draw_picture, stack_pixels


def test_a_repainted_table_keeps_its_things_its_padding_and_its_shadows():
    rng = np.random.default_rng(0)
    rgb = np.full((96, 128, 3), 120, np.uint8)
    rgb[:, :40] = 40  # in the shadow
    rgb[80:] = PADDING
    ids = np.zeros((96, 128), np.uint8)
    ids[20:50, 60:90] = 3
    rgb[20:50, 60:90] = rng.integers(0, 255, (30, 30, 3))
    inside = np.ones((96, 128), bool)
    inside[80:] = False
    square = Square(rgb, ids, inside)
    for seed in range(20):
        painted = repaint_background(square, random.Random(seed)).rgb
        assert painted.dtype == np.uint8
        assert np.array_equal(painted[ids == 3], rgb[ids == 3])
        assert (painted[80:] == PADDING).all()
        assert not np.array_equal(painted[:80], rgb[:80])
        assert painted[:80, :40].mean() < 0.7 * painted[:80, 95:].mean()
    assert np.array_equal(
        repaint_background(square, random.Random(1)).rgb, repaint_background(square, random.Random(1)).rgb
    )


def test_a_picture_without_a_background_is_left_as_it_is():
    rgb = np.full((16, 16, 3), 77, np.uint8)
    square = Square(rgb, np.ones((16, 16), np.uint8), np.ones((16, 16), bool))
    assert np.array_equal(repaint_background(square, random.Random(0)).rgb, rgb)


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (300, 300), (100, 120)])
def test_training_shows_the_pixels_that_are_served(tmp_path, shape):
    """A scene on disk, without augmentation, through all that training does to it."""
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ids = np.zeros(shape, np.uint8)
    ids[20:60, 30:90] = 1
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(ids).save(tmp_path / "ids.png")
    record = {"id": "0", "image": "rgb.png", "ids": "ids.png", "objects": [{"id": 1, "class": "cup"}]}
    scene = read_scene(tmp_path, record, longest_side=256)
    config = VisionConfig(phases=(), augment=False)
    _, square = draw_picture([scene], {"cup": 0}, config, 256, random.Random(0))
    served = for_sam(rgb, 256)
    assert np.array_equal(square.pixels(), served)
    assert np.array_equal(stack_pixels([square])[0].numpy(), served)


def test_beside_the_picture_everything_is_zero_also_behind_another_camera():
    sample = Sample(np.full((48, 64, 3), 200, np.uint8), np.ones((48, 64), np.uint8), {1: 0}, {1: 0})
    scene = Scene({"objects": [{"id": 1, "class": "cup"}]}, sample.rgb, sample.ids)
    for seed in range(30):
        _, square = draw_picture([scene], {"cup": 0}, VisionConfig(phases=()), 64, random.Random(seed))
        assert not square.pixels()[:, ~square.inside].any()
        assert not square.ids[~square.inside].any()
