"""Which model answers: the arguments that several verbs share, and loading the engine they name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

import lisa_ros
from lisa_ros.engine.api import TARGETS, Ask
from lisa_ros.engine.options import PRECISIONS, parse_options
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.process_tuning import keep_freed_buffers

SHORTHANDS = ("vision_tower", "conversation")
"""Engine options with an argument of their own."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`load` reads."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="", metavar="MODEL", help="folder, URL, or package.module:callable (default: the demo model)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument("--precision", default="auto", help=", ".join(PRECISIONS))
    model.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the engine; may be repeated"
    )
    model.add_argument("--vision-tower", metavar="DIR", help="CLIP tower, where the checkpoint's own is not found")
    model.add_argument("--conversation", help="template: llava_v1, v1, llava_llama_2 or compact (default: as trained)")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The engine's options. Raises ConfigError for one that is malformed or given twice."""
    given = parse_options(arguments.option)
    for name in SHORTHANDS:
        value = getattr(arguments, name)
        if value is None:
            continue
        if name in given:
            raise ConfigError(f"option '{name}' is given by --option and by --{name.replace('_', '-')}; give it once")
        given[name] = value
    return given


def load(arguments: argparse.Namespace) -> SupportedEngine:
    """Load the engine that the arguments name, with a progress bar. Raises what ``load_engine`` raises.

    From then on the process keeps the memory of large buffers: all that follows is answers.
    """
    with tqdm(
        desc="loading", total=100, unit="%", bar_format="{desc} {bar} {n:.0f}%", disable=None, leave=False
    ) as bar:
        engine = lisa_ros.load_engine(
            arguments.model,
            arguments.device,
            arguments.precision,
            options(arguments),
            lambda share: bar.update(100 * share - bar.n),
        )
    keep_freed_buffers()
    return engine


def warn_of_demo_model(arguments: argparse.Namespace) -> None:
    """Say on standard error what the demo model can do, where no model is named."""
    if not arguments.model:
        print(
            "lisa: the bundled demo model knows only rendered tables; for photographs run "
            "'lisa fetch xinlai/LISA-7B-v1' (15 GB), then add --model LISA-7B-v1",
            file=sys.stderr,
        )


def warn_of_ignored_command(engine: SupportedEngine, asks: Sequence[Ask]) -> None:
    """Say on standard error that a command is not used beside targets, where the engine is asked for each alone."""
    if any(ask.text and ask.targets for ask in asks) and TARGETS not in engine.info.capabilities:
        print(
            f"lisa: {engine.info.name} is asked for each --target alone, without the command; leave out one of the two",
            file=sys.stderr,
        )
