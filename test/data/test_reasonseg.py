"""ReasonSeg's format, read for training and for evaluation alike."""

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from lisa_ros.data.picture import BadExample
from lisa_ros.data.reasonseg import read_example, read_folder, read_truth
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.training.datasets.mixture import Mixture
from lisa_ros.training.datasets.reasonseg import ReasonSeg

GOLDENS = Path(__file__).parents[1] / "golden" / "misc"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_polygons_are_painted_as_in_the_benchmark(name):
    expected = cv2.imread(str(GOLDENS / f"reasonseg_img_{name}_mask.png"), cv2.IMREAD_UNCHANGED)
    label = json.loads((GOLDENS / f"reasonseg_img_{name}.json").read_text("utf-8"))
    # OpenCV 5 draws one pixel of a slanted edge elsewhere than the OpenCV 4 that made these numbers.
    assert np.count_nonzero(read_truth(label, expected.shape)[0] != expected) <= 1


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
    with pytest.raises(BadExample, match=r"odd\.json is not a ReasonSeg label"):
        read_example(tmp_path / "odd.jpg")


def test_labels_in_the_old_windows_encoding_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "x.jpg"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "x.json").write_bytes('{"text": ["the caf\xe9"], "is_sentence": false, "shapes": []}'.encode("cp1252"))
    example = read_example(tmp_path / "x.jpg")
    assert example.texts == ("the caf\xe9",) and not example.truth.any()


def test_training_and_evaluation_leave_out_the_same_examples_and_name_them(tmp_path, caplog):
    shape = {"label": "cup", "points": [[1, 1], [6, 1], [6, 6]]}
    label = {"text": ["the cup"], "is_sentence": False, "shapes": [shape]}
    broken = {
        "no_points": {"shapes": [{"label": "cup", "points": []}]},
        "no_text": {"text": [" "]},
        "no_kind": {"is_sentence": None, "shapes": None},
        "cut_off": {},
    }
    for name, change in {"good": {}, **broken}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((12, 10, 3), 90, np.uint8))
        (tmp_path / f"{name}.json").write_text(json.dumps(label | change))
    (tmp_path / "cut_off.png").write_bytes((tmp_path / "cut_off.png").read_bytes()[:40])
    (tmp_path / "alone.png").write_bytes((tmp_path / "good.png").read_bytes())

    assert [picture.name for picture in read_pictures(tmp_path)] == ["good"]
    assert all(name in caplog.text for name in (*broken, "alone.png"))
    caplog.clear()
    mixture, rng = Mixture([ReasonSeg(tmp_path)], [1.0]), random.Random(0)
    assert {Path(mixture.draw(rng).name).stem for _ in range(40)} == {"good"}
    assert all(name in caplog.text for name in (*broken, "alone.png"))


def test_a_label_with_a_byte_order_mark_is_read(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((9, 9, 3), np.uint8))
    content = json.dumps({"text": ["the cup"], "is_sentence": False, "shapes": []})
    (tmp_path / "x.json").write_text(content, "utf-8-sig")
    assert read_example(tmp_path / "x.png").texts == ("the cup",)
