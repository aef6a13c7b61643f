"""Masks that follow a scene drawn by warping textures: exact truth, and only OpenCV."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.perception.tracking import FlowTracker, State, Tracked, Tracker, match

WIDTH, HEIGHT, RATE_HZ = 320, 240, 30.0
Pose = Callable[[float], np.ndarray]


def texture(seed: int, height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    """(height, width, 3) uint8: cloudy, with fine grain."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for cells in (8, 24, 64):
        total += cv2.resize(rng.normal(size=(cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(colour) + 25 * total[..., None], 0, 255).astype(np.uint8)


def similar(x: float, y: float, degrees: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """(3, 3): a turn and a scale about the image's centre, then a shift by x, y halves of a pixel."""
    x, y = x / 2, y / 2
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    a, b = WIDTH / 2, HEIGHT / 2
    return np.array([[c, -s, a + x - c * a + s * b], [s, c, b + y - s * a - c * b], [0, 0, 1]])


def still(t: float) -> np.ndarray:
    return np.eye(3)


class World:
    """A textured ground, a thing on it and something in front, each with a pose of its own (image pixels)."""

    def __init__(self, ground: Pose = still, thing: Pose = still, front: Pose | None = None) -> None:
        self.ground, self.thing, self.front = ground, thing, front
        self.ground_texture = texture(1, 3 * HEIGHT, 3 * WIDTH, (150, 120, 90))
        self.thing_texture = texture(2, HEIGHT, WIDTH, (60, 110, 170))
        self.front_texture = texture(3, HEIGHT, WIDTH, (190, 60, 60))
        shape = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(shape, (160, 120), (40, 25), 20, 0, 360, 255, -1)
        cv2.rectangle(shape, (150, 80), (165, 120), 255, -1)
        self.shape = shape
        self.screen = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.rectangle(self.screen, (100, 50), (220, 190), 255, -1)
        self.noise = np.random.default_rng(0).normal(0, 3, (5, HEIGHT, WIDTH, 3)).astype(np.int16)

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """rgb (H, W, 3) uint8 and the thing's visible mask (H, W) bool."""
        middle = np.array([[1.0, 0, -WIDTH], [0, 1, -HEIGHT], [0, 0, 1]])
        size = (WIDTH, HEIGHT)
        image = cv2.warpPerspective(self.ground_texture, self.ground(t) @ middle, size)
        layers = [(self.thing, self.thing_texture, self.shape)]
        if self.front is not None:
            layers.append((self.front, self.front_texture, self.screen))
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for number, (pose, picture, shape) in enumerate(layers):
            covers = cv2.warpPerspective(shape, pose(t), size) > 127
            image[covers] = cv2.warpPerspective(picture, pose(t), size)[covers]
            mask = covers if number == 0 else mask & ~covers
        return np.clip(image + self.noise[round(t * RATE_HZ) % 5], 0, 255).astype(np.uint8), mask

    def play(self, seconds: float, begin: float = 0.0) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        for number in range(round(seconds * RATE_HZ)):
            t = begin + number / RATE_HZ
            yield (t, *self.at(t))


def crop_of(mask: np.ndarray, label: int = 1) -> MaskCrop:
    return crop_mask(mask, label, 0.9)


def whole(tracked: Tracked) -> np.ndarray:
    image, crop = np.zeros((HEIGHT, WIDTH), bool), tracked.crop
    image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    return image


def iou(tracked: Tracked, mask: np.ndarray) -> float:
    image = whole(tracked)
    return np.count_nonzero(image & mask) / max(np.count_nonzero(image | mask), 1)


def follow(world: World, seconds: float) -> list[tuple[float, Tracked, np.ndarray]]:
    """Time, what the tracker says and the true mask of every frame after the first."""
    tracker: Tracker = FlowTracker()
    said = []
    for t, rgb, mask in world.play(seconds):
        if t == 0:
            tracker.start(rgb, [crop_of(mask)], t)
        else:
            (tracked,) = tracker.update(rgb, t)
            said.append((t, tracked, mask))
    return said


def swaying(t: float) -> np.ndarray:
    return similar(60 * math.sin(t), 30 * math.sin(1.7 * t), 10 * math.sin(t), 1 + 0.06 * t)


def passing(t: float) -> np.ndarray:
    return similar(1000 * (t - 1.0), 0)


@pytest.mark.parametrize(
    "world",
    [
        World(),
        World(ground=swaying, thing=swaying),
        World(thing=lambda t: similar(80 * math.sin(1.5 * t), 40 * math.sin(t), 20 * math.sin(t), 1 - 0.04 * t)),
        World(ground=swaying, thing=lambda t: swaying(t) @ similar(50 * math.sin(2 * t), 0, 12 * t)),
    ],
    ids=["nothing moves", "camera moves", "thing moves", "both move"],
)
def test_masks_follow_the_motion_of_the_scene(world: World) -> None:
    said = follow(world, 3.0)
    assert np.mean([iou(tracked, mask) for _, tracked, mask in said]) >= 0.9
    assert {tracked.state for _, tracked, _ in said} == {State.TRACKING}
    assert {tracked.id for _, tracked, _ in said} == {1}


def test_an_occluder_is_cut_out_and_the_target_is_tracked_again() -> None:
    said = follow(World(front=passing), 2.5)
    seen = [(tracked, mask) for _, tracked, mask in said if mask.sum() > 700]
    assert np.mean([iou(tracked, mask) for tracked, mask in seen]) >= 0.9
    hidden = [tracked for _, tracked, mask in said if not mask.any()]
    assert hidden
    assert not [tracked for tracked in hidden[1:] if tracked.state is State.TRACKING]
    assert said[-1][1].state is State.TRACKING
    assert said[-1][1].id == 1


def test_a_target_that_is_hidden_while_the_camera_moves_is_tracked_again() -> None:
    def pan(t: float) -> np.ndarray:
        return similar(50 * t, 10 * t)

    said = follow(World(ground=pan, thing=pan, front=passing), 2.5)
    assert said[-1][1].state is State.TRACKING
    assert iou(said[-1][1], said[-1][2]) >= 0.9


def lost_after(said: list[tuple[float, Tracked, np.ndarray]]) -> float:
    """Seconds from the first frame without the thing to the first that says so."""
    gone = next(t for t, _, mask in said if not mask.any())
    return next(t for t, tracked, _ in said if t >= gone and tracked.state is State.LOST) - gone


@pytest.mark.parametrize(
    "world",
    [
        World(thing=lambda t: similar(500 * max(t - 0.5, 0), 0)),
        World(front=lambda t: similar(max(600 - 600 * t, 0), 0)),
        World(thing=lambda t: similar(5000 * (t > 0.5), 0)),
        World(ground=lambda t: similar(-500 * t, 0), thing=lambda t: similar(-500 * t, 0)),
    ],
    ids=["it leaves", "it is covered", "it vanishes", "the camera turns away"],
)
def test_a_hidden_target_is_lost_within_half_a_second_and_stays_lost(world: World) -> None:
    said = follow(world, 2.5)
    assert lost_after(said) <= 0.5
    last = said[-1][1]
    assert last.state is State.LOST
    assert last.crop.area == 0  # never an old mask
    assert last.confidence < 0.25


def test_a_brighter_frame_shows_the_same_target() -> None:
    world, tracker = World(), FlowTracker()
    rgb, mask = world.at(0.0)
    tracker.start(rgb, [crop_of(mask)], 0.0)
    (tracked,) = tracker.update(np.clip(rgb.astype(int) + 25, 0, 255).astype(np.uint8), 0.03)
    assert tracked.state is State.TRACKING
    assert iou(tracked, mask) > 0.95


def test_several_targets_keep_their_ids() -> None:
    tracker = FlowTracker()
    for t, rgb, mask in World(thing=lambda t: similar(40 * t, 0)).play(0.5):
        left, right = mask.copy(), mask.copy()
        left[:, 160 + round(20 * t) :] = False
        right[:, : 160 + round(20 * t)] = False
        if t == 0:
            tracker.start(rgb, [crop_of(right, 7), crop_of(left, 3)], t)
        else:
            first, second = tracker.update(rgb, t)
            assert (first.id, second.id) == (3, 7)
            assert iou(first, left) > 0.8
            assert iou(second, right) > 0.8


def test_empty_masks_are_not_tracked() -> None:
    tracker, (rgb, mask) = FlowTracker(), World().at(0.0)
    assert tracker.update(rgb, 0.0) == []
    tracker.start(rgb, [crop_of(np.zeros_like(mask))], 0.0)
    assert tracker.update(rgb, 0.1) == []
    tracker.start(rgb, [crop_of(mask)], 0.2)
    tracker.clear()
    assert tracker.update(rgb, 0.3) == []
    assert not tracker.wants_detection


def test_a_tiny_mask_and_one_at_the_border_do_no_harm() -> None:
    rgb, mask = World().at(0.0)
    dot, border, everything = np.zeros_like(mask), np.zeros_like(mask), np.ones_like(mask)
    dot[100, 100] = True
    border[200:, 300:] = True
    tracker = FlowTracker()
    tracker.start(rgb, [crop_of(dot, 1), crop_of(border, 2), crop_of(everything, 3)], 0.0)
    said = tracker.update(rgb, 0.03)
    assert [tracked.id for tracked in said] == [1, 2, 3]
    assert iou(said[1], border) > 0.9
    assert iou(said[2], everything) > 0.9


def test_a_lost_target_wants_detection_and_keeps_its_id() -> None:
    world, tracker = World(front=lambda t: similar(0 if 0.2 < t < 1.0 else 2000, 0)), FlowTracker()
    wanted = []
    for t, rgb, mask in world.play(0.9):
        if t == 0:
            tracker.start(rgb, [crop_of(mask, 4)], t)
        else:
            tracker.update(rgb, t)
            wanted.append((t, tracker.wants_detection))
    assert not [t for t, wants in wanted if wants and t < 0.35]
    assert wanted[-1][1]
    rgb, mask = World(thing=lambda t: similar(150, 100)).at(0.0)
    tracker.redetect(rgb, [crop_of(mask, 1)], 1.0)
    assert not tracker.wants_detection
    (tracked,) = tracker.update(rgb, 1.03)
    assert tracked.id == 4
    assert tracked.state is State.TRACKING


def test_new_masks_keep_the_ids_of_what_they_overlap_and_others_get_new_ones() -> None:
    rgb, mask = World().at(0.0)
    other = np.zeros_like(mask)
    other[10:45, 10:60] = True
    tracker = FlowTracker()
    tracker.start(rgb, [crop_of(mask, 5)], 0.0)
    tracker.redetect(rgb, [crop_of(other, 1), crop_of(np.roll(mask, 5, axis=1), 2)], 0.1)
    said = tracker.update(rgb, 0.13)
    assert [tracked.id for tracked in said] == [5, 6]
    assert iou(said[0], mask) > 0.8
    assert iou(said[1], other) > 0.9


def test_no_two_masks_get_one_id() -> None:
    _, mask = World().at(0.0)
    old = [Tracked(crop_of(mask, 2), 1.0, State.TRACKING)]
    assert match(old, [crop_of(mask), crop_of(mask)]).count(2) == 1


def test_a_clock_that_jumps_back_loses_no_target() -> None:
    tracker, (rgb, mask) = FlowTracker(), World().at(0.0)
    tracker.start(rgb, [crop_of(mask)], 100.0)
    for t in (100.03, 3.0, 3.03):
        (tracked,) = tracker.update(rgb, t)
        assert tracked.state is State.TRACKING
    assert not tracker.wants_detection


def test_a_frame_takes_a_third_of_its_time() -> None:
    world, tracker, spent = World(ground=swaying, thing=swaying), FlowTracker(), 0.0
    for t, rgb, mask in world.play(1.0):
        if t == 0:
            tracker.start(rgb, [crop_of(mask)], t)
            continue
        begun = time.process_time()
        tracker.update(rgb, t)
        spent += time.process_time() - begun
    assert spent / (RATE_HZ - 1) < 1 / RATE_HZ  # 7 ms here; a machine five times slower shall not fail
