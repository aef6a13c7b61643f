"""Examples that people save: what the reader reads is what was saved."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lisa_ros.data.reasonseg import read_example
from lisa_ros.data.saved_examples import save_example


def png_of(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def blobs(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Some pieces, with holes, at the border too."""
    noise = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 5) > 0.02


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60)
def test_a_mask_with_holes_is_read_as_it_was_saved(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    mask = blobs(seed)
    rgb = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), np.uint8)
    picture = save_example(tmp_path_factory.mktemp("saved"), "one", png_of(rgb), ["the blob"], mask)
    example = read_example(picture)
    truth = example.truth > 0
    assert (truth & mask).sum() / (truth | mask).sum() > 0.99
    assert np.array_equal(example.rgb, rgb)
    assert example.texts == ("the blob",)
    assert example.is_sentence


def test_a_ring_has_its_hole(tmp_path: Path) -> None:
    mask = np.zeros((50, 50), np.uint8)
    cv2.circle(mask, (25, 25), 20, 1, -1)
    cv2.circle(mask, (25, 25), 10, 0, -1)
    picture = save_example(tmp_path, "ring", png_of(np.zeros((50, 50, 3), np.uint8)), ["the ring"], mask > 0)
    assert np.array_equal(read_example(picture).truth, mask)


def test_nothing_is_an_absent_target(tmp_path: Path) -> None:
    picture = save_example(tmp_path, "none", png_of(np.zeros((9, 9, 3), np.uint8)), ["the cup"], np.zeros((9, 9), bool))
    assert not read_example(picture).truth.any()


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    png = png_of(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="4 x 3 pixels, the picture 9 x 9"):
        save_example(tmp_path, "one", png, ["the cup"], np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="no text"):
        save_example(tmp_path, "one", png, [" "], np.zeros((9, 9), bool))
    assert not list(tmp_path.iterdir())
