"""The picture and the instance ids of a scene on disk, for all who read scenes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.errors import ConfigError


def read_pair(folder: Path, record: dict) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """rgb (H, W, 3) and ids (H, W) uint8 of a line of scenes.jsonl. Raises ConfigError where a file is broken."""
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
