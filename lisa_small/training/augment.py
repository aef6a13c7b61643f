"""What a robot's camera does to a picture, and what else a table may hold: augmentation of scenes.

Geometry is applied to the picture and its instance ids alike; colour to the picture alone. Plain numpy and OpenCV: a
256-pixel picture takes about two milliseconds.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.lisa.preprocess import normalise_for_sam, resize_longest, resized_size

Image = NDArray[np.uint8]

PADDING = (124, 116, 104)
"""SAM's mean colour, beside the picture while it is augmented: what blends with it at the border stays near 0."""


@dataclass
class Sample:
    """A picture (H, W, 3) uint8 RGB, its instance ids (H, W) uint8 (0: background), and each id's class and colour."""

    rgb: Image
    ids: Image
    classes: dict[int, int]
    colours: dict[int, int]


@dataclass(frozen=True, eq=False)
class Square:
    """A picture on the square that the image encoder reads.

    Args:
        rgb: (S, S, 3) uint8.
        ids: (S, S) uint8, 0 where no object is.
        inside: (S, S) bool, where the picture is; the rest is padding.
    """

    rgb: Image
    ids: Image
    inside: NDArray[np.bool_]

    def pixels(self) -> NDArray[np.float32]:
        """(3, S, S) float32, normalised, 0 outside of the picture: what :func:`for_sam` makes of it."""
        pixels = np.empty((3, *self.ids.shape), np.float32)
        normalise_for_sam(self.rgb, pixels)
        pixels[:, ~self.inside] = 0.0
        return pixels


def letterbox(rgb: Image, ids: Image, size: int) -> Square:
    """Scale the longest side to ``size`` and pad right and below, with the pixels that the segmenter serves."""
    resized = resize_longest(rgb, size)
    height, width = resized.shape[:2]
    square, inside = np.full((size, size, 3), PADDING, np.uint8), np.zeros((size, size), bool)
    square[:height, :width], inside[:height, :width] = resized, True
    return Square(square, letterbox_ids(ids, size), inside)


def letterbox_ids(ids: Image, size: int) -> Image:
    """(H, W) instance ids to (size, size), as :func:`letterbox` scales and pads; 0 beside the picture."""
    height, width = resized_size((ids.shape[0], ids.shape[1]), size)
    square = np.zeros((size, size), np.uint8)
    square[:height, :width] = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    return square


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Where the middle (x, y) of what a square mask covers is, relative to its side."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5) / len(mask), float(rows.mean() + 0.5) / len(mask)


def paste_objects(sample: Sample, donor: Sample, rng: random.Random, count: int) -> Sample:
    """Copy up to ``count`` whole objects of ``donor`` to random places of ``sample``, in front of what is there."""
    rgb, ids = sample.rgb.copy(), sample.ids.copy()
    classes, colours = dict(sample.classes), dict(sample.colours)
    height, width = ids.shape
    candidates = list(donor.classes)
    rng.shuffle(candidates)
    for source in candidates[:count]:
        rows, columns = np.nonzero(donor.ids == source)
        if len(rows) < 80 or len(classes) >= 40:
            continue
        y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        if y0 == 0 or x0 == 0 or y1 == donor.ids.shape[0] or x1 == donor.ids.shape[1]:
            continue  # cut by the border: it would lie there half
        mask = (donor.ids[y0:y1, x0:x1] == source).astype(np.uint8)
        patch = donor.rgb[y0:y1, x0:x1]
        scale = rng.uniform(0.75, 1.3)
        new_w, new_h = max(4, int((x1 - x0) * scale)), max(4, int((y1 - y0) * scale))
        if new_h >= height or new_w >= width:
            continue
        patch = np.asarray(cv2.resize(patch, (new_w, new_h), interpolation=cv2.INTER_LINEAR))
        mask = cv2.resize(mask, (new_w, new_h), interpolation=cv2.INTER_NEAREST)
        if rng.random() < 0.5:
            patch, mask = patch[:, ::-1], mask[:, ::-1]
        top, left = rng.randrange(height - new_h), rng.randrange(width - new_w)
        inside = mask > 0
        new_id = max([int(ids.max()), *classes]) + 1
        rgb[top : top + new_h, left : left + new_w][inside] = patch[inside]
        ids[top : top + new_h, left : left + new_w][inside] = new_id
        classes[new_id], colours[new_id] = donor.classes[source], donor.colours[source]
    return Sample(rgb, ids, classes, colours)


