"""``lisa segment``: a picture and commands in; answers, an overlay, a mask and JSON out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.perception.masks import Segmentation, union_image
from lisa_ros.perception.photo import STDIN, read_photo

if TYPE_CHECKING:
    from lisa_ros.engine.api import Conversation
    from lisa_ros.lisa.segmenter import EncodedImage, Segmenter

FOUND = 0
NOT_FOUND = 3
_LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".webp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code: 0 found, 3 not there (for any of the commands), 1 error, 2 wrong usage."
    parser.add_argument("image", help="picture file; - reads standard input")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help="what to find, in your own words; one or more")
    outputs = parser.add_argument_group("output")
    outputs.add_argument("--out", type=Path, metavar="FILE", help="write the picture with the masks drawn over it")
    outputs.add_argument("--mask", type=Path, metavar="FILE", help="write the mask: 255 where the thing is, else 0")
    outputs.add_argument("--json", metavar="FILE", help="write answers, scores, boxes, timings; - prints only that")
    asking = parser.add_argument_group("asking")
    asking.add_argument("--explain", action="store_true", help="ask for the reason too")
    asking.add_argument("--follow-up", action="store_true", help="each command goes on from the one before")
    asking.add_argument("--interactive", action="store_true", help="go on asking for commands, as one conversation")
    asking.add_argument("--verbatim", action="store_true", help="send the command as it is, without LISA's sentences")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model answers: what :func:`load` reads."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", type=Path, metavar="DIR", help="checkpoint (default: the small model in the package)")
    model.add_argument("--vision-tower", metavar="DIR", help="CLIP tower, where the checkpoint's own is not found")
    model.add_argument("--conversation", help="template: llava_v1, v1, llava_llama_2 or compact (default: as trained)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16, int8 or nf4")


def main(arguments: argparse.Namespace) -> int:
    """Answer every command about one picture, which is encoded once."""
    _check(arguments)
    rgb = read_photo(arguments.image)
    segmenter = load(arguments)
    encoded = segmenter.encode(rgb)
    quiet = arguments.json == "-"
    history = _new_history() if arguments.follow_up or arguments.interactive else None
    answers: list[dict[str, Any]] = []
    for command in _commands(arguments):
        if len(arguments.commands) > 1 and not quiet:
            print(f"> {command}")
        try:
            result = _ask(segmenter, encoded, command, arguments, history, quiet)
        except CommandError as error:
            if not arguments.interactive:
                raise
            print(error)
            continue
        number = len(answers) + 1 if len(arguments.commands) > 1 and not arguments.interactive else None
        answers.append(_answer(command, result))
        for name, path in _write_pictures(rgb, result, arguments, number).items():
            answers[-1][name] = str(path)
            if not quiet:
                print(f"wrote {path}")
    if arguments.json:
        _write_json(arguments.json, _document(arguments.image, encoded, segmenter, answers))
    return FOUND if all(answer["found"] for answer in answers) else NOT_FOUND


# --- before the model is loaded: what would fail later fails now ---


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.commands and not arguments.interactive:
        raise CommandError('no command; say what to find: lisa segment photo.jpg "the thing to drink from"')
    if arguments.interactive and (arguments.image == STDIN or arguments.json == "-"):
        raise ConfigError("--interactive speaks on standard input and output; give files for the image and --json")
    for command in arguments.commands:
        if not command.strip():
            raise CommandError("a command is empty; say what to find, for example 'the thing to drink from'")
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
            raise ConfigError(f"{option} {path}: pictures cannot be written as '{path.suffix}'; use .png or .jpg")
    if arguments.mask is not None and arguments.mask.suffix.lower() not in _LOSSLESS:
        raise ConfigError(f"--mask {arguments.mask}: this format would blur 0 and 255; use .png")


# --- asking ---


def load(arguments: argparse.Namespace) -> Segmenter:
    """The model that the arguments name, with a progress bar."""
    from lisa_ros.lisa.segmenter import Segmenter

    with tqdm(
        desc="loading", total=100, unit="%", bar_format="{desc} {bar} {n:.0f}%", disable=None, leave=False
    ) as bar:
        return Segmenter.from_checkpoint(
            arguments.model or _default_model(),
            vision_tower=arguments.vision_tower,
            conversation=arguments.conversation,
            device=arguments.device,
            precision=arguments.precision,
            progress=lambda share: bar.update(100 * share - bar.n),
        )


def _default_model() -> Path:
    from lisa_small import model_folder

    folder = model_folder()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "this installation has no model in the box; name one with --model DIR, for example after "
            "'lisa fetch xinlai/LISA-7B-v1'"
        )
    return folder


def _new_history() -> Conversation:
    from lisa_ros.engine.api import Conversation

    return Conversation()


def _commands(arguments: argparse.Namespace) -> Iterator[str]:
    yield from arguments.commands
    while arguments.interactive:
        try:
            command = input("> ")
        except EOFError:
            return
        if command.strip():
            yield command


def _ask(
    segmenter: Segmenter,
    encoded: EncodedImage,
    command: str,
    arguments: argparse.Namespace,
    history: Conversation | None,
    quiet: bool,
) -> Segmentation:
    stream = _Stream() if sys.stdout.isatty() and not quiet else None
    result = segmenter.segment(
        encoded,
        command,
        verbatim=arguments.verbatim,
        explain=arguments.explain,
        history=history,
        on_event=stream,
    )
    if stream is not None:
        stream.finish(result.answer)
    elif not quiet:
        print(result.answer)
    if not quiet:
        _print_masks(encoded, result)
    return result


class _Stream:
    """Shows an answer while it grows."""

    def __init__(self, write: Callable[[str], object] | None = None):
        self._write = write or (lambda text: print(text, end="", flush=True))
        self._shown = ""

    def __call__(self, event: object) -> None:
        text = getattr(event, "text", None)
        if text is not None:
            # A character of several tokens reads as U+FFFD until its last token is there.
            self._show(text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def finish(self, answer: str) -> None:
        self._show(answer)
        self._write("\n")

    def _show(self, text: str) -> None:
        if text.startswith(self._shown):
            self._write(text[len(self._shown) :])
        else:
            self._write(f"\n{text}")
        self._shown = text


# --- what is told ---


def _crops(result: Segmentation) -> list[MaskCrop]:
    pairs = zip(result.masks, result.scores.tolist(), strict=True)
    return [crop_mask(mask, label, score) for label, (mask, score) in enumerate(pairs, 1)]


def _print_masks(encoded: EncodedImage, result: Segmentation) -> None:
    for crop in _crops(result):
        if crop.area == 0:
            print(f"  mask {crop.label}: empty")
            continue
        print(
            f"  mask {crop.label}: score {crop.score:.2f}, {crop.area} pixels, "
            f"box {crop.width} x {crop.height} at ({crop.x}, {crop.y}), "
            f"centre ({crop.centroid[0]:.1f}, {crop.centroid[1]:.1f})"
        )
    if not result.found:
        print("  not found: no mask")
    timings = result.timings
    first = f"{timings.first_mask_s:.2f} s to the first mask, " if timings.first_mask_s else ""
    print(f"  {first}{timings.total_s:.2f} s in all, after {encoded.encode_s:.2f} s for the picture")


def _answer(command: str, result: Segmentation) -> dict[str, Any]:
    masks = [
        {
            "label": crop.label,
            "score": round(crop.score, 6),
            "seg_probability": round(float(probability), 6),
            "area_px": crop.area,
            "box_px": {"x": crop.x, "y": crop.y, "width": crop.width, "height": crop.height},
            "centroid_px": {"x": crop.centroid[0], "y": crop.centroid[1]},
        }
        for crop, probability in zip(_crops(result), result.seg_probabilities, strict=True)
    ]
    timings = {name: round(value, 6) for name, value in vars(result.timings).items()}
    return {"command": command, "answer": result.answer, "found": result.found, "masks": masks, "timings": timings}


def _document(image: str, encoded: EncodedImage, segmenter: Segmenter, answers: list[dict[str, Any]]) -> dict[str, Any]:
    height, width = encoded.size
    return {
        "image": image,
        "width": width,
        "height": height,
        "model": segmenter.name,
        "device": str(segmenter.device),
        "precision": segmenter.precision,
        "encode_s": round(encoded.encode_s, 6),
        "answers": answers,
    }


def _write_pictures(
    rgb: NDArray[np.uint8], result: Segmentation, arguments: argparse.Namespace, number: int | None
) -> dict[str, Path]:
    """Write what was asked for. number: of the command, put into the names where there are several."""
    written: dict[str, Path] = {}
    if arguments.out is not None:
        from lisa_ros.perception.overlay import draw_overlay

        written["overlay"] = _save(draw_overlay(rgb, _crops(result)), arguments.out, number)
    if arguments.mask is not None:
        written["mask"] = _save(union_image(_crops(result), rgb.shape[:2]), arguments.mask, number)
    return written


def _save(pixels: NDArray[np.uint8], path: Path, number: int | None) -> Path:
    if number is not None:
        path = path.with_stem(f"{path.stem}-{number}")
    # Lossy formats at their best; WebP could blur a mask.
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {"quality": 95}
    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, **options)
    return path


def _write_json(where: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if where == "-":
        print(text, end="")
        return
    with replacing(Path(where)) as unfinished:
        unfinished.write_text(text, "utf-8")
