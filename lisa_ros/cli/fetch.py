"""``lisa fetch``: download a model, pin its revision, convert pickles to safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.grounded.weights.fetch import fetch_engine
from lisa_ros.grounded.weights.presets import is_preset, listing, preset_named
from lisa_ros.lisa.weights.fetch import fetch, is_clip
from lisa_ros.lisa.weights.released import RELEASES
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        help="a repository of the Hugging Face hub, such as xinlai/LISA-7B-v1, a folder, GSVA's .bin on this disk, "
        "or a preset of --list, such as qwen3-vl-2b+sam2.1-tiny",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: from the name of the source)"
    )
    parser.add_argument("--revision", help="branch, tag or commit to download (default: the newest)")
    parser.add_argument("--base", type=Path, help="folder of the LLaVA that a .bin was trained from")
    parser.add_argument(
        "--list", action="store_true", help="print known releases, and presets with their sizes and licences"
    )


def main(arguments: argparse.Namespace) -> int:
    if arguments.list:
        for release in RELEASES.values():
            _say(release.describe() + (f"; from {release.place}" if release.place else ""))
        print(f"\n{listing()}")
        return 0
    if arguments.source is None:
        raise ConfigError("name a repository such as xinlai/LISA-7B-v1, or a folder; --list prints known names")
    if arguments.source.endswith(".bin"):
        return _merge(arguments)
    if arguments.base is not None:
        raise ConfigError(f"--base is for a .bin file; {arguments.source} has its own configuration")
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


def _merge(arguments: argparse.Namespace) -> int:
    """A file of GSVA, which no hub has: it must be on this disk already."""
    file = Path(arguments.source).expanduser()
    if not file.is_file():
        release = RELEASES.get(file.name)
        place = f"; get it from {release.place}" if release else ""
        raise ConfigError(f"{file} is not on this machine, and the hub does not have it{place}")
    if arguments.base is None:
        raise ConfigError(
            f"{file} is a model without configuration and tokenizer; name the folder of the LLaVA that it was trained "
            "from with --base"
        )
    out = arguments.out or Path(file.stem)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another folder with --out")
    from lisa_ros.training.merge import merge_file  # here: only this needs it

    if release := RELEASES.get(file.name):
        _say(release.describe())
    merge_file(file, arguments.base, out)
    print(f'ready: lisa segment photo.jpg "the thing to drink from" --model {escaped(out)}')
    return 0


def _say(text: str) -> None:
    print(escaped(text))
