"""Masks drawn over a frame, with what they are."""

import numpy as np
import pytest

from lisa_ros.engine.api import crop_mask
from lisa_ros.perception.overlay import LONGEST_PHRASE, draw_overlay

RGB = np.full((200, 400, 3), 90, np.uint8)


@pytest.fixture
def crops():
    mask = np.zeros(RGB.shape[:2], bool)
    mask[100:150, 50:90] = True
    return [crop_mask(np.zeros_like(mask), 1, 0.1), crop_mask(mask, 2, 0.9)]


def plate_width(picture) -> int:
    """Columns that the text above the mask covers."""
    return int((picture[:95] != 90).any(axis=(0, 2)).sum())


def test_a_phrase_stands_between_label_and_score(crops):
    plain, named = draw_overlay(RGB, crops), draw_overlay(RGB, crops, phrases=["nothing", "coffee cup"])
    assert plate_width(named) > 1.5 * plate_width(plain)
    np.testing.assert_array_equal(named[105:], plain[105:])


def test_a_phrase_that_the_font_cannot_draw_is_left_out_and_a_long_one_cut(crops):
    plain = draw_overlay(RGB, crops)
    np.testing.assert_array_equal(draw_overlay(RGB, crops, phrases=["", "カップ"]), plain)
    long, longer = (
        draw_overlay(RGB, crops, phrases=["", x])
        for x in ("x" * (LONGEST_PHRASE - 3) + "...", "x" * (LONGEST_PHRASE + 9))
    )
    np.testing.assert_array_equal(long, longer)


def test_the_frame_itself_may_be_read_only(crops):
    rgb = RGB.copy()
    rgb.flags.writeable = False
    assert (draw_overlay(rgb, crops) != rgb).any()
