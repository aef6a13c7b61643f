"""COCO's annotations are drawn right, or named and left out; nothing wild reaches pycocotools."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import SIZE, box, refer

from lisa_ros.data.coco import mask_of, union_of
from lisa_ros.data.picture import BadExample
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.training.datasets.parts import Parts
from lisa_ros.training.datasets.refer import Refer

SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
PIXELS = SIZE[0] * SIZE[1]
DRAWN = np.zeros(SIZE, np.uint8)
DRAWN[5:25, 10:30] = 1


def mask(segmentation: object) -> np.ndarray:
    return mask_of({"id": 5, "segmentation": segmentation}, SIZE)


@pytest.mark.parametrize("sliver", [[], [1, 2], [10, 20, 30, 40]])
@pytest.mark.parametrize("first", [False, True])
def test_a_sliver_beside_a_good_polygon_changes_nothing(sliver, first):
    # pycocotools takes a list of four numbers for a box.
    assert np.array_equal(mask([sliver, SQUARE] if first else [SQUARE, sliver]), DRAWN)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[float("nan"), *SQUARE[1:]]],
        [[float("inf"), *SQUARE[1:]]],
        [[2e8, *SQUARE[1:]]],
        [[-1e7, *SQUARE[1:]]],
        [[10**400, *SQUARE[1:]]],
        [SQUARE, [float("nan"), *SQUARE[1:]]],
        [SQUARE[:-1]],
        [[10, 20, 30, 40]],
        [[]],
        [None],
        [["1", "2", "3", "4", "5", "6"]],
        "polygon",
        7,
        [[0, 0, 100, 0, 0, 30] * 100_000],
    ],
)
def test_a_polygon_that_cannot_be_drawn_is_a_bad_example(segmentation):
    with pytest.raises(BadExample, match=r"annotation 5 has no usable segmentation"):
        mask(segmentation)


@pytest.mark.parametrize(
    "counts",
    [
        [PIXELS - 1],
        [PIXELS + 1],
        [],
        [10, -5, PIXELS - 5],
        [10.5, PIXELS - 10.5],
        [float("nan")],
        [float("inf")],
        [2**70],
        [None],
        ["10"],
        "",
        "o",
        "0" * 50,
        "o" * 50,
        "\N{SNOWMAN}",
        None,
        5,
    ],
)
def test_run_lengths_that_do_not_fill_the_picture_are_a_bad_example(counts):
    with pytest.raises(BadExample, match=r"annotation 5 has no usable segmentation"):
        mask({"size": list(SIZE), "counts": counts})


@pytest.mark.parametrize("size", [[SIZE[1], SIZE[0]], [1, PIXELS], [PIXELS], None, "ab"])
def test_run_lengths_of_another_size_are_a_bad_example(size):
    with pytest.raises(BadExample, match="annotation 5"):
        mask({"size": size, "counts": [PIXELS]})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_run_lengths_are_read_as_pycocotools_writes_them(seed, share):
    from pycocotools import mask as rle

    wanted = (np.random.default_rng(seed).random(SIZE) < share).astype(np.uint8)
    counts = rle.encode(np.asfortranarray(wanted))["counts"]
    assert np.array_equal(mask({"size": list(SIZE), "counts": counts}), wanted)
    assert np.array_equal(mask([{"size": list(SIZE), "counts": counts.decode()}]), wanted)


def test_annotations_without_a_pixel_are_no_target():
    outside = {"id": 8, "segmentation": [[100, 5, 120, 5, 120, 25]]}
    with pytest.raises(BadExample, match="annotation 8 has no pixel in the picture of 60 x 40"):
        union_of([outside], SIZE)
    assert np.array_equal(union_of([outside, {"id": 5, "segmentation": [SQUARE]}], SIZE), DRAWN)


@pytest.mark.parametrize(
    "wild",
    [
        [[float("nan"), *SQUARE[1:]]],
        [[2e8, *SQUARE[1:]]],
        {"size": list(SIZE), "counts": [9]},
        [[90, 90, 95, 90, 95, 95]],
    ],
)
def test_a_wild_annotation_is_named_and_left_out_by_training_and_evaluation(tmp_path, caplog, wild):
    folder = refer(tmp_path)
    instances = folder / "refcoco" / "instances.json"
    content = json.loads(instances.read_text())
    broken, good = content["annotations"][:2]
    broken["segmentation"] = wild
    instances.write_text(json.dumps(content))
    for split in ("train", "val"):
        refs = [
            {"ann_id": one["id"], "image_id": one["image_id"], "split": split, "sentences": [{"sent": text}]}
            for one, text in ((broken, "broken cup"), (good, "good cup"))
        ]
        (folder / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
        caplog.clear()
        if split == "train":
            asked = [one.turns[0].question for one in Refer(folder).draw(random.Random(0)).dialogues]
        else:
            (shown,) = read_pictures(folder / "refcoco")
            asked = [example.question.turns[0].command for example in shown.examples]
        assert len(asked) == 1 and "good cup" in asked[0]
        assert f"annotation {broken['id']}" in caplog.text


def test_sentences_that_are_no_text_are_counted_and_left_out(tmp_path, caplog):
    folder = refer(tmp_path)
    file = folder / "refcoco" / "refs(unc).p"
    refs = pickle.loads(file.read_bytes())
    for ref in refs:
        ref["sentences"] += [{"sent": None}, {"sent": 5}, {"sent": " "}]
    file.write_bytes(pickle.dumps(refs, protocol=2))
    (shown,) = read_pictures(folder / "refcoco")
    assert [example.question.turns[0].command for example in shown.examples] == ["left cup"]
    assert "3 sentences of the split 'val'" in caplog.text


def test_annotation_files_with_a_byte_order_mark_are_read(tmp_path):
    folder = refer(tmp_path)
    instances = folder / "refcoco" / "instances.json"
    instances.write_text(instances.read_text("utf-8"), "utf-8-sig")
    assert len(list(read_pictures(folder / "refcoco"))) == 1


def test_slivers_are_counted_when_the_file_is_read(tmp_path, caplog):
    folder = refer(tmp_path)
    instances = folder / "refcoco" / "instances.json"
    content = json.loads(instances.read_text())
    content["annotations"][0]["segmentation"].append([1, 2, 3, 4])
    instances.write_text(json.dumps(content))
    assert list(read_pictures(folder / "refcoco"))
    assert "polygons of fewer than three corners in 1 annotations" in caplog.text


def test_a_wild_part_leaves_the_other_categories(tmp_path, caplog):
    folder = refer(tmp_path)
    content = json.loads((folder / "refcoco" / "instances.json").read_text())
    image = content["images"][0]
    content["annotations"] = [
        {"id": 1, "image_id": image["id"], "category_id": 1, "segmentation": [box(5, 5, 10, 10)]},
        {"id": 2, "image_id": image["id"], "category_id": 2, "segmentation": [[2e8, *SQUARE[1:]]]},
    ]
    content["categories"] = [{"id": 1, "name": "mug"}, {"id": 2, "name": "mug:handle"}]
    (tmp_path / "paco.json").write_text(json.dumps(content))
    data = Parts(tmp_path / "paco.json", images=folder / "images/mscoco/images/train2014")
    for seed in range(3):
        (dialogue,) = data.draw(random.Random(seed)).dialogues
        assert "mug" in dialogue.turns[0].question
    assert caplog.text.count("annotation 2") == 1


NUMBER = st.one_of(st.integers(), st.floats(), st.integers(-200, 300), st.none(), st.text(max_size=3), st.booleans())
ANY = st.recursive(NUMBER, lambda inner: st.lists(inner, max_size=8), max_leaves=20)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.just(list(SIZE)), ANY),
        "counts": st.one_of(st.text(max_size=30), st.lists(st.integers(-5, PIXELS)), ANY, st.binary(max_size=20)),
    },
)
POLYGONS = st.lists(st.lists(st.one_of(st.floats(-300, 300), st.floats()), max_size=12), max_size=4)


@settings(max_examples=500, deadline=None)
@given(st.one_of(ANY, RUNS, st.lists(RUNS, max_size=3), POLYGONS))
def test_any_segmentation_is_drawn_or_is_a_bad_example(segmentation):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(BadExample):
        drawn = mask(segmentation)
        assert drawn.shape == SIZE and drawn.dtype == np.uint8 and drawn.max() <= 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_far_corner_takes_no_memory(tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for corner in (1e7, -3e7, 1e300):
        with pytest.raises(BadExample, match="is far outside the picture of 60 x 40"):
            mask([[corner, *SQUARE[1:]]])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
