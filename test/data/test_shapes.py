"""labelme's shapes: each is drawn right, or named and left out, for training and for evaluation alike."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lisa_ros.data.picture import BadExample
from lisa_ros.data.reasonseg import labelled_pictures, read_example
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.training.datasets.mixture import Mixture
from lisa_ros.training.datasets.reasonseg import ReasonSeg

SIZE = (100, 120)
SQUARE = {"label": "target", "points": [[10, 20], [50, 20], [50, 60], [10, 60]]}
ROWS, COLUMNS = np.mgrid[: SIZE[0], : SIZE[1]]
SQUARE_MASK = (COLUMNS >= 10) & (COLUMNS <= 50) & (ROWS >= 20) & (ROWS <= 60)


def label(folder: Path, name: str = "a", ending: str = ".png", **changes: object) -> Path:
    """A picture with a good label, but for ``changes``."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / f"{name}{ending}")
    good = {"text": ["the cup"], "is_sentence": False, "shapes": [SQUARE]}
    (folder / f"{name}.json").write_text(json.dumps(good | changes))
    return folder / f"{name}{ending}"


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


BITMAP = np.random.default_rng(0).random((41, 41)) < 0.5
PASTED = np.zeros(SIZE, bool)
PASTED[20:61, 10:51] = BITMAP


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (SQUARE, SQUARE_MASK),
        (SQUARE | {"shape_type": "polygon"}, SQUARE_MASK),
        (SQUARE | {"points": [10, 20, 50, 20, 50, 60, 10, 60]}, SQUARE_MASK),
        ({"shape_type": "rectangle", "points": [[10, 20], [50, 60]]}, SQUARE_MASK),
        ({"shape_type": "rectangle", "points": [[50, 60], [10, 20]]}, SQUARE_MASK),
        ({"shape_type": "rectangle", "points": [[50, 20], [10, 60]]}, SQUARE_MASK),
        (SQUARE | {"shape_type": "rotation"}, SQUARE_MASK),
        (
            {"shape_type": "circle", "points": [[60, 50], [60, 80]]},
            (COLUMNS - 60) ** 2 + (ROWS - 50) ** 2 <= 900,
        ),
        ({"shape_type": "mask", "points": [[10, 20], [50, 60]], "mask": png(BITMAP)}, PASTED),
        ({"shape_type": "mask", "points": [[10, 20], [50, 60]], "mask": png(BITMAP.astype(np.uint8) * 255)}, PASTED),
        ({"points": [[-5, 20], [50, 20], [50, 60], [-5, 60]]}, (COLUMNS <= 50) & (ROWS >= 20) & (ROWS <= 60)),
    ],
)
def test_every_shape_with_an_area_has_the_pixels_that_it_means(tmp_path, shape, expected):
    example = read_example(label(tmp_path, shapes=[{"label": "target"} | shape]))
    assert np.array_equal(example.truth == 1, expected)
    assert example.remarks == ()


LEFT_OUT = {
    "without points": {"points": []},
    "one point": {"points": [[3, 4]]},
    "two points": {"points": [[3, 4], [30, 40]]},
    "a line": {"shape_type": "line", "points": [[3, 4], [30, 40]]},
    "a linestrip": {"shape_type": "linestrip", "points": [[3, 4], [30, 40], [3, 40]]},
    "a point": {"shape_type": "point", "points": [[3, 4]]},
    "points": {"shape_type": "points", "points": [[3, 4], [30, 40], [3, 40]]},
    "outside": {"points": [[200, 20], [240, 20], [240, 60]]},
    "an empty mask": {"shape_type": "mask", "points": [[0, 0], [4, 4]], "mask": png(np.zeros((5, 5), bool))},
}


