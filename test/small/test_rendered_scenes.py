"""Geometry and tracking against rendered truth; benchmarks/geometry.py and benchmarks/tracking.py measure more."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.geometry import BOX_LIKE, measure, views
from benchmarks.sequences import moving_camera, moving_object, open_studio, shots, taken_away
from lisa_ros.engine.api import crop_mask
from lisa_ros.perception.tracking import FlowTracker, State, Tracked


@pytest.fixture(scope="module")
def studio(opengl):
    studio = open_studio()
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def rendered(studio) -> list:
    return list(views(studio, BOX_LIKE, 1))


@pytest.mark.parametrize("bleeding_px", [0, 5])
def test_centroids_are_within_5_mm_and_sides_within_10_mm_or_10_percent(rendered: list, bleeding_px: int) -> None:
    for view in rendered:
        error = measure(view, noisy=False, bleeding_px=bleeding_px)
        assert error.within, (view.name, error)
        assert error.centroid_m < 0.005, (view.name, error)


def test_centroids_are_within_5_mm_with_the_noise_of_a_camera(rendered: list) -> None:
    for view in rendered:
        assert measure(view, noisy=True, bleeding_px=2).centroid_m < 0.005, view.name


def followed(studio, motion, seconds: float) -> list[tuple[float, Tracked, np.ndarray]]:
    tracker, result = FlowTracker(), []
    for shot in shots(studio, motion, 1, seconds, (320, 240)):
        if shot.time_s == 0:
            tracker.start(shot.rgb, [crop_mask(shot.mask, 1, 1.0)], 0.0)
        else:
            result.append((shot.time_s, *tracker.update(shot.rgb, shot.time_s), shot.mask))
    return result


def iou(tracked: Tracked, mask: np.ndarray) -> float:
    crop, image = tracked.crop, np.zeros_like(mask)
    image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    return np.count_nonzero(image & mask) / max(np.count_nonzero(image | mask), 1)


@pytest.mark.parametrize("motion", [moving_camera, moving_object], ids=lambda motion: motion.__name__)
def test_masks_follow_a_moving_camera_and_a_moving_object(studio, motion) -> None:
    assert np.mean([iou(tracked, mask) for _, tracked, mask in followed(studio, motion, 1.0)]) >= 0.8


def test_an_object_that_is_taken_away_is_lost_within_half_a_second(studio) -> None:
    frames = followed(studio, taken_away, 1.6)
    gone = max(t for t, _, mask in frames if mask.any())
    lost = min(t for t, tracked, _ in frames if t > gone and tracked.state is State.LOST)
    assert lost - gone <= 0.5
