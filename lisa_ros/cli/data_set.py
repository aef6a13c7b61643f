"""The arguments ``--data``, ``--split``, ... that several verbs share, and reading the data set that they name."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import Picture, read_pictures

FORMATS = (
    "scenes of `lisa scenes`, ReasonSeg, or RefCOCO and its relatives (RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO, Ref-ZOM, "
    "R-RefCOCO, FP-RefCOCO). --split, --split-by and --images are for RefCOCO and its relatives."
)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :class:`Pictures` reads."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", help="val (the default), testA, testB, test, ...")
    parser.add_argument("--split-by", help="author of the split (default: umd for refcocog, else unc)")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: images/ beside the data set)")
    parser.add_argument("--limit", type=positive_count, default=None, help="use only the first LIMIT pictures")


def positive_count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


class Pictures:
    """The pictures with at least one command, one after another. On a terminal it shows how many are done.

    Attributes:
        done: Number of pictures that were used.

    Raises:
        ConfigError: The folder has none; before a model is loaded.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.done = 0
        pictures = read_pictures(
            arguments.data, split=arguments.split, split_by=arguments.split_by, images=arguments.images
        )
        self._pictures = (picture for picture in islice(pictures, arguments.limit) if picture.examples)
        first = next(self._pictures, None)
        if first is None:
            raise ConfigError(
                f"{arguments.data} has no picture with a command; use a folder of `lisa scenes`, of ReasonSeg's pairs "
                "or of RefCOCO's family"
            )
        self._first = first

    def __iter__(self) -> Iterator[Picture]:
        begun = time.monotonic()
        for picture in chain([self._first], self._pictures):
            yield picture
            self.done += 1
            if sys.stderr.isatty():
                print(f"\r{self.done} pictures, {time.monotonic() - begun:.0f} s", end="", file=sys.stderr, flush=True)
