"""Tracking of masks at camera rate, between two answers of the model.

An answer is about a frame that is already seconds old. Pass that frame to ``start`` and each newer frame to ``update``,
which returns the masks in that frame.

:class:`FlowTracker` uses dense optical flow on a small picture of each target. Each frame is compared with a stored
picture of the target (the keyframe), not with the previous frame. So errors do not accumulate, and a target is
recognised after an occlusion. A mask pixel counts as visible if forward and backward flow agree and its colour is that
of the keyframe. The confidence of a target is the share of visible pixels, among those inside the image. With almost no
visible pixels, the target is LOST after ``LOST_AFTER_S``.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop, crop_mask

SURE, HARDLY = 0.6, 0.25  # confidence: TRACKING from SURE on; below HARDLY the target is not visible
LOST_AFTER_S = 0.35  # time without a visible pixel until LOST
SEARCHED_S = 5.0  # time after the last visible pixel for which a target is searched
DETECT_AFTER_S = 0.2  # time without TRACKING until a re-detection is wanted
SAME_FROM = 0.2  # IoU from which a new mask belongs to a target
PICTURE_PX = 128  # longest side of a keyframe
MARGIN = 0.25  # margin of a keyframe, as a share of the target's size: how far it may move between two frames
FLOW_PX = 1.5  # largest disagreement of forward and backward flow, in pixels of the keyframe
COLOUR = 30.0  # largest difference in grey levels of a visible pixel and the keyframe, after brightness is evened out
RENEW_FROM, RENEWED_S = 0.85, 0.2  # least confidence and age for a new keyframe: nothing may be in front of the target
CHANGED = 0.02  # least change of size, angle or shape for a new keyframe, since each one adds an error
SNAP_PX = 3  # distance by which the border of a new keyframe's mask may move to an edge in the picture
GLANCE_PX = 160  # width of the image in which the motion of the whole scene is measured
FAR = (1e3, 1e3, 0.0, 0.0)  # flow that leads out of the picture never agrees
GLIDING = 2  # index of the guess that continues the target's motion
NOWHERE = crop_mask(np.zeros((1, 1), bool), 0, 0.0)


class State(enum.IntEnum):
    """State of a target. UNCERTAIN: it is partly hidden, or hidden for a moment; the mask is the visible part."""

    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3


@dataclass(frozen=True, eq=False)
class Tracked:
    """One target in one frame.

    Args:
        crop: Visible pixels in this frame; empty if none is visible. Its label is the target's id, which never changes.
        confidence: Share of the mask that is visible, in [0, 1].
        state: TRACKING, UNCERTAIN or LOST.
    """

    crop: MaskCrop
    confidence: float
    state: State

    @property
    def id(self) -> int:
        return self.crop.label


class Tracker(Protocol):
    """Interface of trackers. Frames are (H, W, 3) uint8, RGB, all of one size. Times are seconds of any one clock."""

    def start(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """Drop all targets and track new ones.

        Args:
            rgb: The frame of the answer.
            crops: Masks of ``rgb``; their labels become the ids.
            time_s: Time of the frame, seconds.
        """

    def redetect(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        """Correct the targets by new masks of the model.

        Args:
            rgb: The frame of the new masks.
            crops: Masks of ``rgb``. One that overlaps a target gets its id, the others get new ids.
            time_s: Time of the frame, seconds.
        """

    def update(self, rgb: NDArray[np.uint8], time_s: float) -> list[Tracked]:
        """Track all targets into the next frame.

        Args:
            rgb: The frame.
            time_s: Time of the frame, seconds.

        Returns:
            Every target, ordered by id.
        """

    def clear(self) -> None:
        """Drop all targets."""

    @property
    def wants_detection(self) -> bool:
        """Whether the model should detect the objects again, since a target is uncertain or lost."""


@runtime_checkable
class Closing(Protocol):
    """A tracker that holds something which the interpreter does not free, such as a process."""

    def close(self) -> None:
        """Free it. May be called on any thread, also while another call runs."""


class Presence:
    """Whether one target is visible, over time: its state from the confidence of each frame.

    Args:
        time_s: Time of the first frame, in which it is visible, seconds.
    """

    def __init__(self, time_s: float) -> None:
        self.state = State.TRACKING
        self._now_s = self._found_s = self._sure_s = time_s

    @property
    def unseen_s(self) -> float:
        """Seconds since it was visible."""
        return self._now_s - self._found_s

    @property
    def in_doubt_s(self) -> float:
        """Seconds since it was TRACKING."""
        return self._now_s - self._sure_s

    def pass_time(self, time_s: float) -> None:
        """The time is ``time_s`` now. One that runs back, as a recording that starts again, passes no time."""
        back_s = self._now_s - time_s
        if back_s > 0:
            self._found_s, self._sure_s = self._found_s - back_s, self._sure_s - back_s
        self._now_s = time_s

    def see(self, confidence: float) -> bool:
        """Set the state by a confidence in [0, 1]. Returns whether the target is visible."""
        found = confidence >= (SURE if self.state is State.LOST else HARDLY)
        if found:
            self._found_s = self._now_s
        if confidence >= SURE:
            self._sure_s = self._now_s
            self.state = State.TRACKING
        elif found:
            self.state = State.UNCERTAIN
        elif self.state is not State.LOST:
            self.state = State.LOST if self.unseen_s >= LOST_AFTER_S else State.UNCERTAIN
        return found


class FlowTracker:
    """A tracker by dense optical flow (OpenCV's DIS). It needs no model, one core and a few milliseconds a target."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._targets: list[_Target] = []
        self._glance: NDArray[np.uint8] | None = None
        self._next_id = 1

    def start(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        self.clear()
        self._follow(rgb, crops, time_s)

    def redetect(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        named, kept = renew([target.tracked for target in self._targets], crops, self._next_id)
        self._targets = [target for target in self._targets if target.id in kept]
        self._follow(rgb, named, time_s)

    def _follow(self, rgb: NDArray[np.uint8], crops: Sequence[MaskCrop], time_s: float) -> None:
        self._targets += [_Target(rgb, crop, time_s) for crop in crops if crop.area]
        self._targets.sort(key=lambda target: target.id)
        self._next_id = max([self._next_id, *(target.id + 1 for target in self._targets)])
        self._glance = glance(rgb)

    def update(self, rgb: NDArray[np.uint8], time_s: float) -> list[Tracked]:
        if self._glance is None:
            return []
        before, self._glance = self._glance, glance(rgb)
        # What is out of sight is carried along with the scene.
        hidden = any(not target.found for target in self._targets)
        scene = scene_motion(before, self._glance, rgb.shape[1], self._flow) if hidden else np.eye(3)
        return [target.follow(rgb, time_s, scene, self._flow) for target in self._targets]

    def clear(self) -> None:
        self._targets, self._glance, self._next_id = [], None, 1

    @property
    def wants_detection(self) -> bool:
        return any(target.presence.in_doubt_s > DETECT_AFTER_S for target in self._targets)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A stored small picture of a target, with its mask.

    Args:
        crop: The mask in the image.
        rgb: (h, w, 3) uint8, slightly blurred.
        grey: (h, w) uint8.
        mask: (h, w) bool, the mask in the picture.
        near: (h, w) bool, the mask and two pixels around it.
        pose: (3, 3) affine map from the picture's pixels to the image's.
        time_s: Time of its frame, seconds.
    """

    crop: MaskCrop
    rgb: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    near: NDArray[np.bool_]
    pose: NDArray[np.float64]
    time_s: float

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], crop: MaskCrop, time_s: float) -> Keyframe:
        """The picture around ``crop``, a mask of the image (H, W, 3)."""
        margin = MARGIN * max(crop.width, crop.height) + 8  # DIS wants 12 pixels
        width, height = crop.width + 2 * margin, crop.height + 2 * margin
        scale = max(1.0, max(width, height) / PICTURE_PX)
        pose = scaled(scale) @ shifted((crop.x - margin) / scale, (crop.y - margin) / scale)
        size = (round(width / scale), round(height / scale))
        picture = look(rgb, pose, size)
        full = shifted(-crop.x, -crop.y) @ pose
        mask = cv2.warpAffine(crop.pixels, full[:2], size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 127
        near = cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)) > 0
        return cls(
            crop, picture, np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8), mask, near, pose, time_s
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.mask.shape[1], self.mask.shape[0]

    def placed(self, pose: NDArray[np.float64], image: tuple[int, int], hidden: NDArray[np.bool_]) -> MaskCrop:
        """The mask in an image (height, width) where the picture lies at ``pose``, less what is ``hidden`` (h, w)."""
        full = pose @ np.linalg.inv(self.pose) @ shifted(self.crop.x, self.crop.y)
        mask = cv2.warpAffine(self.crop.pixels, full[:2], image[::-1], flags=cv2.INTER_LINEAR) > 127
        # Only what is hidden as a patch: single pixels miss by noise.
        patches = cv2.morphologyEx(hidden.view(np.uint8) * np.uint8(255), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        if patches.any():
            mask &= cv2.warpAffine(patches, pose[:2], image[::-1], flags=cv2.INTER_LINEAR) < 128
        return crop_mask(mask, self.crop.label, self.crop.score)

    def snapped(self) -> NDArray[np.bool_]:
        """The picture's mask (h, w), its border moved by some pixels to where inside and outside meet by colour."""
        mask = self.mask.view(np.uint8)
        ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SNAP_PX + 1, 2 * SNAP_PX + 1))
        inner, outer = cv2.erode(mask, ball) > 0, cv2.dilate(mask, ball) > 0
        if not inner.any() or outer.all():
            return self.mask
        labels = np.where(self.mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[inner], labels[~outer] = cv2.GC_FGD, cv2.GC_BGD
        cv2.grabCut(self.rgb, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)

    def renewed(self, rgb: NDArray[np.uint8], pose: NDArray[np.float64], time_s: float) -> Keyframe | None:
        """A keyframe of the target as it looks now, at ``pose``; None where nothing of it is in the image."""
        image = rgb.shape[:2]
        crop = self.placed(pose, image, np.zeros_like(self.mask))
        if not crop.area:
            return None
        now = Keyframe.of(rgb, crop, time_s)
        mask = cv2.medianBlur(now.snapped().view(np.uint8) * np.uint8(255), 3)
        snapped = cv2.warpAffine(mask, now.pose[:2], image[::-1], flags=cv2.INTER_LINEAR) > 127
        if not 0.8 < np.count_nonzero(snapped) / crop.area < 1.25:  # the colours do not tell them apart
            return now
        return Keyframe.of(rgb, crop_mask(snapped, crop.label, crop.score), time_s)


class _Target:
    """One thing that is followed: its keyframe, and where in the image that lies now."""

    def __init__(self, rgb: NDArray[np.uint8], crop: MaskCrop, time_s: float) -> None:
        self.id = crop.label
        self.tracked = Tracked(crop, 1.0, State.TRACKING)
        self.presence = Presence(time_s)
        self.found = True
        self._key = Keyframe.of(rgb, crop, time_s)
        self._pose = self._key.pose
        self._guesses = [self._pose] * 3
        self._guess = GLIDING
        self._step = np.zeros(2)  # of its centre from frame to frame, pixels

    def follow(
        self, rgb: NDArray[np.uint8], time_s: float, scene: NDArray[np.float64], flow: cv2.DISOpticalFlow
    ) -> Tracked:
        """Find it in the next frame. scene: (3, 3) affine, how everything moved since the last one."""
        self.presence.pass_time(time_s)
        confidence, hidden = 0.0, np.ones_like(self._key.mask)
        if self.presence.unseen_s <= SEARCHED_S:
            pose, hidden, confidence = compare(self._key, rgb, self._expected(scene), flow)
        self.found = self.presence.see(confidence)
        if self.found:
            self._settle(pose)
        # The outline is that of the keyframe; what hides a part of it is cut out.
        crop = self._key.placed(self._pose, rgb.shape[:2], hidden) if self.found else replace(NOWHERE, label=self.id)
        self.tracked = Tracked(replace(crop, score=confidence), confidence, self.presence.state)
        if confidence >= RENEW_FROM and self._looks_different(time_s):
            self._renew(rgb, time_s)
        return self.tracked

    def _expected(self, scene: NDArray[np.float64]) -> NDArray[np.float64]:
        """Out of sight it may stand still, go with the scene or glide on as it went: one guess a frame, in turn."""
        still, carried, gliding = self._guesses
        self._guesses = [still, scene @ carried, shifted(*self._step) @ gliding]
        self._guess = GLIDING if self.found else (self._guess + 1) % len(self._guesses)
        return self._guesses[self._guess]

    def _settle(self, pose: NDArray[np.float64]) -> None:
        centre = np.array([*np.divide(self._key.size, 2), 1.0])
        gone_on = self._guess == GLIDING
        self._step = ((pose - self._pose) @ centre)[:2] if gone_on else np.zeros(2)
        self._pose, self._guesses = pose, [pose] * 3

    def _looks_different(self, time_s: float) -> bool:
        """Whether the view of it has changed so much since the keyframe that a new one is worth its error."""
        change = np.linalg.solve(self._key.pose[:2, :2], self._pose[:2, :2]) - np.eye(2)
        return time_s - self._key.time_s >= RENEWED_S and bool(np.abs(change).max() > CHANGED)

    def _renew(self, rgb: NDArray[np.uint8], time_s: float) -> None:
        key = self._key.renewed(rgb, self._pose, time_s)
        if key is not None:
            self._key, self._pose, self._guesses = key, key.pose, [key.pose] * 3


def compare(
    key: Keyframe, rgb: NDArray[np.uint8], pose: NDArray[np.float64], flow: cv2.DISOpticalFlow
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Search the keyframe in the image near an expected pose.

    Args:
        key: The keyframe.
        rgb: (H, W, 3) uint8, the image.
        pose: (3, 3) affine, the expected pose.
        flow: The optical flow.

    Returns:
        The pose in the image, (3, 3) affine; the hidden pixels of the mask, (h, w) bool; the confidence: the share of
        visible pixels among those inside the image, 0 if less than a tenth of the mask is inside.
    """
    for far in (True, False):
        pose = pose @ residual(key, look(rgb, pose, key.size), flow, far)
    picture = look(rgb, pose, key.size)
    in_view = key.mask & inside(pose, key.size, rgb.shape[:2])
    if 10 * np.count_nonzero(in_view) < np.count_nonzero(key.mask):
        return pose, key.mask, 0.0
    seen = in_view & alike(key, picture)
    return pose, key.mask & ~seen, np.count_nonzero(seen) / np.count_nonzero(in_view)


def residual(key: Keyframe, picture: NDArray[np.uint8], flow: cv2.DISOpticalFlow, far: bool) -> NDArray[np.float64]:
    """Remaining motion of the target between keyframe and picture, by flow that agrees in both directions.

    Args:
        key: The keyframe.
        picture: (h, w, 3) uint8, the image at the expected pose.
        flow: The optical flow.
        far: Whether the expected pose may be far off.

    Returns:
        (3, 3) affine.
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    # Once the target is nearly in place, both get the same background: one that goes another way would pull its border.
    same = key.grey if far else np.where(key.near, key.grey, grey).astype(np.uint8)
    there, back = flow_from(same, grey, flow), flow_from(grey, same, flow)
    x, y = np.meshgrid(np.arange(key.size[0], dtype=np.float32), np.arange(key.size[1], dtype=np.float32))
    to_x, to_y = x + there[..., 0], y + there[..., 1]
    missed = there + cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=FAR)
    steady = key.mask & (np.square(missed).sum(axis=2) < FLOW_PX**2)
    return affine(np.stack([x[steady], y[steady]], axis=1), np.stack([to_x[steady], to_y[steady]], axis=1))


def flow_from(before: NDArray[np.uint8], now: NDArray[np.uint8], flow: cv2.DISOpticalFlow) -> NDArray[np.float32]:
    """(h, w, 2) x and y to where each pixel (h, w) went."""
    return flow.calc(before, now, None)  # type: ignore[call-overload, no-any-return]


def alike(key: Keyframe, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) bool: where picture and keyframe have the same colour, up to the brightness of the whole."""
    difference = picture.astype(np.int16) - key.rgb
    difference -= np.median(difference[key.mask], axis=0).clip(-COLOUR, COLOUR).astype(np.int16)
    return np.asarray(cv2.blur(np.abs(difference).max(axis=2).astype(np.float32), (5, 5))) < COLOUR


def inside(pose: NDArray[np.float64], size: tuple[int, int], image: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w) bool: which pixels of a picture of ``size`` (width, height) the image (height, width) has."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    in_x, in_y = (row[0] * x + row[1] * y + row[2] for row in pose[:2])
    return (in_x > -0.5) & (in_x < image[1] - 0.5) & (in_y > -0.5) & (in_y < image[0] - 0.5)


def affine(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64]:
    """(3, 3) affine from points (N, 2) to points (N, 2), robust; a turn and a scale where there are few points."""
    result = np.eye(3)
    if len(source) < 12:
        return result
    every = max(1, len(source) // 400)
    source, target = source[::every].copy(), target[::every].copy()  # OpenCV wants them without gaps
    fit = cv2.estimateAffine2D if len(source) >= 100 else cv2.estimateAffinePartial2D
    matrix, _ = fit(source, target, method=cv2.RANSAC, ransacReprojThreshold=1.0, maxIters=200)
    if matrix is not None and 0.5 < np.linalg.det(matrix[:, :2]) < 2:
        result[:2] = matrix
    return result


def look(rgb: NDArray[np.uint8], pose: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part of the image that a picture of ``size`` (width, height) at ``pose`` shows, slightly blurred."""
    part = cv2.warpAffine(
        rgb, pose[:2], size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cv2.GaussianBlur(part, (3, 3), 0), np.uint8)


def glance(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole image, small and grey."""
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (GLANCE_PX, round(GLANCE_PX * height / width)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def scene_motion(
    before: NDArray[np.uint8], now: NDArray[np.uint8], width: int, flow: cv2.DISOpticalFlow
) -> NDArray[np.float64]:
    """(3, 3) affine in pixels of the image that is ``width`` wide: how most of the scene moved."""
    field = flow_from(before, now, flow)[4::8, 4::8].reshape(-1, 2)
    y, x = np.mgrid[4 : before.shape[0] : 8, 4 : before.shape[1] : 8].astype(np.float32)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    scale = np.float32(width / GLANCE_PX)
    return affine(points * scale, (points + field) * scale)


def shifted(x: float, y: float) -> NDArray[np.float64]:
    """(3, 3) affine: a shift by (x, y)."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scaled(factor: float) -> NDArray[np.float64]:
    """(3, 3) affine: ``factor`` times as large."""
    return np.diag([factor, factor, 1.0])


def renew(old: Sequence[Tracked], new: Sequence[MaskCrop], next_id: int) -> tuple[list[MaskCrop], set[int]]:
    """Name new masks by the targets that they show.

    Args:
        old: The targets.
        new: New masks.
        next_id: First id of new objects.

    Returns:
        The new masks with their ids as labels; the ids of targets that go on without a new mask. What is lost goes on,
        unless there is something new in its place.
    """
    ids = match(old, new)
    fresh = iter(range(next_id, next_id + len(new)))
    named = [replace(crop, label=number or next(fresh)) for crop, number in zip(new, ids, strict=True)]
    kept = {one.id for one in old if one.id not in ids and not (None in ids and one.state is State.LOST)}
    return named, kept


def match(old: Sequence[Tracked], new: Sequence[MaskCrop]) -> list[int | None]:
    """Assign new masks to targets by overlap. A single lost target and a single unassigned mask are assigned too.

    Args:
        old: The targets.
        new: New masks.

    Returns:
        The id of the target for each new mask; None for a new object. Each id occurs once.
    """
    pairs = [(overlap(before.crop, now), before.id, j) for before in old for j, now in enumerate(new)]
    ids: list[int | None] = [None] * len(new)
    for share, number, j in sorted(pairs, reverse=True):
        if share > SAME_FROM and ids[j] is None and number not in ids:
            ids[j] = number
    lost = [before.id for before in old if before.state is State.LOST and before.id not in ids]
    if len(lost) == 1 and ids.count(None) == 1:
        ids[ids.index(None)] = lost[0]
    return ids


def overlap(a: MaskCrop, b: MaskCrop) -> float:
    """Intersection over union of two masks of one image."""
    left, top = max(a.x, b.x), max(a.y, b.y)
    right, bottom = min(a.x + a.width, b.x + b.width), min(a.y + a.height, b.y + b.height)
    if right <= left or bottom <= top:
        return 0.0
    parts = [crop.pixels[top - crop.y : bottom - crop.y, left - crop.x : right - crop.x] > 0 for crop in (a, b)]
    common = int(np.count_nonzero(parts[0] & parts[1]))
    return common / (a.area + b.area - common)
