"""The best set of proposals."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lisa_ros.data.truth import IGNORED
from lisa_ros.engine.api import crop_mask
from lisa_ros.evaluation.bound import best_set
from lisa_ros.evaluation.metrics import overlap


@given(
    arrays.arrays(bool, st.tuples(st.integers(0, 4), st.just(5), st.just(6))),
    arrays.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, IGNORED])),
)
def test_the_overlap_is_that_of_the_chosen_masks_and_no_single_one_is_better(masks, truth) -> None:
    chosen, found = best_set([crop_mask(mask) for mask in masks], truth)
    union = np.logical_or.reduce(masks[chosen]) if chosen else np.zeros((5, 6), bool)
    assert found == overlap(union, truth)
    assert all(overlap(mask, truth).iou <= found.iou + 1e-6 for mask in masks if (truth == 1).any())


@given(st.permutations(range(5)), st.integers(0, 5))
def test_of_masks_apart_the_best_set_is_found(order, meant) -> None:
    masks = np.zeros((5, 4, 10), bool)
    for number, place in enumerate(order):
        masks[number, :, 2 * place : 2 * place + 2] = True
    truth = np.logical_or.reduce(masks[:meant]).astype(np.uint8) if meant else np.zeros((4, 10), np.uint8)
    chosen, found = best_set([crop_mask(mask) for mask in masks], truth)
    assert sorted(chosen) == list(range(meant))
    best = max(
        (
            overlap(np.logical_or.reduce(masks[list(some)]), truth).iou
            for n in (1, 2)
            for some in combinations(range(5), n)
        ),
        default=0.0,
    )
    assert found.iou >= best - 1e-6 or not meant
