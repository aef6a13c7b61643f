"""Reader of rendered scenes: DIR/scenes.jsonl with pictures and instance ids beside it, kept in memory as uint8."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from lisa_ros.data.picture import BadExample
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.lisa.preprocess import resize_longest
from lisa_small.scenes.colours import COLOURS
from lisa_small.training.augment import Image, Sample

log = logging.getLogger(__name__)


@dataclass
class Scene:
    """One scene: its record (a line of scenes.jsonl), picture (H, W, 3) RGB uint8 and ids (H, W) uint8."""

    record: SceneRecord
    rgb: Image
    ids: Image

    def sample(self, class_index: dict[str, int]) -> Sample:
        """The picture with a class index and a colour (0: no one colour, or 1 + its index in COLOURS) for every id."""
        objects = self.record["objects"]
        colours = {o["id"]: COLOURS.index(o["color"]) + 1 if o.get("color") in COLOURS else 0 for o in objects}
        return Sample(self.rgb, self.ids, {o["id"]: class_index[o["class"]] for o in objects}, colours)


def read_scene(folder: Path, record: SceneRecord, longest_side: int | None = None) -> Scene:
    """Decode one scene; ``longest_side`` shrinks it while reading, as the segmenter does.

    Raises:
        BadExample: A file is broken.
    """
    rgb, ids = read_pair(folder, record)
    if longest_side and max(ids.shape) > longest_side:
        rgb = resize_longest(rgb, longest_side)
        ids = np.asarray(cv2.resize(ids, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    return Scene(record, rgb, ids)


def read_scenes(folder: Path | str, longest_side: int | None = None, limit: int | None = None) -> list[Scene]:
    """All scenes of a folder in memory (0.8 MB each at 512 px). A broken scene is named and skipped."""
    folder = Path(folder)

    def read(record: SceneRecord) -> Scene | None:
        try:
            return read_scene(folder, record, longest_side)
        except BadExample as error:
            log.warning("scene %s is skipped: %s", record["id"], error)
            return None

    records = read_records(folder)[:limit]
    with ThreadPoolExecutor(2) as pool:
        read_in_order = tqdm(pool.map(read, records), "reading", len(records), unit="scene", disable=None)
        return [scene for scene in read_in_order if scene is not None]
