"""Points and boxes of a command: SAM's prompt tokens for LISA, the moved prompt for the demo model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamModel

from lisa_ros.engine.api import POINTS, Ask
from lisa_ros.errors import CommandError
from lisa_ros.lisa.model.sam import box_tokens, point_tokens
from lisa_ros.lisa.pointing import OUTSIDE, Pointing, kept, pointing_of, prompt_tokens
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.perception.masks import union_image
from lisa_small import model_folder

GOLDEN = Path(__file__).parents[1] / "golden"
SQUARE = (64, 64)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_checkpoint(GOLDEN / "ckpt", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / "wide.png").convert("RGB"))


def hugging_face(sam: SamModel, points=None, labels=None, boxes=None) -> torch.Tensor:
    """Sparse tokens (1, n, C) of transformers' own prompt encoder, without the padding to a common length."""
    sparse, _ = sam.prompt_encoder(points, labels, boxes, None)
    return sparse[:, 0]


@torch.inference_mode()
def test_points_and_boxes_become_the_tokens_of_sams_prompt_encoder(segmenter: Segmenter) -> None:
    sam, place = segmenter.lisa.sam, torch.tensor([[[[10.0, 20.0], [30.5, 4.0]]]])
    labels, box = torch.tensor([[[1, 0]]]), torch.tensor([[[3.0, 5.0, 40.0, 33.0]]])
    torch.testing.assert_close(point_tokens(sam, place[0], labels[0]), hugging_face(sam, place, labels))
    torch.testing.assert_close(box_tokens(sam, box[0]), hugging_face(sam, boxes=box))
    both = Pointing(((10.0, 20.0), (30.5, 4.0)), (1, 0), (3.0, 5.0, 40.0, 33.0))
    given = prompt_tokens(segmenter.lisa, both, (1.0, 1.0))
    torch.testing.assert_close(given, hugging_face(sam, place, labels, box))


@torch.inference_mode()
def test_coordinates_are_scaled_to_the_encoders_input(segmenter: Segmenter) -> None:
    small = prompt_tokens(segmenter.lisa, Pointing(((5.0, 8.0),), (1,)), (2.0, 4.0))
    torch.testing.assert_close(small, prompt_tokens(segmenter.lisa, Pointing(((10.0, 32.0),), (1,)), (1.0, 1.0)))


@pytest.mark.parametrize(
    "fields", [{"points": [(60, 40)]}, {"points": [(60, 40)], "point_labels": [0]}, {"box": (9, 9, 40, 40)}]
)
def test_lisas_masks_depend_on_points_and_box_and_its_text_does_not(segmenter: Segmenter, wide, fields) -> None:
    assert POINTS in segmenter.info.capabilities
    encoded = segmenter.encode(wide)
    plain = segmenter.ask(encoded, Ask("the orange part"), details=True)
    pointed = segmenter.ask(encoded, Ask("the orange part", **fields), details=True)
    again = segmenter.ask(encoded, Ask("the orange part"), details=True)
    assert pointed.text == plain.text and len(pointed.regions) == len(plain.regions) > 0
    assert np.abs(logits_of(pointed) - logits_of(plain)).max() > 1e-3
    np.testing.assert_allclose(logits_of(again), logits_of(plain), atol=1e-4)


def logits_of(answer) -> np.ndarray:
    return answer.details["mask_logits"]


def test_points_without_words_are_refused(segmenter: Segmenter, wide) -> None:
    with pytest.raises(CommandError, match="is empty"):
        segmenter.ask(segmenter.encode(wide), Ask("", points=[(60, 40)]))


def test_points_without_labels_are_on_the_thing() -> None:
    assert pointing_of(Ask("it", points=[(1, 2)])) == Pointing(((1.0, 2.0),), (1,))
    assert pointing_of(Ask("it", box=(1, 2, 3, 4))) == Pointing(box=(1.0, 2.0, 4.0, 6.0))
    assert pointing_of(Ask("it")) is None


def two_parts() -> np.ndarray:
    logits = np.full(SQUARE, -5.0, np.float32)
    logits[10:20, 5:15] = logits[10:20, 40:50] = 5.0
    return logits


@pytest.mark.parametrize(
    ("pointing", "left", "right"),
    [
        (Pointing(((8, 15),), (1,)), True, False),
        (Pointing(((8, 15),), (0,)), False, True),
        (Pointing(((8, 15), (45, 15)), (0, 1)), False, True),
        (Pointing(((8, 15), (9, 15)), (0, 1)), True, False),
        (Pointing(box=(0, 0, 30, 30)), True, False),
        (Pointing(((30, 50),), (1,)), True, True),
        (Pointing(((-9, 900),), (0,)), True, True),
    ],
    ids=["on", "not on", "this, not that", "both in one part", "box", "on nothing", "outside of the image"],
)
def test_parts_are_kept_as_the_places_say(pointing: Pointing, left: bool, right: bool) -> None:
    logits = kept(two_parts(), pointing, SQUARE)
    assert ((logits[15, 8] > 0), (logits[15, 45] > 0)) == (left, right)
    assert logits.min() >= OUTSIDE


@pytest.fixture(scope="module")
def two_combs():
    """The demo model, an encoded scene with two combs, and the pixels (H, W) bool of each."""
    pytest.importorskip("mujoco")
    from lisa_small.scenes.assets import load_models
    from lisa_small.scenes.dataset import photograph
    from lisa_small.scenes.render import Studio

    try:
        studio = Studio()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")
    layout, frame = photograph(studio, 40000, "test", (480, 360))
    studio.close()
    labels = [load_models()[placement.model].label for placement in layout.placements]
    combs = [frame.ids == number for number, label in enumerate(labels, 1) if label == "comb"]
    assert len(combs) == 2
    segmenter = Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32")
    return segmenter, segmenter.encode(frame.rgb), combs


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """The pixel of a mask that is nearest to its middle."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[nearest]), float(rows[nearest])


def answer_mask(two_combs, **fields) -> np.ndarray:
    segmenter, encoded, _ = two_combs
    answer = segmenter.ask(encoded, Ask("the comb", **fields))
    return union_image([region.mask for region in answer.regions], encoded.size) > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("wanted", [0, 1])
def test_the_demo_model_marks_the_one_of_two_that_is_pointed_at(two_combs, wanted: int) -> None:
    this, other = two_combs[2][wanted], two_combs[2][1 - wanted]
    rows, columns = np.nonzero(this)
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    asks = (
        {"points": [inner_point(this)]},
        {"points": [inner_point(this), inner_point(other)], "point_labels": [1, 0]},
        {"box": box},
    )
    for fields in asks:
        mask = answer_mask(two_combs, **fields)
        assert iou(mask, this) > 0.5 and iou(mask, other) < 0.1, fields


def test_a_negative_point_excludes_what_the_demo_model_marked(two_combs) -> None:
    plain = answer_mask(two_combs)
    marked = max(two_combs[2], key=lambda comb: iou(plain, comb))
    assert iou(plain, marked) > 0.3
    mask = answer_mask(two_combs, points=[inner_point(plain & marked)], point_labels=[0])
    assert not (mask & marked).any()
