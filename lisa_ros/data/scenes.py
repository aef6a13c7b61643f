"""Reader of the format of `lisa scenes`: FOLDER/scenes.jsonl, and a picture and instance ids for each of its lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.errors import ConfigError

log = logging.getLogger(__name__)


def read_records(folder: Path) -> list[SceneRecord]:
    """Reads the lines of scenes.jsonl. A broken line is named and left out.

    Returns:
        Records that have their id, the paths of picture and ids, and objects with id and class. Other keys are not
        checked: a file that `lisa scenes` did not write may lack them.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(folder) / "scenes.jsonl"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; `lisa scenes --out {folder}` makes it")
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(_checked(json.loads(line)))
        except (BadExample, ValueError) as error:
            log.warning("skipped: %s, line %d: %s", path, number, error)
    return records


def read_pair(folder: Path, record: SceneRecord) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads the picture, (H, W, 3) RGB uint8, and the id of the object at each pixel, (H, W) uint8.

    Raises:
        BadExample: A file is missing or broken; the message names it.
    """
    rgb = read_picture(folder / record["image"])
    ids = cv2.imread(str(folder / record["ids"]), cv2.IMREAD_UNCHANGED)
    if ids is None or rgb.shape[:2] != ids.shape or ids.dtype != np.uint8:
        raise BadExample(
            f"{folder}: {record['ids']} is missing, broken or of another size than {record['image']}, or not one byte "
            "a pixel"
        )
    return rgb, np.asarray(ids)


def _checked(value: Any) -> SceneRecord:
    if not isinstance(value, dict):
        raise BadExample("it is not a JSON object")
    if lacks := [name for name in ("id", "image", "ids") if not isinstance(value.get(name), str)]:
        raise BadExample(f"'{lacks[0]}' is {value.get(lacks[0])!r}; it must be text")
    objects = value.get("objects")
    if not isinstance(objects, list) or not all(_is_object(one) for one in objects):
        raise BadExample("'objects' must be a list of objects, each with an 'id' from 1 to 255 and a 'class'")
    return value  # type: ignore[return-value]


def _is_object(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        return False
    return type(value.get("id")) is int and 1 <= value["id"] <= 255
