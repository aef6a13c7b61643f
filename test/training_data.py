"""Small data on disk for tests: drawn scenes in the format of `lisa scenes`, and REFER's folders."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CLASSES = ("ball", "box")
SIZE = (40, 60)
"""Height and width of a picture of the public data sets here."""


def write_scenes(folder: Path, count: int, seed: int = 0) -> Path:
    """Balls and boxes on a plain ground, with one conversation about each scene."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "ids").mkdir()
    lines = []
    for number in range(count):
        rgb = np.full((48, 64, 3), rng.integers(90, 140), np.uint8)
        ids = np.zeros((48, 64), np.uint8)
        objects = []
        for i, name in enumerate(CLASSES[: 1 + number % 2], 1):
            x, y = int(rng.integers(10, 24) + 30 * (i - 1)), int(rng.integers(12, 36))
            colour = tuple(int(v) for v in rng.integers(0, 255, 3))
            for image, value in ((rgb, colour), (ids, i)):
                if name == "ball":
                    cv2.circle(image, (x, y), 8, value, -1)
                else:
                    cv2.rectangle(image, (x - 8, y - 8), (x + 8, y + 8), value, -1)
            objects.append({"id": i, "class": name, "color": None, "area": int((ids == i).sum()), "held_out": False})
        name = f"{number:06d}"
        cv2.imwrite(str(folder / "images" / f"{name}.png"), rgb)
        cv2.imwrite(str(folder / "ids" / f"{name}.png"), ids)
        record = {
            "id": name,
            "image": f"images/{name}.png",
            "ids": f"ids/{name}.png",
            "depth": None,
            "objects": objects,
        }
        record["camera"] = {"width": 64, "height": 48, "fx": 60.0, "fy": 60.0, "cx": 31.5, "cy": 23.5}
        record["conversations"] = conversations_for(record, random.Random(number), 3, "test")
        lines.append(json.dumps(record))
    (folder / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def conversations_for(scene: dict, rng: random.Random, count: int, split: str, weight=None) -> list[dict]:
    """By name, one of them absent at times, and a second turn. weight: of a class, which is its phrase."""
    made = []
    for _ in range(count):
        turns = []
        for _ in range(rng.choice((1, 2))):
            present = {o["class"] for o in scene["objects"]}
            weights = [weight(name, name in present) for name in CLASSES] if weight else None
            name = rng.choices(CLASSES, weights)[0] if weights else rng.choice(CLASSES)
            targets = [o["id"] for o in scene["objects"] if o["class"] == name]
            answer = f"It is the {name}, [SEG]." if targets else f"There is no {name} here."
            turns.append({"command": f"Find the {name}.", "targets": targets, "answer": answer, "explain": False})
        kind = "followup" if len(turns) > 1 else "name" if turns[0]["targets"] else "absent"
        made.append({"kind": kind, "held_out": split != "train", "turns": turns})
        if weight:
            made[-1]["phrase"] = name
    return made


def sentences(seed: int = 0):
    for name in CLASSES:
        yield from (f"Find the {name}.", f"It is the {name}, [SEG].", f"There is no {name} here.", "USER: ASSISTANT:")


def plain_conversations(scene: dict, rng: random.Random, count: int, split: str) -> list[dict]:
    """The same, from a supply that weighs nothing."""
    return conversations_for(scene, rng, count, split)


def picture(file: Path, size: tuple[int, int] = SIZE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def text(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return file


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def refer(folder: Path, name: str = "refcoco", split_by: str = "unc", segmentation: object = None) -> Path:
    where = "saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014"
    picture(folder / "images" / where / "one.jpg")
    told = [{"id": 7, "image_id": 1, "category_id": 1, "segmentation": segmentation or [box(5, 5, 20, 20)]}]
    told.append({"id": 8, "image_id": 1, "category_id": 1, "segmentation": [box(30, 5, 50, 30), box(52, 5, 58, 9)]})
    image = {"id": 1, "file_name": "one.jpg", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": told, "categories": [{"id": 1, "name": "cup"}]}
    text(folder / name / "instances.json", content)
    refs = [
        {
            "ref_id": 0,
            "ann_id": 8,
            "image_id": 1,
            "category_id": 1,
            "file_name": "x_1.jpg",
            "split": split,
            "sent_ids": [0],
            "sentences": [{"sent_id": 0, "sent": sentence, "raw": sentence, "tokens": sentence.split()}],
        }
        for split, sentence in [("train", "the cup on the right"), ("val", "left cup")]
    ]
    (folder / name / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def grefer(folder: Path, said: list[tuple[str, list[int]]], split: str = "train") -> None:
    """Sentences of gRefCOCO about the picture of ``refer``."""
    refs = [
        {
            "ref_id": number,
            "ann_id": ids,
            "image_id": 1,
            "category_id": [1],
            "split": split,
            "no_target": ids == [-1],
            "sentences": [{"sent": sentence, "raw": sentence, "tokens": [], "sent_id": number}],
        }
        for number, (sentence, ids) in enumerate(said)
    ]
    text(folder / "grefcoco" / "grefs(unc).json", refs)
