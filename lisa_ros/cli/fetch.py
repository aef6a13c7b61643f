"""``lisa fetch``: download a model, pin its revision, convert pickles to safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.grounded.weights.fetch import fetch_engine
from lisa_ros.grounded.weights.presets import is_preset, listing, preset_named
from lisa_ros.lisa.weights.fetch import fetch, is_clip
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        help="a repository of the Hugging Face hub, such as xinlai/LISA-7B-v1, a folder, or a preset of --list",
    )
    parser.add_argument("--list", action="store_true", help="print the presets, with sizes and licences")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: from the name of the source)"
    )
    parser.add_argument("--revision", help="branch, tag or commit to download (default: the newest)")


def main(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print(listing())
        return 0
    if arguments.source is None:
        raise ConfigError("no model; name a repository, a folder, or a preset of 'lisa fetch --list'")
    if is_preset(arguments.source) and not Path(arguments.source).is_dir():
        return _fetch_preset(arguments)
    try:
        folder = fetch(arguments.source, arguments.out, revision=arguments.revision, say=_say)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue")
        raise
    if is_clip(folder):
        print(f"ready: {escaped(folder)}; it is a CLIP tower: use it with --vision-tower {escaped(folder)}")
        return 0
    print(f'ready: lisa segment photo.jpg "the thing to drink from" --model {escaped(folder)}')
    return 0


def _fetch_preset(arguments: argparse.Namespace) -> int:
    if arguments.revision is not None:
        raise ConfigError("--revision is of one repository; a preset has several: leave it out")
    preset = preset_named(arguments.source)
    try:
        folder = fetch_engine(preset, arguments.out, say=_say)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue")
        raise
    server = "" if preset.locator.repository else " --option endpoint=http://gpu-box:8000/v1"
    print(f"ready: lisa check {escaped(folder)}{server}")
    return 0


def _say(text: str) -> None:
    print(escaped(text))
