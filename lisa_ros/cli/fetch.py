"""``lisa fetch``: download a model, pin its revision, convert pickles to safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.lisa.weights.fetch import fetch, is_clip
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a repository of the Hugging Face hub, such as xinlai/LISA-7B-v1, or a folder")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: from the name of the source)"
    )
    parser.add_argument("--revision", help="branch, tag or commit to download (default: the newest)")


def main(arguments: argparse.Namespace) -> int:
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


def _say(text: str) -> None:
    print(escaped(text))
