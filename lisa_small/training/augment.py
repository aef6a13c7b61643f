"""What a robot's camera does to a picture, and what else a table may hold: augmentation of scenes.

Geometry is applied to the picture and its instance ids alike; colour to the picture alone. Plain numpy and OpenCV: a
256-pixel picture takes about two milliseconds.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

PADDING = (124, 116, 104)
"""SAM's mean colour: beside the picture the normalised input is 0, as SAM pads."""


@dataclass
class Sample:
    """A picture (H, W, 3) uint8 RGB, its instance ids (H, W) uint8 (0: background), and each id's class and colour."""

    rgb: Image
    ids: Image
    classes: dict[int, int]
    colours: dict[int, int]


def letterbox(rgb: Image, ids: Image, size: int) -> tuple[Image, Image]:
    """Scale the longest side to ``size`` and pad right and below as SAM does."""
    height, width = ids.shape
    scale = size / max(height, width)
    new_w, new_h = int(width * scale + 0.5), int(height * scale + 0.5)
    out_rgb, out_ids = np.full((size, size, 3), PADDING, np.uint8), np.zeros((size, size), np.uint8)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out_rgb[:new_h, :new_w] = cv2.resize(rgb, (new_w, new_h), interpolation=how)
    out_ids[:new_h, :new_w] = cv2.resize(ids, (new_w, new_h), interpolation=cv2.INTER_NEAREST)
    return out_rgb, out_ids


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


def repaint_background(rgb: Image, ids: Image, rng: random.Random) -> Image:
    """Another table and wall behind the things: noise of random colours, scale and direction under the old light.

    The table keeps the shadows on it, since the old brightness goes on multiplying. rgb: (H, W, 3) uint8, as what is
    returned. ids: (H, W) uint8, 0 where the background is.
    """
    height, width = ids.shape
    chance = np.random.default_rng(rng.getrandbits(32))
    pattern = np.zeros((height, width, 1), np.float32)
    for _ in range(rng.randrange(1, 4)):
        rows, columns = (max(2, int(2 ** rng.uniform(1, 7))) for _ in range(2))  # unlike: stripes and grain
        coarse = chance.random((rows, columns), np.float32)
        if rng.random() < 0.25:
            coarse = (coarse > 0.5).astype(np.float32)
        how = rng.choice((cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_LINEAR))
        pattern[..., 0] += cv2.resize(coarse, (width, height), interpolation=how) * rng.uniform(0.2, 1.0)
    pattern /= max(float(pattern.max()), 1e-6)
    one, other = (chance.uniform(0.15, 1.0, 3).astype(np.float32) for _ in range(2))
    if rng.random() < 0.5:  # wood and cloth are of one colour, lighter and darker
        other = one * np.float32(rng.uniform(0.6, 1.4))
    background = (ids == 0) & (rgb != np.array(PADDING, np.uint8)).any(-1)
    light = rgb.mean(-1, dtype=np.float32)
    light = light / max(float(light[background].mean()) if background.any() else 1.0, 1.0)
    painted = np.clip(light[..., None] * (one + (other - one) * pattern) * rng.uniform(110, 230), 0, 255)
    return np.where(background[..., None], painted.astype(np.uint8), rgb)


def warp(sample: Sample, size: int, rng: random.Random) -> tuple[Image, Image]:
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
    return rgb, np.asarray(cv2.warpAffine(sample.ids, matrix, (size, size), flags=cv2.INTER_NEAREST))


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
