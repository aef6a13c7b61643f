"""The model in the box: small enough, loads like any other, and answers."""

import json

import numpy as np
import pytest
from whole_answer import segment

from lisa_ros.lisa.segmenter import Segmenter
from lisa_small import model_folder

LARGEST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_checkpoint(model_folder(), device="cpu")


def test_it_fits_the_box_and_says_what_it_is():
    folder = model_folder()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LARGEST_BYTES
    assert (folder / "README.md").read_text().startswith("# lisa-small")
    assert json.loads((folder / "config.json").read_text())["lisa"]["name"] == "lisa-small"


@pytest.mark.parametrize("size", [(480, 640), (240, 320), (97, 331), (1080, 1920)])
def test_it_answers_about_pictures_of_any_size(segmenter, size):
    rgb = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    result = segment(segmenter, segmenter.encode(rgb), "the hammer", max_new_tokens=24)
    assert result.masks.shape[1:] == size
    assert result.answer


@pytest.mark.parametrize("command", ["ὀξυγόνον", "bring 🥤", "a" * 600, "zyzzyva quux frob", "[SEG] [SEG]"])
def test_words_it_has_never_seen_do_not_break_it(segmenter, command):
    rgb = np.full((240, 320, 3), 127, np.uint8)
    result = segment(segmenter, segmenter.encode(rgb), command, max_new_tokens=24)
    assert np.isfinite(result.mask_logits).all()
