"""Whether a point or a box makes the demo model mark the meant one of two objects of one name, on rendered scenes.

``python benchmarks/pointing.py --scenes 20 --seed 40000`` prints one JSON object. ``right``: share of commands whose
mask is on the meant object (IoU above 0.5); ``other``: on the other one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.perception.masks import union_image
from lisa_small.scenes.assets import load_models
from lisa_small.scenes.dataset import photograph
from lisa_small.scenes.render import Studio

Mask = NDArray[np.bool_]
SIZE = (480, 360)  # width and height, pixels


def pairs(scenes: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], str, Mask, Mask]]:
    """Picture, name, the meant and the other object, both ways, of scenes with exactly two objects of the name."""
    studio = Studio()
    labels = [model.label for model in load_models()]
    while scenes:
        layout, frame = photograph(studio, seed, "test", SIZE)
        seed += 1
        names = [labels[placement.model] for placement in layout.placements]
        twice = sorted(name for name in set(names) if names.count(name) == 2)
        if not twice:
            continue
        scenes -= 1
        one, two = (frame.ids == number for number, name in enumerate(names, 1) if name == twice[0])
        yield frame.rgb, twice[0], one, two
        yield frame.rgb, twice[0], two, one
    studio.close()


def middle(mask: Mask) -> tuple[int, int]:
    """x and y of the pixel of a mask that is nearest to its mean."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def asks(name: str, meant: Mask, other: Mask, rng: np.random.Generator) -> dict[str, Ask]:
    rows, columns = np.nonzero(meant)
    chosen, text = rng.integers(len(rows)), f"the {name}"
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    return {
        "words only": Ask(text),
        "point in the middle": Ask(text, points=[middle(meant)]),
        "point anywhere": Ask(text, points=[(columns[chosen], rows[chosen])]),
        "point on it and not on the other": Ask(text, points=[middle(meant), middle(other)], point_labels=[1, 0]),
        "point not on the other": Ask(text, points=[middle(other)], point_labels=[0]),
        "box": Ask(text, box=box),
    }


def iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=40000)
    arguments = parser.parse_args()
    engine, rng = load_engine("", device="cpu"), np.random.default_rng(arguments.seed)
    overlaps: dict[str, list[tuple[float, float]]] = {}
    for rgb, name, meant, other in pairs(arguments.scenes, arguments.seed):
        encoded = engine.encode(rgb)
        for kind, ask in asks(name, meant, other, rng).items():
            regions = engine.ask(encoded, ask).regions
            mask = union_image([region.mask for region in regions], meant.shape) > 0
            overlaps.setdefault(kind, []).append((iou(mask, meant), iou(mask, other)))
    shares = {kind: np.mean(np.array(each) > 0.5, axis=0) for kind, each in overlaps.items()}
    table = {kind: {"right": round(float(r), 3), "other": round(float(o), 3)} for kind, (r, o) in shares.items()}
    print(json.dumps({"commands": len(overlaps["box"]), **table}))


if __name__ == "__main__":
    main()
