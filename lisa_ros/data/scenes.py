"""Reader of the files of a rendered scene: its picture and its instance ids."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.errors import ConfigError


def read_pair(folder: Path, record: SceneRecord) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads the picture and the ids of a scene.

    Args:
        folder: The folder of ``scenes.jsonl``.
        record: A line of it.

    Returns:
        The picture, (H, W, 3) uint8 RGB, and the id of the object at every pixel, (H, W) uint8, 0 for the background.

    Raises:
        ConfigError: A file is missing or broken, or their sizes or types are wrong.
    """
    try:
        with Image.open(folder / record["image"]) as image:
            image.load()  # OpenCV makes something of a picture that is cut off
    except OSError as error:
        raise ConfigError(f"{folder / record['image']} is not a whole picture: {error}") from error
    bgr = cv2.imread(str(folder / record["image"]), cv2.IMREAD_COLOR)
    ids = cv2.imread(str(folder / record["ids"]), cv2.IMREAD_UNCHANGED)
    if bgr is None or ids is None or bgr.shape[:2] != ids.shape or ids.dtype != np.uint8:
        raise ConfigError(
            f"{folder}: {record['image']} and {record['ids']} are missing, broken or of different sizes, or the "
            "ids are not one byte a pixel"
        )
    return np.ascontiguousarray(bgr[..., ::-1]), np.asarray(ids)
