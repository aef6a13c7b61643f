"""Proposals as values: packed crops, their order and number, their memory, overlaps."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lisa_ros.engine.api import Proposals, crop_mask
from lisa_ros.extractive.overlaps import box_ious, mask_ious, suppress
from lisa_ros.extractive.packed_crops import PackedCrops, packed
from lisa_ros.extractive.proposers.proposer import ORDERS, Arrangement

MASKS = arrays.arrays(bool, st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(1, 11)))


@given(MASKS)
def test_packed_crops_are_the_crops(masks) -> None:
    crops = PackedCrops(crop_mask(mask, label, 0.5) for label, mask in enumerate(masks))
    assert len(crops) == len(masks)
    for mask, crop in zip(masks, crops, strict=True):
        expected = crop_mask(mask, crop.label, 0.5)
        assert (crop.pixels == expected.pixels).all()
        assert (crop.x, crop.y, crop.area, crop.centroid) == (expected.x, expected.y, expected.area, expected.centroid)
    assert [crop.label for crop in crops[1:]] == list(range(1, len(masks)))


@given(MASKS, st.sampled_from(sorted(ORDERS)), st.integers(0, 3))
def test_an_arrangement_drops_empty_masks_and_keeps_what_belongs_together(masks, order, limit) -> None:
    areas = masks.sum((1, 2))
    proposals = Proposals(masks=masks, embeddings=areas[:, None].astype(float), phrases=[str(area) for area in areas])
    arranged = Arrangement(order, limit).of(proposals)
    present = int((areas > 0).sum())
    assert len(arranged.crops) == (min(limit, present) if limit else present)
    for crop, embedding, phrase in zip(arranged.crops, arranged.embeddings, arranged.phrases, strict=True):
        assert crop.area == embedding[0] == int(phrase) > 0


def test_positions_are_read_like_a_page() -> None:
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 15:18, 2:4] = masks[1, 1:3, 12:16] = masks[2, 1:3, 1:5] = True
    arranged = Arrangement("position").of(Proposals(masks=masks))
    assert [(crop.x, crop.y) for crop in arranged.crops] == [(1, 1), (12, 1), (2, 15)]


def test_200_proposals_of_full_hd_take_less_than_40_mb() -> None:
    """Boxes from a twentieth of the frame to the whole of it, of which 20 are nearly as large as the frame."""
    rng = np.random.default_rng(0)
    height, width = 1080, 1920
    sizes = [(1000, 1800)] * 20 + [(int(h), int(w)) for h, w in rng.integers(60, 700, (180, 2))]

    def crops():
        for h, w in sizes:
            plane = np.zeros((height, width), bool)
            y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            plane[y : y + h, x : x + w] = True
            yield crop_mask(plane)

    tracemalloc.start()
    held = PackedCrops(crops())
    arranged = Arrangement().of(Proposals(crops=held))
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(arranged) == 200
    assert now < 40e6, f"{now / 1e6:.0f} MB"
    assert held.nbytes < now


@given(arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))))
def test_ious_of_masks(masks) -> None:
    ious = mask_ious(masks)
    for a, first in enumerate(masks):
        for b, second in enumerate(masks):
            expected = (first & second).sum() / max((first | second).sum(), 1)
            assert ious[a, b] == pytest.approx(expected)


def test_of_near_copies_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], float)
    assert suppress(box_ious(boxes), [1, 0, 2], 0.7) == [1, 2]
    assert suppress(box_ious(boxes), [1, 0, 2], 0.9) == [1, 0, 2]


def test_proposals_are_counted_and_there_even_if_none() -> None:
    assert len(Proposals(masks=np.zeros((3, 2, 2), bool))) == 3
    assert len(Proposals(embeddings=np.zeros((4, 8)))) == 4
    assert len(Proposals()) == 0
    assert Proposals()
    assert len(packed(Proposals())) == 0
