"""Masks from files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_ros.data.given_masks import read_masks
from lisa_ros.errors import ConfigError

SIZE = (12, 20)
LABELS = np.zeros(SIZE, np.uint16)
LABELS[2:5, 3:9] = 7
LABELS[6:11, 10:20] = 300


def planes(proposals) -> list[np.ndarray]:
    found = []
    for crop in proposals.crops:
        plane = np.zeros(SIZE, bool)
        plane[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
        found.append(plane)
    return found


def write(folder: Path, kind: str) -> Path:
    masks = np.array([LABELS == 7, LABELS == 300])
    if kind == "png":
        Image.fromarray(LABELS).save(folder / "a.png")
    elif kind == "npz":
        np.savez(folder / "a.npz", masks=masks, scores=[0.5, 1.0], phrases=["cup", "saw"])
    elif kind == "labels":
        np.savez(folder / "a.npz", labels=LABELS)
        return folder / "a.npz"
    else:
        boxes = [(3, 2, 6, 3), (10, 6, 10, 5)]
        annotations = [
            {"id": i, "image_id": 4, "category_id": i, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            for i, (x, y, w, h) in enumerate(boxes)
        ]
        categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "saw"}]
        content = {"images": [{"id": 4}], "annotations": annotations, "categories": categories}
        (folder / "a.json").write_text(json.dumps(content))
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["png", "npz", "labels", "json"])
def test_every_format(tmp_path, kind) -> None:
    if kind == "json":
        pytest.importorskip("pycocotools", reason="COCO's polygons need it")
    proposals = read_masks(write(tmp_path, kind), SIZE)
    first, second = planes(proposals)
    if kind == "json":  # COCO's rasteriser may differ by a row at an edge
        assert (first & (LABELS == 7)).sum() >= 15
    else:
        assert (first == (LABELS == 7)).all()
        assert (second == (LABELS == 300)).all()
    if kind in ("npz", "json"):
        assert tuple(proposals.phrases) == ("cup", "saw")
    assert all(crop.score == 1.0 for crop in proposals.crops)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing.png", "there is no file of masks"),
        (lambda folder: _bytes(folder / "a.txt"), "masks cannot be read from"),
        (lambda folder: _bytes(folder / "a.png"), "has no masks of this picture"),
        (lambda folder: _bytes(folder / "a.npz"), "has no masks of this picture"),
        (lambda folder: _save(folder, np.zeros((5, 6), np.uint8)), "the masks are 6 x 5 pixels"),
        (lambda folder: _save(folder, np.zeros((*SIZE, 3), np.uint8)), "mode RGB"),
        (lambda folder: _npz(folder, masks=np.zeros(SIZE, bool)), "it must be"),
        (lambda folder: _npz(folder, masks=np.zeros((2, *SIZE), bool), scores=[1.0]), "1 scores for 2 masks"),
        (lambda folder: _npz(folder, masks=np.zeros((1, *SIZE), bool), scores=[3.0]), "scores must be in"),
        (lambda folder: _npz(folder, other=np.zeros(3)), "masks"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_masks(make(tmp_path), SIZE)


def _bytes(file: Path) -> Path:
    file.write_bytes(b"no masks")
    return file


def _save(folder: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def _npz(folder: Path, **arrays) -> Path:
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"
