"""Scenes in ReasonSeg's own format: ``NAME.jpg`` and ``NAME.json`` with polygons, ``text`` and ``is_sentence``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.data.scene_records import SceneRecord
from lisa_small.scenes.render import Frame

PHRASE_BEGINS = ("the", "a", "both", "all", "every", "each", "something", "everything", "whatever", "anything", "what")


def is_sentence(text: str) -> bool:
    """Whether a command is a sentence ("I am thirsty.") and not a phrase ("the cup left of the book")."""
    return text[-1] in ".?!" or text.split()[0].lower() not in PHRASE_BEGINS


def polygons(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Outlines of ``mask`` (H, W) that, drawn filled with their edge, give the mask again.

    The format knows no holes: a part with a hole is cut in two through the middle of the hole.
    """
    contours, levels = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    result = []
    for number, contour in enumerate(contours):
        if levels[0][number][3] >= 0:
            continue  # the outline of a hole
        part = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(part, [contour], -1, 1, cv2.FILLED)
        holes = part.astype(bool) & ~mask
        if not holes.any():
            corners = contour[:, 0].tolist()
            # Readers leave out what has fewer than three corners; a part one pixel wide has one or two.
            result.append(corners + corners[-1:] * (3 - len(corners)))
            continue
        part &= mask
        columns = np.flatnonzero(holes.any(axis=0))
        cut = int(columns[len(columns) // 2])
        for start, end in ((0, cut), (cut, mask.shape[1])):
            half = np.zeros(mask.shape, bool)
            half[:, start:end] = part[:, start:end]
            result += polygons(half)
    return result


def save_pairs(out: Path, scene: SceneRecord, frame: Frame, quality: int = 88) -> int:
    """Writes a picture and a json for every conversation of one turn. Returns the number of pairs."""
    pairs = [conversation for conversation in scene["conversations"] if len(conversation["turns"]) == 1]
    picture = Image.fromarray(frame.rgb)
    for number, conversation in enumerate(pairs):
        turn = conversation["turns"][0]
        name = f"{scene['id']}_{number}"
        shapes: list[dict[str, Any]] = [
            {
                "label": "target",
                "labels": ["target"],
                "shape_type": "polygon",
                "image_name": f"{name}.jpg",
                "points": points,
                "group_id": None,
                "group_ids": [None],
                "flags": {},
            }
            for points in polygons(np.isin(frame.ids, turn["targets"]))
        ]
        label = {
            "text": [turn["command"]],
            "is_sentence": is_sentence(turn["command"]),
            "shapes": shapes,
            "kind": conversation["kind"],
            "answer": turn["answer"],
            "imageHeight": scene["camera"]["height"],
            "imageWidth": scene["camera"]["width"],
        }
        picture.save(out / f"{name}.jpg", quality=quality)
        (out / f"{name}.json").write_text(json.dumps(label))
    return len(pairs)
