"""SAM 2 as a tracker: transformers' own memory of a video, bounded; and the contract of trackers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.grounded.cutters.sam import IMAGENET_MEAN, IMAGENET_STD, Input
from lisa_ros.grounded.video import Sam2VideoTracker
from lisa_ros.perception.tracking import State, Tracked

SIZE = (120, 160)


def frame(number: int) -> NDArray[np.uint8]:
    """(120, 160, 3): noise, and a square that moves."""
    rgb = np.random.default_rng(number).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    rgb[30:80, 20 + number : 70 + number] = (220, 30, 30)
    return rgb


def square(number: int = 0, label: int = 7) -> MaskCrop:
    mask = np.zeros(SIZE, bool)
    mask[30:80, 20 + number : 70 + number] = True
    return crop_mask(mask, label, 0.9)


def corner(label: int = 3) -> MaskCrop:
    mask = np.zeros(SIZE, bool)
    mask[90:, 100:] = True
    return crop_mask(mask, label, 0.9)


def whole(tracked: Tracked) -> NDArray[np.bool_]:
    image, crop = np.zeros(SIZE, bool), tracked.crop
    image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    return image


@pytest.fixture(scope="module")
def folder(tiny) -> Path:
    return tiny("sam2_video")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Sam2VideoTracker:
    return Sam2VideoTracker(str(folder), device="cpu", precision="fp32")


@pytest.fixture
def tracker(loaded: Sam2VideoTracker) -> Sam2VideoTracker:
    loaded.clear()
    return loaded


@torch.inference_mode()
def reference(folder: Path, crops: list[MaskCrop], frames: int) -> list[NDArray[np.bool_]]:
    """Masks (S, H, W) of each frame after the first, by one session of transformers that forgets nothing."""
    model = Sam2VideoModel.from_pretrained(folder).eval()
    session = Sam2VideoInferenceSession(None, *SIZE, dtype=torch.float32)
    given = Input(256, IMAGENET_MEAN, IMAGENET_STD)
    for crop in crops:
        image = torch.zeros(1, 1, *SIZE)
        image[0, 0, crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = torch.from_numpy(crop.pixels > 0)
        mask = F.interpolate(image, (256, 256), mode="bilinear", align_corners=False, antialias=True) >= 0.5
        session.add_mask_inputs(session.obj_id_to_idx(crop.label), 0, mask.float())
    session.obj_with_new_inputs = [crop.label for crop in crops]
    masks = []
    for number in range(frames):
        output = model(session, frame=torch.from_numpy(given.pixels(frame(number)))[None])
        masks.append(F.interpolate(output.pred_masks, SIZE, mode="bilinear", align_corners=False)[:, 0].numpy() > 0)
    return masks[1:]


def test_masks_are_those_of_a_session_that_forgets_nothing(folder: Path, tracker: Sam2VideoTracker) -> None:
    """Over more frames than a memory holds: what was dropped is what nobody looks at."""
    crops = [corner(), square()]
    expected = reference(folder, crops, 24)
    assert all(mask.any() for masks in expected for mask in masks)
    tracker.start(frame(0), crops[::-1], 0.0)
    for number, masks in enumerate(expected, 1):
        tracked = tracker.update(frame(number), number / 30)
        assert [one.id for one in tracked] == [3, 7]
        for one, mask in zip(tracked, masks, strict=True):
            found = mask if one.crop.area else np.zeros_like(mask)  # of a target that is not visible enough
            assert np.count_nonzero(whole(one) != found) <= 2  # in another order of the same sums
    assert any(one.crop.area for one in tracked)


def tensors(value: Any, seen: set[int]) -> int:
    """Bytes of all tensors that a value holds."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensors(one, seen) for one in value.values())
    if isinstance(value, list | tuple):
        return sum(tensors(one, seen) for one in value)
    return tensors(vars(value), seen) if hasattr(value, "__dict__") else 0


