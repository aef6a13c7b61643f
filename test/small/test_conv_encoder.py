"""The small image encoder: padding is not looked at, and what is seen of the picture stays what it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lisa_ros.lisa.preprocess import for_sam
from lisa_ros.lisa.segmenter import Segmenter
from lisa_small import model_folder
from lisa_small.network.conv import MARGIN


@pytest.fixture(scope="module")
def encoder():
    return Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32").lisa.sam.vision_encoder


@pytest.fixture
def looked_at(encoder):
    """Heights and widths of what the encoder's first layer is given."""
    sizes = []
    hook = encoder.stem.register_forward_hook(lambda module, given, result: sizes.append(tuple(given[0].shape[2:])))
    yield sizes
    hook.remove()


def padded(rgb):
    return torch.from_numpy(for_sam(rgb, 512))[None]


def scene(width, height):
    return np.asarray(
        Image.open(Path(__file__).parents[1] / "golden" / "wide.png").convert("RGB").resize((width, height))
    )


@pytest.mark.parametrize(
    ("width", "height", "part"),
    [(640, 480, (416, 512)), (480, 640, (512, 416)), (1920, 1080, (320, 512)), (600, 500, (480, 512))],
)
def test_padding_is_not_looked_at_and_the_picture_is_seen_as_before(encoder, looked_at, width, height, part):
    pixels = padded(scene(width, height))
    with torch.no_grad():
        seen = encoder(pixels)
        whole = encoder._look(pixels)
    assert looked_at == [part, (512, 512)]
    assert seen.shape == whole.shape == (1, encoder.out_channels, 64, 64)
    rows, columns = ((side - MARGIN) // encoder.stride for side in part)
    here = (slice(None), slice(None), slice(rows), slice(columns))
    assert (seen[here] - whole[here]).norm() < 0.03 * whole[here].norm()


def test_what_is_repeated_below_is_what_was_seen_at_the_edge(encoder):
    with torch.no_grad():
        seen = encoder(padded(scene(640, 480)))
    assert torch.equal(seen[:, :, 52:], seen[:, :, 51:52].expand(-1, -1, 12, -1))


def test_a_square_picture_is_seen_whole(encoder, looked_at):
    pixels = padded(scene(512, 512))
    with torch.no_grad():
        assert torch.equal(encoder(pixels), encoder._look(pixels))
    assert looked_at == [(512, 512), (512, 512)]


def test_pictures_of_one_batch_are_looked_at_as_far_as_the_largest(encoder, looked_at):
    with torch.no_grad():
        encoder(torch.cat([padded(scene(640, 360)), padded(scene(640, 480))]))
    assert looked_at == [(416, 512)]


def test_nothing_at_all_is_looked_at_whole(encoder, looked_at):
    with torch.no_grad():
        encoder(torch.zeros(1, 3, 512, 512))
    assert looked_at == [(512, 512)]


def test_training_looks_at_all(looked_at, encoder):
    encoder.train()
    try:
        encoder(padded(scene(640, 480)))
    finally:
        encoder.eval()
    assert looked_at == [(512, 512)]