@pytest.mark.parametrize("shape", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_shape_without_area_is_named_and_left_out_beside_good_ones(tmp_path, caplog, shape):
    label(tmp_path, shapes=[SQUARE, {"label": "target"} | shape])
    ((picture,), drawn) = list(read_pictures(tmp_path)), ReasonSeg(tmp_path)
    assert np.array_equal(picture.examples[0].truth == 1, SQUARE_MASK)
    assert "shape 2 ('target') is left out" in caplog.text
    caplog.clear()
    for _ in range(2):
        assert np.array_equal(drawn.draw(random.Random(0)).dialogues[0].masks[0] > 0, SQUARE_MASK)
    assert caplog.text.count("shape 2 ('target') is left out") == 1


@pytest.mark.parametrize("shape", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_label_of_which_no_target_remains_does_not_teach_that_it_is_absent(tmp_path, shape):
    picture = label(tmp_path, shapes=[{"label": "target"} | shape, SQUARE | {"label": "ignore"}])
    with pytest.raises(BadExample, match=r"a\.json .*shape 1 \('target'\) is left out"):
        read_example(picture)


UNREADABLE = {
    "nan": {"shapes": [SQUARE, SQUARE | {"points": [[float("nan"), 1], [5, 1], [5, 5]]}]},
    "infinite": {"shapes": [SQUARE | {"points": [[float("inf"), 1], [5, 1], [5, 5]]}]},
    "null": {"shapes": [SQUARE | {"points": [[None, 1], [5, 1], [5, 5]]}]},
    "text": {"shapes": [SQUARE | {"points": [["1", "1"], ["5", "1"], ["5", "5"]]}]},
    "far": {"shapes": [SQUARE | {"points": [[2e8, 1], [5, 1], [5, 5]]}]},
    "huge": {"shapes": [SQUARE | {"points": [[10**400, 1], [5, 1], [5, 5]]}]},
    "odd": {"shapes": [SQUARE | {"points": [1, 2, 3]}]},
    "unknown": {"shapes": [SQUARE | {"shape_type": "cuboid"}]},
    "circle": {"shapes": [{"label": "t", "shape_type": "circle", "points": [[5, 5]]}]},
    "mask": {"shapes": [{"label": "t", "shape_type": "mask", "points": [[0, 0], [9, 9]]}]},
    "mask_size": {"shapes": [{"label": "t", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": png(BITMAP)}]},
    "mask_code": {"shapes": [{"label": "t", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": "?"}]},
    "size": {"imageHeight": 480, "imageWidth": 640},
    "turned": {"imageHeight": 120, "imageWidth": 100},
    "no_text": {"text": [None, "", 7]},
    "text_object": {"text": {"a": "cup"}},
    "sentence": {"is_sentence": "perhaps"},
    "shapes": {"shapes": {"label": "t"}},
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_a_label_that_cannot_be_drawn_is_named_and_left_out_by_training_and_evaluation(tmp_path, caplog, change):
    label(tmp_path, "good")
    label(tmp_path, "broken", **change)
    assert [picture.name for picture in read_pictures(tmp_path)] == ["good"]
    assert "broken.json" in caplog.text
    caplog.clear()
    mixture, rng = Mixture([ReasonSeg(tmp_path)], [1.0]), random.Random(0)
    assert {Path(mixture.draw(rng).name).stem for _ in range(20)} == {"good"}
    assert caplog.text.count("broken.json") == 1


def test_a_text_alone_is_one_command_in_training_and_evaluation(tmp_path):
    label(tmp_path, text="the cup")
    (picture,) = read_pictures(tmp_path)
    assert [example.question.turns[0].command for example in picture.examples] == ["the cup"]
    dialogues = ReasonSeg(tmp_path).draw(random.Random(0)).dialogues
    assert len(dialogues) == 1 and "the cup" in dialogues[0].turns[0].question


def test_texts_that_say_nothing_are_named_and_left_out(tmp_path):
    example = read_example(label(tmp_path, text=[None, "the cup", "", 5, " ", "the mug"]))
    assert example.texts == ("the cup", "the mug")
    assert [remark.split(": ", 1)[1].split(" is")[0] for remark in example.remarks] == [
        f"text {number}" for number in (1, 3, 4, 5)
    ]


@pytest.mark.parametrize(("value", "meaning"), [("true", True), ("False", False), (1, True), (0, False), (True, True)])
def test_is_sentence_may_be_text(tmp_path, value, meaning):
    assert read_example(label(tmp_path, is_sentence=value)).is_sentence is meaning


def test_a_shape_that_reaches_far_outside_is_drawn_inside_and_named(tmp_path):
    example = read_example(label(tmp_path, shapes=[SQUARE | {"points": [[60, 20], [300, 20], [300, 60], [60, 60]]}]))
    assert np.array_equal(example.truth == 1, (COLUMNS >= 60) & (ROWS >= 20) & (ROWS <= 60))
    assert "reaches far outside the picture of 120 x 100" in example.remarks[0]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".PNG"])
def test_labels_beside_pictures_of_any_format_are_read(tmp_path, ending):
    assert (read_example(label(tmp_path, ending=ending)).truth == 1).sum() == 41 * 41
    assert [file.suffix for file in labelled_pictures(tmp_path)] == [ending]


def test_labels_without_a_picture_and_pictures_that_share_one_are_counted(tmp_path, caplog):
    label(tmp_path, "a", ".jpg")
    label(tmp_path, "a", ".png")
    (label(tmp_path, "b")).rename(tmp_path / "b.heic")
    assert [file.name for file in labelled_pictures(tmp_path)] == ["a.jpg"]
    assert "1 pictures whose .json belongs to another one" in caplog.text and "a.png" in caplog.text
    assert "1 .json files without a picture" in caplog.text and "b.json" in caplog.text


NUMBER = st.one_of(st.integers(), st.floats(), st.integers(-200, 300), st.none(), st.text(max_size=3), st.booleans())
POINTS = st.recursive(NUMBER, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
CORNER = st.lists(st.one_of(st.integers(-50, 200), st.floats()), min_size=2, max_size=2)
SHAPE = st.fixed_dictionaries(
    {"label": st.one_of(st.just("target"), st.just("ignore"), st.text(max_size=3), NUMBER)},
    optional={
        "points": st.one_of(POINTS, st.lists(CORNER, max_size=6)),
        "shape_type": st.sampled_from(["polygon", "rectangle", "circle", "line", "mask", "point", "", "x", None, 3]),
        "mask": st.one_of(st.text(max_size=8), st.just(png(BITMAP)), st.none()),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    change=st.fixed_dictionaries(
        {},
        optional={
            "shapes": st.one_of(st.lists(st.one_of(SHAPE, NUMBER), max_size=4), POINTS),
            "text": st.one_of(POINTS, st.dictionaries(st.text(max_size=2), NUMBER, max_size=2)),
            "is_sentence": POINTS,
            "imageWidth": NUMBER,
        },
    )
)
def test_any_label_is_read_or_is_a_bad_example(tmp_path_factory, change):
    picture = label(tmp_path_factory.getbasetemp() / "any", **change)
    with contextlib.suppress(BadExample):
        example = read_example(picture)
        assert example.truth.shape == SIZE and set(np.unique(example.truth)) <= {0, 1, 255}
        assert all(text.strip() for text in example.texts)