def repaint_background(square: Square, rng: random.Random) -> Square:
    """Another table and wall behind the things: noise of random colours, scale and direction under the old light.

    The table keeps the shadows on it, since the old brightness goes on multiplying. Things and padding stay.
    """
    rgb = square.rgb
    height, width = square.ids.shape
    chance = np.random.default_rng(rng.getrandbits(32))
    pattern = np.zeros((height, width, 1), np.float32)
    for _ in range(rng.randrange(1, 4)):
        rows, columns = (max(2, int(2 ** rng.uniform(1, 7))) for _ in range(2))  # unlike: stripes and grain
        coarse = chance.random((rows, columns), np.float32)
        if rng.random() < 0.25:
            coarse = (coarse > 0.5).astype(np.float32)
        interpolation = rng.choice((cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_LINEAR))
        pattern[..., 0] += cv2.resize(coarse, (width, height), interpolation=interpolation) * rng.uniform(0.2, 1.0)
    pattern /= max(float(pattern.max()), 1e-6)
    one, other = (chance.uniform(0.15, 1.0, 3).astype(np.float32) for _ in range(2))
    if rng.random() < 0.5:  # wood and cloth are of one colour, lighter and darker
        other = one * np.float32(rng.uniform(0.6, 1.4))
    background = (square.ids == 0) & square.inside
    light = rgb.mean(-1, dtype=np.float32)
    light = light / max(float(light[background].mean()) if background.any() else 1.0, 1.0)
    painted = np.clip(light[..., None] * (one + (other - one) * pattern) * rng.uniform(110, 230), 0, 255)
    return replace(square, rgb=np.where(background[..., None], painted.astype(np.uint8), rgb))


def warp(sample: Sample, size: int, rng: random.Random) -> Square:
    """Random flip, quarter turn, small rotation, zoom and shift onto a (size, size) square; the rest stays empty."""
    height, width = sample.ids.shape
    fit = size / max(height, width)
    zoom = fit * math.exp(rng.uniform(math.log(0.8), math.log(1.5)))
    angle = rng.gauss(0.0, 8.0) + rng.choice((0, 0, 0, 0, 0, 90, 180, 270))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
    matrix = np.array([[cos * flip, -sin, 0.0], [sin * flip, cos, 0.0]])
    spread_x, spread_y = (float(abs(row) @ (width, height)) for row in matrix[:, :2])
    # The centre of the picture moves so that mostly picture is seen, as for a letterboxed frame or a crop of it.
    room_x, room_y = abs(size - spread_x) / 2 + 0.05 * size, abs(size - spread_y) / 2 + 0.05 * size
    centre = (size / 2 + rng.uniform(-room_x, room_x), size / 2 + rng.uniform(-room_y, room_y))
    matrix[:, 2] = np.array(centre) - matrix[:, :2] @ np.array([width / 2, height / 2])
    rgb, shrunk = sample.rgb, matrix.copy()
    while zoom < 0.5:  # warpAffine does not average: halve first, or thin things alias
        rgb = np.asarray(cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA))
        shrunk[:, :2] *= 2
        zoom *= 2
    rgb = np.asarray(cv2.warpAffine(rgb, shrunk, (size, size), flags=cv2.INTER_LINEAR, borderValue=PADDING))
    inside = cv2.warpAffine(np.ones_like(sample.ids), matrix, (size, size), flags=cv2.INTER_NEAREST)
    ids = cv2.warpAffine(sample.ids, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return Square(rgb, np.asarray(ids), np.asarray(inside) > 0)


def camera(rgb: Image, rng: random.Random) -> Image:
    """Resolution, blur, exposure, white balance, contrast, saturation, noise and JPEG, each at random. (H, W, 3) uint8
    both."""
    height, width = rgb.shape[:2]
    if rng.random() < 0.2:  # a small picture, enlarged
        small = (max(8, int(width * rng.uniform(0.4, 0.9))), max(8, int(height * rng.uniform(0.4, 0.9))))
        rgb = np.asarray(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA))
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR))
    if rng.random() < 0.2:
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), max(0.4, rng.uniform(0.001, 0.006) * width)))
    if rng.random() < 0.8:
        x = rgb.astype(np.float32)
        if rng.random() < 0.6:
            grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
            x = grey[..., None] + rng.uniform(0.5, 1.5) * (x - grey[..., None])
        gain = math.exp(rng.gauss(-0.05, 0.3))
        balance = np.array([math.exp(rng.gauss(0.0, 0.08)) for _ in range(3)], np.float32)
        contrast = rng.uniform(0.75, 1.25)
        x = (x - 128.0) * contrast + 128.0
        x = x * (gain * balance)
        if rng.random() < 0.4:
            noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(x.shape, dtype=np.float32)
            x = x + noise * np.float32(math.exp(rng.uniform(math.log(2.0), math.log(30.0))))
        rgb = np.clip(x, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = rng.randrange(8, 80)
        _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
        rgb = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return rgb
