"""gIoU and cIoU against the reference's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from lisa_ros.evaluation.metrics import IGNORED, ciou, giou, overlap

GOLDENS = Path(__file__).parents[1] / "golden" / "misc"


def test_giou_and_ciou_are_the_references():
    arrays, expected = np.load(GOLDENS / "metrics.npz"), json.loads((GOLDENS / "metrics.json").read_text())
    overlaps = []
    for i, image in enumerate(expected["per_image"]):
        found = [overlap(p, t) for p, t in zip(arrays[f"pred{i}"], arrays[f"gt{i}"], strict=True)]
        assert sum(o.intersection for o in found) == image["intersection"][1]
        assert sum(o.union for o in found) == image["union"][1]
        assert np.mean([o.iou for o in found]) == pytest.approx(image["acc_iou"][1], abs=1e-5)
        overlaps += found
    assert giou(overlaps) == pytest.approx(expected["giou"], abs=1e-5)
    assert ciou(overlaps) == pytest.approx(expected["ciou"], abs=1e-5)


def test_an_absent_thing_is_right_only_without_a_mask():
    nothing, something = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert overlap(nothing, nothing).iou == 1
    assert overlap(something, nothing).iou == 0


def test_ignored_pixels_do_not_count():
    truth = np.array([[1, IGNORED], [0, IGNORED]], np.uint8)
    assert overlap(np.array([[1, 1], [0, 0]]), truth).iou == pytest.approx(1, abs=1e-4)
