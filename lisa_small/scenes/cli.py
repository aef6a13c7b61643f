"""``lisa scenes``: renders tables with exact masks and commands."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from pathlib import Path

from lisa_ros.errors import ConfigError, DeviceError
from lisa_small.scenes import SPLITS

FORMATS = ("scenes", "reasonseg")

_PICTURE = re.compile(r"\d{6}\.\w+")
"""A file in one of the folders of scenes."""

_PAIR = re.compile(r"\d{6}_\d+\.(jpg|json)")
"""A file of a pair in ReasonSeg's format."""


def picture_size(text: str) -> tuple[int, int]:
    """Parses a size: "640x480" -> (640, 480), width and height in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and 32 <= int(width) <= 1280 and 32 <= int(height) <= 1280):
        raise argparse.ArgumentTypeError(f"{text!r}: a size is WIDTHxHEIGHT, 32 to 1280 pixels each, e.g. 640x480")
    return int(width), int(height)


def count(text: str) -> int:
    """Parses a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``lisa scenes``."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--count", type=count, default=100, metavar="N", help="number of scenes (100)")
    parser.add_argument("--first", type=count, default=0, metavar="N", help="number of the first scene (0)")
    parser.add_argument("--seed", type=count, default=0, metavar="S", help="same seed, same scenes (0)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="train",
        help="train; test: tables and phrasings that training never sees; novel: other models of the objects, too",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="scenes", help="scenes (scenes.jsonl, ids, depth) or ReasonSeg's pairs"
    )
    parser.add_argument(
        "--size", type=picture_size, metavar="WxH", help="all pictures of one size (mixed, about 640x480)"
    )
    parser.add_argument("--commands", type=count, default=8, metavar="N", help="conversations about a scene (8)")
    parser.add_argument("--no-depth", dest="depth", action="store_false", help="leave out the depth images")
    parser.add_argument("--smooth", action="store_true", help="no jagged edges; three times as slow")
    parser.add_argument("--preview", action="store_true", help="also write a contact sheet, DIR/preview.png")
    parser.add_argument("--overwrite", action="store_true", help="replace the scenes in DIR; nothing else may be there")


def prepare(out: Path, overwrite: bool) -> None:
    """Makes ``out`` an empty folder.

    Raises:
        ConfigError: It is not empty and ``overwrite`` is not set, or it has files that `lisa scenes` did not write.
    """
    if out.is_file():
        raise ConfigError(f"{out} is a file; --out names a folder")
    there = sorted(out.iterdir()) if out.is_dir() else []
    if there and not overwrite:
        raise ConfigError(f"{out} is not empty; name another folder or add --overwrite")
    for path in there:
        if (foreign := _foreign(path)) is not None:
            raise ConfigError(f"{foreign} is not of `lisa scenes`, so {out} is left as it is; name another folder")
    for path in there:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _foreign(path: Path) -> Path | None:
    """The first file at or in ``path`` that `lisa scenes` did not write; None if there is none."""
    if path.name in ("images", "ids", "depth") and path.is_dir() and (path.parent / "scenes.jsonl").is_file():
        return next((inside for inside in sorted(path.iterdir()) if not _PICTURE.fullmatch(inside.name)), None)
    pair = _PAIR.fullmatch(path.name) and path.with_suffix(".json").is_file() and path.with_suffix(".jpg").is_file()
    return None if pair or path.name in ("scenes.jsonl", "preview.png") else path


def main(arguments: argparse.Namespace) -> int:
    """Writes the scenes. Returns the exit status.

    Raises:
        ConfigError: The output folder cannot be used, or MuJoCo is not installed.
        DeviceError: OpenGL is not available.
    """
    try:
        from lisa_small.scenes.dataset import take_scenes, write_scenes
        from lisa_small.scenes.preview import ContactSheet
        from lisa_small.scenes.reasonseg import save_pairs
    except ModuleNotFoundError as error:
        raise ConfigError(f"MuJoCo renders the scenes and is not installed: pip install mujoco ({error})") from error
    except (ImportError, AttributeError, OSError) as error:  # PyOpenGL raises any of these without libEGL
        raise DeviceError(
            f"no OpenGL without a screen: {error}; on Debian and Ubuntu install libegl1 libegl-mesa0 libgl1-mesa-dri"
        ) from error
    prepare(arguments.out, arguments.overwrite)
    began, sheet, pairs = time.monotonic(), ContactSheet(), 0
    scenes = take_scenes(
        arguments.seed,
        range(arguments.first, arguments.first + arguments.count),
        split=arguments.split,
        size=arguments.size,
        depth=arguments.depth and arguments.format == "scenes",
        conversations=arguments.commands,
        smooth=arguments.smooth,
    )
    if arguments.format == "scenes":
        scenes = write_scenes(arguments.out, scenes)
    number = 0
    for number, (scene, frame) in enumerate(scenes, 1):
        if arguments.format == "reasonseg":
            pairs += save_pairs(arguments.out, scene, frame)
        if arguments.preview:
            sheet.add(scene, frame)
        if sys.stderr.isatty() or number % 100 == 0:
            rate = number / (time.monotonic() - began)
            print(f"\r{number}/{arguments.count} scenes, {rate:.1f} a second", end="", file=sys.stderr, flush=True)
    if number:
        print(file=sys.stderr)
    if arguments.preview and sheet.cells:
        sheet.image().save(arguments.out / "preview.png")
    what = f"{pairs} pictures with commands" if arguments.format == "reasonseg" else f"{number} scenes"
    print(f"{arguments.out}: {what} in {time.monotonic() - began:.0f} s")
    return 0
