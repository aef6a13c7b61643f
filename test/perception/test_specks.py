"""What is left of a mask without its specks."""

import numpy as np
import pytest

from lisa_ros.perception.specks import drop_specks


def drawn(*parts: tuple[int, int, int]) -> np.ndarray:
    """(40, 60) logits, -1 but for squares (row, column, side) of 2."""
    logits = np.full((40, 60), -1, np.float32)
    for row, column, side in parts:
        logits[row : row + side, column : column + side] = 2
    return logits


def test_small_parts_go_and_the_rest_stays_as_it_was():
    logits = drawn((5, 5, 20), (30, 50, 2), (2, 40, 6))
    drop_specks(logits, 0.05)
    expected = drawn((5, 5, 20), (2, 40, 6))
    expected[30:32, 50:52] = 0
    assert np.array_equal(logits, expected)


@pytest.mark.parametrize("parts", [(), ((0, 0, 3),), ((0, 0, 3), (3, 3, 3)), ((0, 0, 4), (20, 20, 4))])
def test_masks_without_small_parts_are_not_changed(parts):
    logits = drawn(*parts)
    drop_specks(logits, 0.5)
    assert np.array_equal(logits, drawn(*parts))