def test_memory_does_not_grow_with_the_video(tracker: Sam2VideoTracker) -> None:
    tracker.start(frame(0), [square()], 0.0)
    held = []
    for number in range(1, 60):
        tracker.update(frame(number % 40), number / 30)
        held.append(tensors(tracker._targets, set()))
    assert len(set(held[20:])) == 1
    assert held[-1] < 8e6


def test_states_follow_the_object_score(tracker: Sam2VideoTracker) -> None:
    head = tracker._model.mask_decoder.pred_obj_score_head.proj_out
    bias = head.bias.clone()
    tracker.start(frame(0), [square()], 0.0)
    (before,) = tracker.update(frame(1), 1 / 30)
    assert before.state is not State.LOST
    assert before.crop.area
    assert before.crop.score == before.confidence
    try:
        head.bias.fill_(-6.0)  # SAM sees nothing
        states = []
        for number in range(2, 16):
            (one,) = tracker.update(frame(number), number / 30)
            assert (one.id, one.crop.area) == (7, 0)
            assert one.confidence < 0.01
            states.append(one.state)
        assert states[0] is State.UNCERTAIN
        assert states[-1] is State.LOST
        assert states == sorted(states)
        assert tracker.wants_detection
        head.bias.copy_(bias)
        tracker.redetect(frame(16), [square(16, 1)], 16 / 30)
        assert not tracker.wants_detection
        (after,) = tracker.update(frame(17), 17 / 30)
        assert (after.id, after.state) == (7, before.state)
        assert after.crop.area
    finally:
        head.bias.copy_(bias)


def test_redetection_keeps_ids_adds_new_ones_and_leaves_the_others_alone(tracker: Sam2VideoTracker) -> None:
    tracker.start(frame(0), [square(), corner()], 0.0)
    other = np.zeros(SIZE, bool)
    other[:20, 120:] = True
    tracker.redetect(frame(0), [crop_mask(other, 1, 0.9), square(1, 2)], 0.1)
    assert [one.id for one in tracker.update(frame(1), 0.2)] == [3, 7, 8]


def test_nothing_to_track(tracker: Sam2VideoTracker) -> None:
    assert tracker.update(frame(0), 0.0) == []
    tracker.start(frame(0), [crop_mask(np.zeros(SIZE, bool), 1, 0.9)], 0.0)
    assert tracker.update(frame(1), 0.1) == []
    tracker.start(frame(0), [square()], 0.2)
    tracker.clear()
    assert tracker.update(frame(1), 0.3) == []
    assert not tracker.wants_detection


def test_a_mask_of_one_pixel_in_a_large_frame_is_taken(tracker: Sam2VideoTracker) -> None:
    dot = np.zeros((1080, 1920), bool)
    dot[500, 900] = True
    rgb = np.zeros((1080, 1920, 3), np.uint8)
    tracker.start(rgb, [crop_mask(dot, 1, 0.9)], 0.0)
    assert [one.id for one in tracker.update(rgb, 0.1)] == [1]


def test_the_sam_of_an_engine_tracks_too(tiny, tmp_path: Path) -> None:
    (tmp_path / "cutter").symlink_to(tiny("sam2_video"))
    engine = tiny_models.recipe(tmp_path, {"kind": "endpoint"}, {"model": "cutter"})
    tracker = Sam2VideoTracker(str(engine), device="cpu")
    tracker.start(frame(0), [square()], 0.0)
    assert [one.id for one in tracker.update(frame(1), 0.1)] == [7]


def test_what_cannot_track_is_refused_with_the_remedy(tiny, endpoint_engine: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model; give the folder of a SAM 2"):
        Sam2VideoTracker(str(tmp_path))
    for folder in (tiny("sam2"), endpoint_engine):  # SAM 2 for pictures: it has no memory
        with pytest.raises(CheckpointError, match="holds a model of type 'sam2', which does not track"):
            Sam2VideoTracker(str(folder))
    with pytest.raises(ConfigError, match="int8"):
        Sam2VideoTracker(str(tiny("sam2_video")), device="cpu", precision="int8")


def test_torchvision_is_not_needed() -> None:
    assert "torchvision" not in sys.modules
