"""``lisa proposals``: show the masks of a picture that there are to choose from, numbered."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.cli import model
from lisa_ros.cli.segment import save_picture
from lisa_ros.engine.api import MaskCrop, Proposals, ProposesMasks
from lisa_ros.engine.options import parse_options
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.perception.packed_crops import packed
from lisa_ros.perception.photo import read_photo
from lisa_ros.plain_text import escaped, escaped_json

FOUND, NONE = 0, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit codes: 0 there are proposals; 3 there are none; 1 error; 2 wrong usage."
    parser.add_argument("image", help="picture file; - reads standard input")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the picture with the numbered masks drawn on it"
    )
    parser.add_argument("--json", metavar="FILE", help="write scores, names and boxes; - prints only JSON")
    proposing = parser.add_argument_group("proposer")
    proposing.add_argument(
        "--proposer",
        metavar="NAME",
        help="drawn, sam, given, or package.module:callable (default: drawn for the demo model, else sam)",
    )
    proposing.add_argument(
        "--proposer-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the proposer, such as points=16 or masks=labels.png; may be repeated",
    )
    proposing.add_argument("--order", default=None, help="area (the default), score, position or proposer")
    proposing.add_argument("--limit", type=int, default=None, metavar="N", help="show the first N only (default: all)")
    model.add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Propose masks of one picture. Returns the exit code."""
    settings = parse_options(arguments.proposer_option)
    model.options(arguments)
    check_outputs({"--out": arguments.out, "--json": None if arguments.json in (None, "-") else Path(arguments.json)})
    Image.init()
    if arguments.out is not None and Image.EXTENSION.get(arguments.out.suffix.lower()) not in Image.SAVE:
        raise ConfigError(f"--out {arguments.out}: this format cannot be written; use .png or .jpg")
    rgb = read_photo(arguments.image)
    engine = model.load(arguments)
    encoded = engine.encode(rgb)
    propose = _proposing(engine, arguments, settings)
    begun = time.perf_counter()
    proposals = propose(encoded)
    seconds = time.perf_counter() - begun
    crops = [replace(crop, label=number) for number, crop in enumerate(packed(proposals), 1)]
    scores = [crop.score for crop in crops] if proposals.scores is None else [float(one) for one in proposals.scores]
    crops = [replace(crop, score=score) for crop, score in zip(crops, scores, strict=True)]
    phrases = list(proposals.phrases) or [""] * len(crops)
    if arguments.json != "-":
        for crop, phrase in zip(crops, phrases, strict=True):
            print(_line(crop, phrase))
        print(f"{len(crops)} proposals in {seconds:.2f} s")
    if arguments.out is not None:
        from lisa_ros.perception.overlay import draw_numbers  # here: it imports OpenCV

        save_picture(draw_numbers(rgb, crops), arguments.out)
        if arguments.json != "-":
            print(f"wrote {escaped(arguments.out)}")
    if arguments.json:
        _write_json(arguments.json, crops, phrases)
    return FOUND if crops else NONE


def _proposing(
    engine: SupportedEngine, arguments: argparse.Namespace, settings: dict[str, object]
) -> Callable[[Encoded], Proposals]:
    """What proposes: the engine itself, if it chooses and no other proposer is named; else a proposer."""
    from lisa_ros.extractive.proposers.proposer import Arrangement  # here: it imports torch
    from lisa_ros.extractive.proposers.registry import default_proposer, load_proposer
    from lisa_ros.lisa.segmenter import Segmenter

    arrangement = Arrangement(arguments.order or Arrangement.order, arguments.limit or 0)
    own = engine.engine
    if isinstance(own, ProposesMasks) and not arguments.proposer and not settings:
        return lambda encoded: arrangement.of(engine.proposals(encoded))
    if not isinstance(own, Segmenter):
        raise ConfigError(
            f"{engine.info.name} has no frames that a proposer can use; leave --model out, or name a LISA"
        )
    proposer = load_proposer(arguments.proposer or default_proposer(own), own, settings)
    return lambda encoded: arrangement.of(proposer.propose(encoded.value))


def _line(crop: MaskCrop, phrase: str) -> str:
    name = f" {escaped(phrase)}" if phrase else ""
    return (
        f"{crop.label:4d}{name}: score {crop.score:.2f}, {crop.area} pixels, box {crop.width} x {crop.height} at "
        f"({crop.x}, {crop.y})"
    )


def _write_json(where: str, crops: list[MaskCrop], phrases: list[str]) -> None:
    document = [
        {
            "number": crop.label,
            "phrase": phrase,
            "score": round(crop.score, 6),
            "area_px": crop.area,
            "box_px": {"x": crop.x, "y": crop.y, "width": crop.width, "height": crop.height},
        }
        for crop, phrase in zip(crops, phrases, strict=True)
    ]
    text = escaped_json(json.dumps({"proposals": document}, indent=2, ensure_ascii=False)) + "\n"
    if where == "-":
        print(text, end="")
        return
    with replacing(Path(where)) as unfinished:
        unfinished.write_text(text, "utf-8")
