"""``lisa segment``: segment the object that a command describes in a picture; write an overlay, a mask and JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.cli import model
from lisa_ros.cli.model import load
from lisa_ros.engine.api import Answer, Ask, Conversation, EngineInfo, Event, MaskCrop, Regions, Token
from lisa_ros.engine.support import Encoded, SupportedEngine, numbered_answer, unanswered
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.perception.masks import union_image
from lisa_ros.perception.photo import STDIN, read_photo
from lisa_ros.plain_text import check_plain, escaped, escaped_json

FOUND = 0
NOT_FOUND = 3
_LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".webp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit codes: 0 each command and target has a mask; 3 at least one has none; 1 error; 2 wrong usage."
    parser.add_argument("image", help="picture file; - reads standard input")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help="what to find, in your own words; one or more")
    outputs = parser.add_argument_group("output")
    outputs.add_argument("--out", type=Path, metavar="FILE", help="write the picture with the masks drawn on it")
    outputs.add_argument("--mask", type=Path, metavar="FILE", help="write the union of the masks: 255 inside, else 0")
    outputs.add_argument("--json", metavar="FILE", help="write answers, scores, boxes, timings; - prints only JSON")
    asking = parser.add_argument_group("query")
    asking.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="name of an object to find; may be repeated"
    )
    asking.add_argument(
        "--point",
        action="append",
        default=[],
        type=point,
        metavar="X,Y[,0|1]",
        help="pixel on the object (1, the default) or not on it (0); may be repeated; LISA does not support it",
    )
    asking.add_argument(
        "--box", type=box, metavar="X,Y,W,H", help="box around the object, in pixels; LISA does not support it"
    )
    asking.add_argument("--explain", action="store_true", help="ask for the reason too")
    asking.add_argument("--follow-up", action="store_true", help="all commands are one conversation")
    asking.add_argument(
        "--interactive", action="store_true", help="read further commands from the terminal, as one conversation"
    )
    asking.add_argument(
        "--verbatim", action="store_true", help="send the command unchanged, without words that the engine adds"
    )
    model.add_model_arguments(parser)


def point(text: str) -> tuple[float, float, int]:
    """``X,Y`` or ``X,Y,LABEL`` as x and y in pixels, and label (1 on the object, 0 not on it)."""
    x, y, label = (*_numbers(text, "X,Y or X,Y,0", 2, 3), 1.0)[:3]
    if label not in (0, 1):
        raise argparse.ArgumentTypeError(f"'{text}' ends in {label:g}; use 1 for on the object, 0 for not on it")
    return x, y, int(label)


def box(text: str) -> tuple[float, float, float, float]:
    """``X,Y,W,H`` as numbers of pixels."""
    x, y, width, height = _numbers(text, "X,Y,W,H", 4, 4)
    return x, y, width, height


def _numbers(text: str, form: str, fewest: int, most: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not fewest <= len(numbers) <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is not {form} in pixels")
    return numbers


def main(arguments: argparse.Namespace) -> int:
    """Answer all commands about one picture, which is encoded once. Returns the exit code."""
    _check(arguments)
    rgb = read_photo(arguments.image)
    model.warn_of_demo_model(arguments)
    engine = load(arguments)
    history = Conversation() if arguments.follow_up or arguments.interactive else None
    asks = [_ask_of(command, arguments, history) for command in _commands(arguments)]
    for ask in asks:
        engine.check(ask)
    model.warn_of_ignored_command(engine, asks)
    begun = time.perf_counter()
    encoded = engine.encode(rgb)
    encode_s = time.perf_counter() - begun
    quiet = arguments.json == "-"
    answers: list[dict[str, Any]] = []
    for ask in _with_typed(asks, arguments, history):
        if len(asks) > 1 and not quiet:
            print(f"> {escaped(ask.text)}")
        try:
            answer = _ask(engine, encoded, ask, quiet, details=arguments.json is not None)
        except CommandError as error:
            if not arguments.interactive:
                raise
            print(escaped(error))
            continue
        if not quiet:
            _print_masks(ask, answer, encode_s)
        number = len(answers) + 1 if len(asks) > 1 and not arguments.interactive else None
        answers.append(_record(ask, answer))
        for name, path in _write_pictures(rgb, answer, arguments, number).items():
            answers[-1][name] = str(path)
            if not quiet:
                print(f"wrote {escaped(path)}")
    if arguments.json:
        _write_json(arguments.json, _document(arguments.image, rgb, engine.info, encode_s, answers))
    return FOUND if all(one["found"] and not one["absent"] and not one["unanswered"] for one in answers) else NOT_FOUND


# --- checks before the model is loaded ---


def _check(arguments: argparse.Namespace) -> None:
    if not _commands(arguments) and not arguments.interactive:
        raise CommandError('no command; add what to find: lisa segment photo.jpg "the thing to drink from"')
    if arguments.interactive and arguments.target:
        raise ConfigError("--interactive reads commands in words; leave out --target, or name the targets in a command")
    if arguments.interactive and (arguments.image == STDIN or arguments.json == "-"):
        raise ConfigError("--interactive uses standard input and output; give files for the image and --json")
    for command in arguments.commands:
        if not command.strip():
            raise CommandError("a command is empty; say what to find, for example 'the thing to drink from'")
        check_plain(command, "the command")
    for target in arguments.target:
        check_plain(target, "a target")
    model.options(arguments)
    json_file = None if arguments.json in (None, "-") else Path(arguments.json)
    outputs = {"--out": arguments.out, "--mask": arguments.mask, "--json": json_file}
    check_outputs(outputs)
    Image.init()
    for option, path in outputs.items():
        if path is None:
            continue
        if arguments.image != STDIN and path.exists() and path.samefile(arguments.image):
            raise ConfigError(f"{option} {path} would overwrite the picture; choose another name")
        ending = path.suffix.lower()
        if option != "--json" and (ending not in Image.EXTENSION or Image.EXTENSION[ending] not in Image.SAVE):
            raise ConfigError(f"{option} {path}: '{path.suffix}' is not a format that can be written; use .png or .jpg")
    if arguments.mask is not None and arguments.mask.suffix.lower() not in _LOSSLESS:
        raise ConfigError(f"--mask {arguments.mask}: this format is lossy and would change 0 and 255; use .png")


# --- asking ---


def _commands(arguments: argparse.Namespace) -> list[str]:
    """The commands; one empty command where targets, points or a box say what to find."""
    if not arguments.commands and (arguments.target or arguments.point or arguments.box):
        return [] if arguments.interactive else [""]
    return list(arguments.commands)


def _ask_of(command: str, arguments: argparse.Namespace, history: Conversation | None) -> Ask:
    return Ask(
        command,
        explain=arguments.explain,
        verbatim=arguments.verbatim,
        targets=tuple(arguments.target),
        points=[(x, y) for x, y, _ in arguments.point],
        point_labels=[label for _, _, label in arguments.point],
        box=arguments.box,
        history=history,
    )


def _with_typed(asks: list[Ask], arguments: argparse.Namespace, history: Conversation | None) -> Iterator[Ask]:
    """``asks``, then those that a person types."""
    yield from asks
    while arguments.interactive:
        try:
            command = input("> ")
        except EOFError:
            return
        if command.strip():
            yield _ask_of(command, arguments, history)


def _ask(engine: SupportedEngine, encoded: Encoded, ask: Ask, quiet: bool, details: bool) -> Answer:
    check_plain(ask.text, "the command")
    stream = _Stream() if sys.stdout.isatty() and not quiet else None
    answer = engine.ask(encoded, ask, on_event=stream, details=details)
    if stream is not None:
        stream.finish(answer.text)
    elif not quiet:
        print(escaped(answer.text))
    return numbered_answer(answer)


class _Stream:
    """Shows an answer while it grows. Numbers of masks have the colours of the overlay."""

    def __init__(self, write: Callable[[str], object] | None = None):
        self._write = write or (lambda text: print(escaped(text), end="", flush=True))
        self._paint = write is None and not os.environ.get("NO_COLOR")
        self._shown = ""
        self._regions = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Regions):
            self._regions += len(event.regions)
        if isinstance(event, Token):
            # A character of several tokens reads as U+FFFD until its last token is there; the end may be trimmed later.
            text = event.text.rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
            # Whether a number is that of a mask is known with the mask, which follows the text.
            self._show(_NUMBER_AT_END.sub("", text).rstrip())

    def finish(self, answer: str) -> None:
        self._show(answer)
        self._write("\n")

    def _show(self, text: str) -> None:
        new = text[len(self._shown) :] if text.startswith(self._shown) else f"\n{text}"
        self._shown = text
        for part in _NUMBER.split(new):
            number = int(part[1:-1]) if _NUMBER.fullmatch(part) else 0
            if self._paint and 1 <= number <= self._regions:
                from lisa_ros.perception.overlay import colour_of  # here: it imports OpenCV

                red, green, blue = colour_of(number)
                print(f"\x1b[1;38;2;{red};{green};{blue}m{part}\x1b[0m", end="", flush=True)
            elif part:
                self._write(part)


_NUMBER = re.compile(r"(\[[1-9]\d{0,2}\])")
_NUMBER_AT_END = re.compile(r"\[\d{0,3}\]?$")


# --- results ---


def _crops(answer: Answer) -> list[MaskCrop]:
    return [region.mask for region in answer.regions]


def _print_masks(ask: Ask, answer: Answer, encode_s: float) -> None:
    for region in answer.regions:
        crop, phrase = region.mask, f" ({escaped(region.phrase)})" if region.phrase else ""
        if crop.area == 0:
            print(f"  mask {crop.label}{phrase}: empty")
            continue
        print(
            f"  mask {crop.label}{phrase}: score {crop.score:.2f}, {crop.area} pixels, "
            f"box {crop.width} x {crop.height} at ({crop.x}, {crop.y}), "
            f"centre ({crop.centroid[0]:.1f}, {crop.centroid[1]:.1f})"
        )
    if answer.absent:
        print(f"  not there: {escaped(', '.join(answer.absent))}")
    elif not answer.found:
        print("  not found: no mask")
    if missing := unanswered(answer.regions, answer.absent, ask.targets):
        print(f"  not in the answer: {escaped(', '.join(missing))}")
    timings = answer.timings
    first = f"{timings.first_mask_s:.2f} s to the first mask, " if timings.first_mask_s else ""
    print(f"  {first}{timings.total_s:.2f} s in total, after {encode_s:.2f} s for the picture")


def _record(ask: Ask, answer: Answer) -> dict[str, Any]:
    """One answer for the JSON document. ``seg_probability`` is null where the engine has none."""
    regions = answer.regions
    probabilities = (answer.details or {}).get("seg_probabilities", ())
    if len(probabilities) != len(regions):
        probabilities = [None] * len(regions)
    masks = [
        {
            "label": region.mask.label,
            "phrase": region.phrase,
            "spans": [list(span) for span in region.spans],
            "score": round(region.mask.score, 6),
            "seg_probability": None if probability is None else round(float(probability), 6),
            "area_px": region.mask.area,
            "box_px": {
                "x": region.mask.x,
                "y": region.mask.y,
                "width": region.mask.width,
                "height": region.mask.height,
            },
            "centroid_px": {"x": region.mask.centroid[0], "y": region.mask.centroid[1]},
        }
        for region, probability in zip(regions, probabilities, strict=True)
    ]
    return {
        "command": ask.text,
        "targets": list(ask.targets),
        "answer": answer.text,
        "found": answer.found,
        "absent": list(answer.absent),
        "unanswered": unanswered(answer.regions, answer.absent, ask.targets),
        "masks": masks,
        "timings": {name: round(value, 6) for name, value in vars(answer.timings).items()},
    }


def _document(
    image: str, rgb: NDArray[np.uint8], info: EngineInfo, encode_s: float, answers: list[dict[str, Any]]
) -> dict[str, Any]:
    height, width = rgb.shape[:2]
    return {
        "image": image,
        "width": width,
        "height": height,
        "model": info.name,
        "device": info.device,
        "precision": info.precision,
        "encode_s": round(encode_s, 6),
        "answers": answers,
    }


def _write_pictures(
    rgb: NDArray[np.uint8], answer: Answer, arguments: argparse.Namespace, number: int | None
) -> dict[str, Path]:
    """Write the overlay and the mask where asked. ``number``: of the command, in the names where there are several."""
    written: dict[str, Path] = {}
    if arguments.out is not None:
        from lisa_ros.perception.overlay import draw_overlay

        phrases = [region.phrase for region in answer.regions]
        written["overlay"] = _save(draw_overlay(rgb, _crops(answer), phrases=phrases), arguments.out, number)
    if arguments.mask is not None:
        written["mask"] = _save(union_image(_crops(answer), rgb.shape[:2]), arguments.mask, number)
    return written


def _save(pixels: NDArray[np.uint8], path: Path, number: int | None) -> Path:
    if number is not None:
        path = path.with_stem(f"{path.stem}-{number}")
    # Lossy formats at their best; lossy WebP would change a mask.
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {"quality": 95}
    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, **options)
    return path


def _write_json(where: str, document: dict[str, Any]) -> None:
    text = escaped_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"
    if where == "-":
        print(text, end="")
        return
    with replacing(Path(where)) as unfinished:
        unfinished.write_text(text, "utf-8")
