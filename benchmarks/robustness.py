"""What a robot's camera does to a picture, and what that costs: gIoU under noise, blur, light, JPEG, sizes and shapes.

    lisa scenes --out scenes/test --count 100 --seed 4052 --split test --size 640x480
    python benchmarks/robustness.py --data scenes/test [--model DIR] [--limit 60] [--json FILE]

Every change is made to the same pictures, with the same commands, in free generation. ratio: to the pictures as they
are. refused: of the commands whose target is there, and of those whose target is not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import lisa_ros
from lisa_ros.evaluation.examples import Example, Picture, read_pictures
from lisa_ros.evaluation.report import summarise
from lisa_ros.evaluation.run import evaluate

Image = NDArray[np.uint8]
Warp = Callable[[NDArray], NDArray]
"""What happens to the picture and to its masks alike."""


def noise(sigma: float) -> Callable[[Image], Image]:
    """Gaussian, in grey levels; the same for the same picture."""

    def add(rgb: Image) -> Image:
        drawn = np.random.default_rng(rgb.size).normal(0, sigma, rgb.shape)
        return _clipped(rgb + drawn)

    return add


def blur(sigma_share: float) -> Callable[[Image], Image]:
    """Gaussian; sigma is a share of the width, so that it means the same at every size."""
    return lambda rgb: cv2.GaussianBlur(rgb, (0, 0), sigma_share * rgb.shape[1])


def light(*gains: float) -> Callable[[Image], Image]:
    """Each channel times its gain, clipped as a sensor clips."""
    return lambda rgb: _clipped(rgb * np.array(gains, np.float32))


def jpeg(quality: int) -> Callable[[Image], Image]:
    def there_and_back(rgb: Image) -> Image:
        data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])

    return there_and_back


def _clipped(values: NDArray) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)


PHOTOMETRIC: dict[str, Callable[[Image], Image]] = {
    "noise 5": noise(5),
    "noise 15": noise(15),
    "noise 30": noise(30),
    "blur 0.3 % of the width": blur(0.003),
    "blur 0.6 % of the width": blur(0.006),
    "one stop darker": light(0.5, 0.5, 0.5),
    "two stops darker": light(0.25, 0.25, 0.25),
    "half a stop brighter": light(1.41, 1.41, 1.41),
    "one stop brighter": light(2, 2, 2),
    "warm white balance": light(1.2, 1.0, 0.75),
    "cold white balance": light(0.75, 1.0, 1.2),
    "JPEG quality 50": jpeg(50),
    "JPEG quality 20": jpeg(20),
    "JPEG quality 10": jpeg(10),
}


def to_width(width: int) -> Warp:
    def resized(image: NDArray) -> NDArray:
        how = cv2.INTER_NEAREST if image.ndim == 2 else cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
        return cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=how)

    return resized


def cut(rows: float, columns: float) -> Warp:
    """The middle of the picture, a share of its height and width."""

    def middle(image: NDArray) -> NDArray:
        height, width = image.shape[:2]
        y, x = round(height * (1 - rows) / 2), round(width * (1 - columns) / 2)
        return np.ascontiguousarray(image[y : height - y, x : width - x])

    return middle


SIZES: dict[str, Warp] = {"320 wide": to_width(320), "1280 wide": to_width(1280), "1920 wide": to_width(1920)}
CUTS: dict[str, Warp] = {"a strip, 8:3": cut(0.5, 1.0), "a tower, 2:3": cut(1.0, 0.5)}


def warped(example: Example, warp: Warp) -> Example:
    objects = [warp(thing.astype(np.uint8)).astype(bool) for thing in example.objects]
    return replace(example, truth=warp(example.truth), objects=objects)


def changed(picture: Picture, name: str) -> Picture:
    """The picture after the change of that name. Targets of which a cut takes a tenth are not asked for."""
    if name in PHOTOMETRIC:
        return replace(picture, rgb=PHOTOMETRIC[name](picture.rgb))
    warp = (SIZES | CUTS).get(name)
    if warp is None:
        return picture
    examples = [warped(example, warp) for example in picture.examples]
    if name in CUTS:
        pairs = zip(picture.examples, examples, strict=True)
        examples = [after for before, after in pairs if (after.truth == 1).sum() >= 0.9 * (before.truth == 1).sum()]
    return Picture(picture.name, warp(picture.rgb), examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = lisa_ros.load_engine(args.model)
    pictures = list(islice(read_pictures(args.data), args.limit))
    print(f"{len(pictures)} pictures of {args.data}, {engine.info.name}")
    print(f"{'':26}{'gIoU':>7}{'ratio':>7}{'present refused':>17}{'absent refused':>16}{'n':>6}")
    figures: dict[str, dict] = {}
    for name in ("as it is", *PHOTOMETRIC, *SIZES, *CUTS):
        outcomes = evaluate(engine, (changed(picture, name) for picture in pictures), forced=False)
        report = summarise(outcomes)
        plain = figures["as it is"]["gIoU"] if figures else report["gIoU"]
        figures[name] = {key: report[key] for key in ("gIoU", "present", "absent", "n")}
        figures[name]["ratio"] = report["gIoU"] / plain
        print(
            f"{name:26}{report['gIoU']:7.3f}{figures[name]['ratio']:7.2f}{report['present']['refused']:17.3f}"
            f"{report['absent']['refused']:16.3f}{report['n']:6}"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
