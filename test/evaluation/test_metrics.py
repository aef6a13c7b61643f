"""gIoU, cIoU and ReasonSeg's labels against the reference's numbers."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.metrics import IGNORED, ciou, giou, overlap
from lisa_ros.evaluation.reasonseg import read_example, read_folder, read_json, read_truth

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


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_polygons_are_painted_as_in_the_benchmark(name):
    expected = cv2.imread(str(GOLDENS / f"reasonseg_img_{name}_mask.png"), cv2.IMREAD_UNCHANGED)
    label = read_json(GOLDENS / f"reasonseg_img_{name}.json")
    # OpenCV 5 draws one pixel of a slanted edge elsewhere than the OpenCV 4 that made these numbers.
    assert np.count_nonzero(read_truth(label, expected.shape) != expected) <= 1


def test_a_broken_example_is_skipped_and_the_others_are_read(tmp_path, caplog):
    label = {"text": ["the cup"], "is_sentence": False, "shapes": [{"label": "t", "points": [[1, 1], [6, 1], [6, 6]]}]}
    for name in ("good", "no_text", "no_picture"):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.zeros((12, 10, 3), np.uint8))
        (tmp_path / f"{name}.json").write_text(json.dumps(label | ({"text": []} if name == "no_text" else {})))
    (tmp_path / "no_picture.jpg").write_bytes(b"not a jpeg")
    assert [example.name for example in read_folder(tmp_path)] == ["good"]
    assert "no_text" in caplog.text and "no_picture" in caplog.text


@pytest.mark.parametrize("points", [[], [[1]], ["ab"], None, [[0, 0, 0]]])
def test_a_polygon_that_is_none_names_its_file(tmp_path, points):
    cv2.imwrite(str(tmp_path / "odd.jpg"), np.zeros((8, 8, 3), np.uint8))
    label = {"shapes": [{"label": "target", "points": points}], "text": ["x"], "is_sentence": False}
    (tmp_path / "odd.json").write_text(json.dumps(label))
    with pytest.raises(ConfigError, match=r"odd\.json is not a ReasonSeg label"):
        read_example(tmp_path / "odd.jpg")


def test_labels_in_the_old_windows_encoding_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "x.jpg"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "x.json").write_bytes('{"text": ["the caf\xe9"], "is_sentence": false, "shapes": []}'.encode("cp1252"))
    example = read_example(tmp_path / "x.jpg")
    assert example.texts == ["the caf\xe9"] and not example.truth.any()
